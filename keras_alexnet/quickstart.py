"""Takes AlexNet the whole road on this machine, in a few minutes: from photos to a served model.

Draws a small release in the shape of ILSVRC2012's, makes a data set of it, proves it, trains,
evaluates, exports, serves the model and asks it about three photos that it has never seen. Each
step is a command of this project, shown before it runs, as you would type it yourself.

Example:
  python -m keras_alexnet.quickstart --run_dir=/tmp/quickstart

Stopped half-way? The same command goes on: what is finished is kept.
"""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

import psutil
from absl import flags

from data_prep import command_line, files
from data_prep.command_line import UserError

SERVER_LOG = "server.log"
_READY = re.compile(r"^ready: .* at (http://\S+)", re.MULTILINE)
_READY_SECONDS = 120
_TAIL_LINES = 15
# Between two samples of memory, at first (a command may be short) and later.
_FIRST_SAMPLE_SECONDS, _SAMPLE_SECONDS = 0.01, 0.2
_GRACE_SECONDS = 20  # for a stopped command to clean up


class MeasuredProcess:
    """A command in a new session; leaving the `with` block stops it if it still runs.

    Ctrl-C does not reach a new session: it is passed on, once, to all its processes.

    Attributes:
        peak_bytes: the largest resident memory of the command and its descendants together,
            sampled every 10 ms at first and five times a second later. Memory that processes
            share counts once for each.
        process: the running command.
    """

    def __init__(
        self, command: Sequence[str], *, stdout: IO[bytes], stderr: IO[bytes] | None = None
    ) -> None:
        """Start the command.

        Args:
            command: program and arguments.
            stdout: file for its output.
            stderr: file for its messages; None for those of this process.
        """
        self.peak_bytes = 0
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def __enter__(self) -> "MeasuredProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(signal.SIGINT)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def stop(self, how: signal.Signals) -> None:
        """End all processes of its group, if it still runs: by a signal, then by SIGKILL."""
        if self.process.poll() is None:
            self._signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_SECONDS)
            # Also when it has ended: a child that was just starting may have missed the signal.
            self._signal(signal.SIGKILL)
            self.process.wait()
        self._ended.set()
        self._sampler.join()

    def _signal(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(self.process.pid, which)

    def _sample(self) -> None:
        family: dict[int, psutil.Process] = {}
        pause = _FIRST_SAMPLE_SECONDS
        while True:
            _add_descendants(family, self.process.pid)
            self.peak_bytes = max(self.peak_bytes, sum(map(_resident_bytes, family.values())))
            if self._ended.wait(pause):
                return
            pause = min(1.5 * pause, _SAMPLE_SECONDS)


def _add_descendants(family: dict[int, psutil.Process], ancestor: int) -> None:
    """Add a process and all its descendants, and forget those that have ended.

    A process that was once seen stays in the family when its parent ends.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        family.setdefault(ancestor, psutil.Process(ancestor))
    for process in list(family.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in process.children(recursive=True):
                family.setdefault(child.pid, child)
        if not process.is_running():
            del family[process.pid]


def _resident_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):  # it may end at any moment
        return process.memory_info().rss
    return 0


@dataclasses.dataclass(frozen=True)
class Step:
    """One command, in a process of its own, whose last line of output is JSON.

    Attributes:
        name: in the table.
        module: what `python -m` runs.
        arguments: {run}, {config} and {server} stand for the run's folder, the flag file and the
            server's address.
        outcome: a format string over the command's JSON.
        is_server: it goes on running, beside the steps after it.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    outcome: str
    is_server: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    step: Step
    command: tuple[str, ...]
    seconds: float  # of a server: until it was ready
    process: MeasuredProcess
    result: Mapping[str, object]

    @property
    def peak_mib(self) -> int:
        """Memory; of a server: all the while that it ran."""
        return round(self.process.peak_bytes / 2**20)


def run_steps(steps: Sequence[Step], *, run_dir: str, config: str) -> list[Outcome]:
    """Runs commands one after another; servers among them are stopped at the end, come what may.

    Args:
        steps: what to run.
        run_dir: stands for {run}; must exist.
        config: stands for {config}.

    Returns:
        What became of each.

    Raises:
        UserError: a command failed, or did not say what it did; those after it are not run.
    """
    places = {"run": run_dir, "config": config}
    outcomes: list[Outcome] = []
    servers: list[MeasuredProcess] = []
    try:
        for number, step in enumerate(steps, start=1):
            arguments = [argument.format(**places) for argument in step.arguments]
            command = (sys.executable, "-m", step.module, *arguments)
            title = f"step {number} of {len(steps)}, {step.name}"
            print(f"\n{title}\n  {as_typed(command)}", file=sys.stderr, flush=True)
            if step.is_server:
                with open(os.path.join(run_dir, SERVER_LOG), "wb") as log:
                    servers.append(MeasuredProcess(command, stdout=log, stderr=log))
                outcome = _wait_until_ready(step, command, servers[-1], log.name, title)
                places["server"] = str(outcome.result["server"])
            else:
                outcome = _run_to_end(step, command, title)
            outcomes.append(outcome)
    finally:
        for server in servers:
            server.stop(signal.SIGTERM)
    return outcomes


def _run_to_end(step: Step, command: tuple[str, ...], title: str) -> Outcome:
    """Messages and progress bars pass through; of the output, the last line is the result."""
    with tempfile.TemporaryFile() as output:
        with MeasuredProcess(command, stdout=output) as process:
            status = process.process.wait()
            seconds = process.seconds
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()
    if status != 0:
        raise _failure(f"{title}, failed with exit status {status}", lines, command)
    try:
        result = json.loads(lines[-1])
        step.outcome.format(**result)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        problem = f"{title}, must end with a line of JSON with its figures ({error!r})"
        raise _failure(problem, lines, command) from error
    for line in lines[:-1]:
        print(line, file=sys.stderr)
    return Outcome(step, command, seconds, process, result)


def _wait_until_ready(
    step: Step, command: tuple[str, ...], server: MeasuredProcess, log: str, title: str
) -> Outcome:
    while True:
        with open(log, errors="replace") as file:
            text = file.read()
        if ready := _READY.search(text):
            return Outcome(step, command, server.seconds, server, {"server": ready[1]})
        if server.process.poll() is not None:
            problem = f"{title}, ended with exit status {server.process.returncode}"
            raise _failure(problem, text.splitlines(), command)
        if server.seconds > _READY_SECONDS:
            problem = f"{title}, was not ready after {_READY_SECONDS} seconds"
            raise _failure(problem, text.splitlines(), command)
        time.sleep(0.2)


def _failure(problem: str, lines: Sequence[str], command: tuple[str, ...]) -> UserError:
    """Shows the last lines of output, and gives the line to end with."""
    for line in lines[-_TAIL_LINES:]:
        print(line, file=sys.stderr)
    return UserError(f"{problem}; see above, and try it by itself: {as_typed(command)}")


def as_typed(command: Sequence[str]) -> str:
    """The command, as a person in the project's environment would type it."""
    return shlex.join(("python", *command[1:]))


def table(outcomes: Sequence[Outcome]) -> str:
    """What was done, a line a step, with its seconds and its peak of memory in MiB."""
    rows = [("step", "what it did", "seconds", "peak MiB")]
    for outcome in outcomes:
        told = outcome.step.outcome.format(**outcome.result)
        rows.append((outcome.step.name, told, f"{outcome.seconds:.1f}", str(outcome.peak_mib)))
    seconds = sum(outcome.seconds for outcome in outcomes)
    peak = max(outcome.peak_mib for outcome in outcomes)
    rows.append(("all", "", f"{seconds:.1f}", str(peak)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{name:{widths[0]}}  {told:{widths[1]}}  {seconds:>{widths[2]}}  {peak:>{widths[3]}}"
        for name, told, seconds, peak in rows
    )


FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
    "run_dir", "quickstart_run", "folder for all that is made", flag_values=FLAGS
)

REPORT = "quickstart.json"
JUDGED = "evaluate, 1 view"  # the step whose top-1 has to reach
MINIMUM_TOP1 = 0.6  # of ten classes; chance is 0.1


STEPS = (
    Step(
        "rehearsal",
        "data_prep.rehearsal",
        # The size of it all: 4,000 photos to learn from, 500 to judge by.
        ("--output_dir={run}/release", "--images_per_class=400", "--validation_per_class=50"),
        "{train_images:,} train and {validation_images:,} validation photos in tars",
    ),
    Step(
        "prepare",
        "data_prep.prepare",
        (
            "--source=ilsvrc2012",
            "--input_dir={run}/release",
            "--output_dir={run}/data",
            "--train_shards=8",
            "--validation_shards=2",
        ),
        "{train_records:,} and {validation_records:,} records, {rejected} photos rejected",
    ),
    Step(
        "verify",
        "data_prep.verify",
        ("--data_dir={run}/data",),
        "{train_records:,} and {validation_records:,} records read again, {faults} faults",
    ),
    Step(
        "train",
        "keras_alexnet.train",
        ("--flagfile={config}", "--data_dir={run}/data", "--workdir={run}/workdir"),
        "{epochs} epochs, best top-1 {top1:.1%}",
    ),
    Step(
        JUDGED,
        "keras_alexnet.evaluate",
        ("--workdir={run}/workdir", "--data_dir={run}/data", "--views=1"),
        "top-1 {top1:.1%}, top-5 {top5:.1%} of {images} photos",
    ),
    Step(
        "evaluate, 10 views",
        "keras_alexnet.evaluate",
        ("--workdir={run}/workdir", "--data_dir={run}/data", "--views=10"),
        "top-1 {top1:.1%}, top-5 {top5:.1%} of {images} photos",
    ),
    Step(
        "export",
        "keras_alexnet.export",
        (
            "--workdir={run}/workdir",
            "--data_dir={run}/data",
            "--export_dir={run}/models/alexnet",
        ),
        "version {version}, {warmup_requests} warm-up requests",
    ),
    Step(
        "serve",
        "keras_alexnet.serving.local_server",
        ("--model_dir={run}/models/alexnet", "--rest_port=0", "--grpc_port=0"),
        "answers at {server}",
        is_server=True,
    ),
    Step(
        "classify",
        "keras_alexnet.serving.client",
        (
            "--server={server}",
            "{run}/release/held_out/star_0.jpg",
            "{run}/release/held_out/ring_0.jpg",
            "{run}/release/held_out/checks_0.jpg",
        ),
        "star, ring, checks: it says {photos[0][classes][0]}; {photos[1][classes][0]}; "
        "{photos[2][classes][0]}",
    ),
)


def guide(run_dir: str) -> str:
    """Where the files lie, and what to try next."""
    run = shlex.quote(run_dir)
    python = shlex.quote(os.path.relpath(sys.executable))
    places = {
        "release": "the release, as one downloads ImageNet's",
        "data": "the data set: TFRecords, statistics, manifest.json, rejected.jsonl",
        "workdir": "the run: checkpoints, metrics.jsonl, TensorBoard logs",
        "models/alexnet": "the model, as TF Serving serves it",
        REPORT: "all figures of this table",
    }
    lies = "\n".join(f"  {run}/{place:{len(REPORT)}}  {text}" for place, text in places.items())
    return f"""\
Where it lies:
{lies}

What to try next:
  {python} -m tensorboard.main --logdir={run}/workdir/tensorboard
  {python} -m keras_alexnet.serving.local_server --model_dir={run}/models/alexnet
  {python} -m keras_alexnet.serving.client --server=http://127.0.0.1:8501 YOUR_PHOTO.jpg
  {python} -m data_prep.prepare --help    to make a data set of your own photos, or of ImageNet"""


def check_accuracy(top1: float, minimum: float = MINIMUM_TOP1) -> None:
    """Ends the quick start if the network has not learned.

    Raises:
        UserError: fewer validation photos than the minimum, a fraction of 1, are right.
    """
    if not top1 >= minimum:  # so that NaN fails, too
        raise UserError(
            f"a validation top-1 of at least {minimum:.0%} is needed, this run has {top1:.1%}; "
            f"look at the loss in the run's workdir/metrics.jsonl, and at configs/quickstart.flags"
        )


def quickstart(*, run_dir: str, config: str) -> dict[str, object]:
    """All `STEPS`, then the table.

    Args:
        run_dir: folder for all that is made; made if absent.
        config: path of configs/quickstart.flags.

    Returns:
        run_dir, top1 (validation, one view), seconds, peak_mib.

    Raises:
        UserError: the folder cannot be made, a step failed, or the network has not learned.
    """
    report_path = os.path.join(run_dir, REPORT)
    try:
        os.makedirs(run_dir, exist_ok=True)
        # An old report must not stand beside a new run that fails.
        if os.path.exists(report_path):
            os.unlink(report_path)
    except OSError as error:
        raise UserError(
            f"--run_dir must be a folder that can be written, but {run_dir} cannot be "
            f"({error.strerror}); choose another"
        ) from error
    outcomes = run_steps(STEPS, run_dir=run_dir, config=config)
    (top1,) = (outcome.result["top1"] for outcome in outcomes if outcome.step.name == JUDGED)
    summary = {
        "run_dir": run_dir,
        "top1": top1,
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "peak_mib": max(outcome.peak_mib for outcome in outcomes),
    }
    steps = [
        {
            "step": outcome.step.name,
            "command": as_typed(outcome.command),
            "seconds": round(outcome.seconds, 1),
            "peak_mib": outcome.peak_mib,
            "result": outcome.result,
        }
        for outcome in outcomes
    ]
    files.write_file(report_path, json.dumps({**summary, "steps": steps}, indent=1) + "\n")
    print(f"\n{table(outcomes)}\n\n{guide(run_dir)}\n", file=sys.stderr, flush=True)
    check_accuracy(top1)
    return summary


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and takes the road."""
    del arguments
    clone = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    config = os.path.join(clone, "configs", "quickstart.flags")
    if not os.path.exists(config):
        raise UserError(f"{config} is needed, as in a clone of the project; run it from there")
    # A plain SIGTERM, as of `timeout` or a CI, would leave the server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return quickstart(run_dir=_RUN_DIR.value, config=os.path.relpath(config))


def run() -> None:
    """The command."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()

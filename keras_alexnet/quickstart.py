"""Take AlexNet the whole road on this machine, in a few minutes: from photos to a served model.

Draws a small release in the shape of ILSVRC2012's, makes a data set of it, proves it, trains,
evaluates, exports, serves the model and asks it about three photos that it has never seen. Each
step is a command of this project, shown before it runs, as you would type it yourself. They stand
in configs/quickstart.toml.

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
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line, files
from data_prep.command_line import UserError
from data_prep.measured_process import MeasuredProcess

FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
    "run_dir", "quickstart_run", "folder for all that is made", flag_values=FLAGS
)

STEPS = "quickstart.toml"  # in the folder of configurations
REPORT = "quickstart.json"
SERVER_LOG = "server.log"
_READY = re.compile(r"^ready: .* at (http://\S+)", re.MULTILINE)
_READY_SECONDS = 120
_TAIL_LINES = 15


@dataclasses.dataclass(frozen=True)
class Step:
    """One command, in a process of its own, whose last line of output is JSON.

    Attributes:
        name: in the table.
        command: what `python -m` runs, with its arguments; {run}, {configs} and {server} stand for
            the run's folder, the folder of configurations and the server's address.
        outcome: a format string over the command's JSON.
        is_server: it goes on running, beside the steps after it.
    """

    name: str
    command: str
    outcome: str
    is_server: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A step that was run.

    Attributes:
        step: the step.
        command: program and arguments.
        seconds: of a server until it was ready.
        process: the command; of a server it may still run.
        result: the command's JSON.
    """

    step: Step
    command: tuple[str, ...]
    seconds: float
    process: MeasuredProcess
    result: Mapping[str, object]

    @property
    def peak_mib(self) -> int:
        """Largest resident memory so far, in MiB."""
        return round(self.process.peak_bytes / 2**20)


def run_steps(steps: Sequence[Step], *, run_dir: str, configs: str) -> list[Outcome]:
    """Run commands one after another; stop the servers among them at the end, come what may.

    Args:
        steps: what to run.
        run_dir: stands for {run}; must exist.
        configs: stands for {configs}.

    Raises:
        UserError: a command failed, or did not print its figures; those after it are not run.
    """
    places = {"run": run_dir, "configs": configs}
    outcomes: list[Outcome] = []
    servers: list[MeasuredProcess] = []
    try:
        for number, step in enumerate(steps, start=1):
            words = [word.format(**places) for word in step.command.split()]
            command = (sys.executable, "-m", *words)
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
    """Run a command; its messages pass through, and the last line of its output is the result."""
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
    """Show the last lines of output, and return the error to end with."""
    for line in lines[-_TAIL_LINES:]:
        print(line, file=sys.stderr)
    return UserError(f"{problem}; see above, and try it by itself: {as_typed(command)}")


def as_typed(command: Sequence[str]) -> str:
    """Return the command as a person in the project's environment would type it."""
    return shlex.join(("python", *command[1:]))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each step, with its seconds and its peak of memory in MiB."""
    rows = [("step", "what it did", "seconds", "peak MiB")]
    for outcome in outcomes:
        done = outcome.step.outcome.format(**outcome.result)
        rows.append((outcome.step.name, done, f"{outcome.seconds:.1f}", str(outcome.peak_mib)))
    totals = _totals(outcomes)
    rows.append(("all", "", f"{totals['seconds']:.1f}", str(totals["peak_mib"])))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{name:{widths[0]}}  {done:{widths[1]}}  {seconds:>{widths[2]}}  {peak:>{widths[3]}}"
        for name, done, seconds, peak in rows
    )


def _totals(outcomes: Sequence[Outcome]) -> dict[str, float]:
    return {
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "peak_mib": max(outcome.peak_mib for outcome in outcomes),
    }


def quickstart(*, run_dir: str, configs: str) -> dict[str, object]:
    """Run all steps, write the report, and print the table and what to try next.

    Args:
        run_dir: folder for all that is made; made if absent.
        configs: folder of quickstart.toml and the flag file of the training.

    Returns:
        run_dir, top1 (validation, one view), seconds, peak_mib.

    Raises:
        UserError: a step failed, or the network has not learned.
        OSError: the folder cannot be made.
    """
    with open(os.path.join(configs, STEPS), "rb") as file:
        road = tomllib.load(file)
    report_path = os.path.join(run_dir, REPORT)
    os.makedirs(run_dir, exist_ok=True)
    # An old report must not stand beside a new run that fails.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(report_path)
    steps = [Step(**entry) for entry in road["steps"]]
    outcomes = run_steps(steps, run_dir=run_dir, configs=configs)
    (top1,) = (o.result["top1"] for o in outcomes if o.step.name == road["judged"])
    summary = {"run_dir": run_dir, "top1": top1, **_totals(outcomes)}
    lines = [
        {
            "step": outcome.step.name,
            "command": as_typed(outcome.command),
            "seconds": round(outcome.seconds, 1),
            "peak_mib": outcome.peak_mib,
            "result": outcome.result,
        }
        for outcome in outcomes
    ]
    files.write_file(report_path, json.dumps({**summary, "steps": lines}, indent=1) + "\n")
    python = shlex.quote(os.path.relpath(sys.executable))
    guide = road["guide"].format(run=shlex.quote(run_dir), python=python)
    print(f"\n{table(outcomes)}\n\n{guide}", file=sys.stderr, flush=True)
    if not top1 >= road["minimum_top1"]:  # so that NaN fails, too
        raise UserError(
            f"a validation top-1 of at least {road['minimum_top1']:.0%} is needed, this run has "
            f"{top1:.1%}; look at the loss in the run's workdir/metrics.jsonl, and at "
            "configs/quickstart.flags"
        )
    return summary


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Read the flags and take the road."""
    del arguments
    clone = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    configs = os.path.join(clone, "configs")
    if not os.path.exists(configs):
        raise UserError(f"{configs} is needed, as in a clone of the project; run it from there")
    # A plain SIGTERM, as of `timeout` or a CI, would leave the server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return quickstart(run_dir=_RUN_DIR.value, configs=os.path.relpath(configs))


def run() -> None:
    """Run the command."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()

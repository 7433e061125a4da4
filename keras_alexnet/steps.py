"""Runs commands of this project one after another, as a person would, and tells what they did.

Each is a process of its own whose last line of output is JSON; a server goes on beside those
after it. The first that fails ends it all.
"""

import dataclasses
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from data_prep.command_line import UserError
from keras_alexnet.processes import MeasuredProcess

SERVER_LOG = "server.log"
_READY = re.compile(r"^ready: .* at (http://\S+)", re.MULTILINE)
_READY_SECONDS = 120
_TAIL_LINES = 15


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

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

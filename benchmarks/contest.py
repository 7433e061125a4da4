"""Shared parts of the benchmarks: two cores, watched processes, rounds of turns, a table."""

import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import psutil
import tqdm
from absl import flags

from data_prep.command_line import UserError
from data_prep.measured_process import MeasuredProcess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CORES = 2

Turn = TypeVar("Turn", bound=Hashable)
Result = TypeVar("Result")


def repeats_flag(values: flags.FlagValues, default: int) -> flags.FlagHolder:
    """Define --repeats."""
    return flags.DEFINE_integer("repeats", default, "rounds; medians count", 1, flag_values=values)


def only_flag(values: flags.FlagValues, known: Iterable[str]) -> flags.FlagHolder:
    """Define --only, a list of contestants; by default all of them."""
    known = list(known)
    holder = flags.DEFINE_list(
        "only", known, "what to measure, separated by commas", flag_values=values
    )

    def check(names: Sequence[str]) -> bool:
        if unknown := sorted(set(names) - set(known)):
            raise flags.ValidationError(
                f"it must be some of {', '.join(known)}; {unknown[0]} is none of them"
            )
        return True

    flags.register_validator(holder, check, flag_values=values)
    return holder


def use_two_cores() -> None:
    """Bind this process, and all that it starts, to two cores.

    Raises:
        UserError: it has no two, or the system cannot bind it.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("this benchmark needs a system that can bind a process to cores: Linux")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES:
        raise UserError(f"this benchmark needs {CORES} cores; this process may use {len(cores)}")
    os.sched_setaffinity(0, cores[:CORES])
    os.environ["OMP_NUM_THREADS"] = str(CORES)


def machine() -> dict[str, object]:
    """Return cpu, cores, memory_gb, load (at the end: two of it are the benchmark's), python."""
    try:
        with open("/proc/cpuinfo") as file:
            models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        models = []
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": CORES,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a program, all its processes taken together.

    Attributes:
        seconds: from start to end.
        cpu_seconds: of all processes.
        peak_bytes: most resident memory at a time; what processes share counts in each.
        answer: the JSON of its last line, {} if it printed nothing.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    answer: dict


def run(what: str, module: str, *arguments: str, python: str = sys.executable) -> Run:
    """Run a module of this project in a process of its own.

    Args:
        what: its name in an error.
        module: its path.
        arguments: of its command line.
        python: the interpreter.

    Raises:
        UserError: it failed.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        command = [python, "-m", module, *arguments]
        with MeasuredProcess(command, stdout=output, stderr=errors, folder=ROOT) as running:
            status = running.process.wait()
            seconds = running.seconds
        output.seek(0)
        errors.seek(0)
        if status:
            reason = (errors.read().strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{what} failed: {reason}")
        lines = output.read().splitlines()
    answer = json.loads(lines[-1]) if lines else {}
    return Run(seconds, running.cpu_seconds, running.peak_bytes, answer)


def rounds(
    repeats: int, turns: Sequence[Turn], take: Callable[[Turn], Result]
) -> list[dict[Turn, Result]]:
    """Return the results of all turns, taken one after the other, round after round."""
    results = []
    with tqdm.tqdm(total=repeats * len(turns), unit="run", desc="measure") as bar:
        for _ in range(repeats):
            results.append({})
            for turn in turns:
                bar.set_postfix_str(str(turn))
                results[-1][turn] = take(turn)
                bar.update()
    return results


def median(values: Iterable[float | None], digits: int = 3) -> float | None:
    """Return the median of the values that are known; None if there is none."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), digits) if known else None


def medians(
    results: Sequence[Mapping[str, Mapping[str, float | None]]],
) -> dict[str, dict[str, float | None]]:
    """Return the median of each figure of each contestant over the rounds."""
    return {
        name: {figure: median(each[name][figure] for each in results) for figure in figures}
        for name, figures in results[0].items()
    }


def compared(values: Iterable[float | None], hoped_for: float | None = None) -> dict[str, object]:
    """Return a comparison: the median of the rounds' values, the values, and what is hoped for."""
    each = [None if value is None else round(value, 3) for value in values]
    hope = {} if hoped_for is None else {"hoped_for": hoped_for}
    return {"median": median(each), "rounds": each, **hope}


def report(
    contestants: Mapping[str, Mapping[str, object]],
    comparisons: Mapping[str, Mapping[str, object]],
    **facts: object,
) -> dict[str, object]:
    """Return a benchmark's result, and print it as a table.

    Args:
        contestants: figures by name, the same of each.
        comparisons: of `compared`, by title.
        facts: what else was measured, and with which settings.
    """
    facts = {**facts, "machine": machine()}
    columns = list(next(iter(contestants.values())))
    lines = [" ".join([f"{'':16}", *(f"{name:>18}" for name in columns)])]
    for name, figures in contestants.items():
        cells = ("-" if value is None else f"{value:,}" for value in figures.values())
        lines.append(" ".join([f"{name:16}", *(f"{cell:>18}" for cell in cells)]))
    for title, comparison in comparisons.items():
        each = ", ".join(map(str, comparison["rounds"]))
        hope = f", hoped for {comparison['hoped_for']}" if "hoped_for" in comparison else ""
        lines.append(f"{title}: {comparison['median']} ({each}){hope}")
    flat = {**facts, **facts["machine"]}
    lines.append(", ".join(f"{key} {value}" for key, value in flat.items() if key != "machine"))
    print("\n".join(lines), file=sys.stderr)
    return {"contestants": contestants, "ratios": comparisons, **facts}

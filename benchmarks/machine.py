"""The two cores that benchmarks run on, and what they are."""

import os
import platform
from collections.abc import Mapping

import psutil

from data_prep.command_line import UserError

CORES = 2


def use_two_cores() -> None:
    """Binds this process, and all that it starts, to two cores.

    Raises:
        UserError: it has no two, or the system cannot bind it.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("this benchmark needs a system that can bind a process to cores: Linux")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES:
        raise UserError(f"this benchmark needs {CORES} cores; this process may use {len(cores)}")
    os.sched_setaffinity(0, cores[:CORES])


def text(facts: Mapping[str, object]) -> str:
    """What `describe` returned, for a person."""
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def describe() -> dict[str, object]:
    """cpu, cores, memory_gb, load (at the end: two of it are the benchmark's own), python."""
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

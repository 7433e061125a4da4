"""What differs between the two stacks: speed, start-up, memory, disk.

    make environment environment-addons
    python -m benchmarks.stacks

Runs the training step of `train_contestants` (float32 and bfloat16) and the imports of a training
run under the Python of each environment, in turns, round after round, on two cores; medians of the
rounds. Seconds depend on what else the machine does: compare the stacks of one run only.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import tqdm
from absl import flags

from benchmarks import machine
from data_prep import command_line
from data_prep.command_line import UserError

FLAGS = flags.FlagValues()
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "images a step", 1, flag_values=FLAGS)
STEPS = flags.DEFINE_integer("steps", 8, "timed steps of a run", 1, flag_values=FLAGS)
WIDTH = flags.DEFINE_float("width", 1.0, "of the network", 0.01, 1.0, flag_values=FLAGS)
REPEATS = flags.DEFINE_integer("repeats", 3, "rounds; medians count", 1, flag_values=FLAGS)

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENTS = {"default": ".venv", "addons": ".venv-addons"}
CONTESTANTS = ("paper", "paper_bfloat16")


def measure(*, batch_size: int, steps: int, width: float, repeats: int) -> dict[str, object]:
    """Runs both stacks on two cores, in turns.

    Args:
        batch_size: images a step.
        steps: timed steps of a run.
        width: share of the network's maps.
        repeats: rounds.

    Returns:
        by the name of a stack: images_per_second and peak_mib of each of `CONTESTANTS`,
        start_seconds (to import what a training run needs), disk_mib (of the environment); machine.

    Raises:
        UserError: an environment is missing, or a run failed.
    """
    for folder in ENVIRONMENTS.values():
        if not os.path.exists(os.path.join(_ROOT, folder, "bin", "python")):
            raise UserError(f"{folder} is needed; run make environment environment-addons")
    machine.use_two_cores()
    rounds: list[dict[str, dict[str, float]]] = []
    arguments = (f"--batch_size={batch_size}", f"--steps={steps}", f"--width={width}")
    for _ in tqdm.trange(repeats, unit="round"):
        rounds.append({name: _round(name, arguments, batch_size) for name in ENVIRONMENTS})
    figures = {
        name: {
            **{
                key: round(statistics.median(each[name][key] for each in rounds), 2)
                for key in rounds[0][name]
            },
            "disk_mib": _disk_mib(os.path.join(_ROOT, folder)),
        }
        for name, folder in ENVIRONMENTS.items()
    }
    return {**figures, "machine": machine.describe()}


def _round(name: str, arguments: Sequence[str], batch_size: int) -> dict[str, float]:
    figures = {"start_seconds": _run(name, "keras_alexnet.training.run")[0]}
    for contestant in CONTESTANTS:
        _, peak, output = _run(name, "benchmarks.train_contestants", contestant, *arguments)
        seconds = statistics.median(json.loads(output.splitlines()[-1])["seconds"])
        figures[f"{contestant}_images_per_second"] = round(batch_size / seconds, 2)
        figures[f"{contestant}_peak_mib"] = peak
    return figures


def _run(name: str, module: str, *arguments: str) -> tuple[float, int, str]:
    """Seconds, peak memory in MiB and stdout of a module under a stack's Python."""
    python = os.path.join(_ROOT, ENVIRONMENTS[name], "bin", "python")
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            [python, "-m", module, *arguments],
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(machine.CORES)},
            stdout=output,
            stderr=errors,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # so that it is not waited for again
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            reason = (errors.read().strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{module} under {ENVIRONMENTS[name]} failed: {reason}")
        return round(seconds, 2), usage.ru_maxrss >> 10, output.read()  # Linux counts it in KiB


def _disk_mib(folder: str) -> int:
    sizes = (
        os.lstat(os.path.join(parent, name)).st_size
        for parent, _, names in os.walk(folder)
        for name in names
    )
    return sum(sizes) >> 20


def table(result: Mapping[str, object]) -> str:
    """What `measure` returned, for a person."""
    rows = [" ".join([f"{'':34}", *(f"{name:>10}" for name in ENVIRONMENTS)])]
    for key in result["default"]:
        cells = (f"{result[name][key]:>10,}" for name in ENVIRONMENTS)
        rows.append(" ".join([f"{key:34}", *cells]))
    about = machine.text(result["machine"])
    return "\n".join([*rows, about])


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and measures."""
    del arguments
    result = measure(
        batch_size=BATCH_SIZE.value,
        steps=STEPS.value,
        width=WIDTH.value,
        repeats=REPEATS.value,
    )
    print(table(result), file=sys.stderr)
    return result


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

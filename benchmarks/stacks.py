"""Compare the two stacks: speed, start-up, memory, disk.

    make environment environment-addons
    python -m benchmarks.stacks

Runs the training step of `train_contestants` (float32 and bfloat16) and the imports of a training
run under the Python of each environment, in turns, round after round, on two cores; medians of the
rounds. Seconds depend on what else the machine does: compare the stacks of one run only.
"""

import functools
import os
import statistics
from collections.abc import Sequence

from absl import flags

from benchmarks import contest
from data_prep import command_line
from data_prep.command_line import UserError

FLAGS = flags.FlagValues()
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "images a step", 1, flag_values=FLAGS)
STEPS = flags.DEFINE_integer("steps", 8, "timed steps of a run", 1, flag_values=FLAGS)
WIDTH = flags.DEFINE_float("width", 1.0, "of the network", 0.01, 1.0, flag_values=FLAGS)
REPEATS = contest.repeats_flag(FLAGS, 3)

ENVIRONMENTS = {"default": ".venv", "addons": ".venv-addons"}
CONTESTANTS = ("paper", "paper_bfloat16")


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Run both stacks on two cores, in turns.

    Returns:
        contestants: by the name of a stack, start_seconds (to import what a training run needs),
        images_per_second and peak_mib of each of `CONTESTANTS`, disk_mib (of the environment);
        machine.

    Raises:
        UserError: an environment is missing, or a run failed.
    """
    del arguments
    for folder in ENVIRONMENTS.values():
        if not os.path.exists(_python(folder)):
            raise UserError(f"{folder} is needed; run make environment environment-addons")
    contest.use_two_cores()
    sizes = (f"--batch_size={BATCH_SIZE.value}", f"--steps={STEPS.value}", f"--width={WIDTH.value}")
    rounds = contest.rounds(REPEATS.value, list(ENVIRONMENTS), functools.partial(_figures, sizes))
    return contest.report(contest.medians(rounds), {}, batch_size=BATCH_SIZE.value)


def _python(folder: str) -> str:
    return os.path.join(contest.ROOT, folder, "bin", "python")


def _figures(sizes: Sequence[str], stack: str) -> dict[str, float]:
    folder = ENVIRONMENTS[stack]
    python = _python(folder)
    start = contest.run(f"an import in {folder}", "keras_alexnet.training.run", python=python)
    figures = {"start_seconds": round(start.seconds, 2)}
    for name in CONTESTANTS:
        run = contest.run(
            *(f"{name} in {folder}", "benchmarks.train_contestants", name, *sizes), python=python
        )
        seconds = statistics.median(run.answer["seconds"])
        figures[f"{name}_photos_s"] = round(BATCH_SIZE.value / seconds, 2)
        figures[f"{name}_mib"] = run.peak_bytes >> 20
    return {**figures, "disk_mib": _disk_mib(os.path.join(contest.ROOT, folder))}


def _disk_mib(folder: str) -> int:
    sizes = (
        os.lstat(os.path.join(parent, name)).st_size
        for parent, _, names in os.walk(folder)
        for name in names
    )
    return sum(sizes) >> 20


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

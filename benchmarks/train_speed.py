r"""Compare a training step on the CPU with PyTorch's port and the best matrix product.

    pip install '.[torch]'
    python -m benchmarks.train_speed

Each contestant runs in a process of its own, with two threads on two cores, and all of them in
turns, round after round. An image rate is the batch over the median step, without the first steps.
Ours is the step that `keras_alexnet.train` runs: uint8 crops, mean, flip, colour noise, network,
weight decay, optimizer, metrics. The port's begins with float images that are ready, which spares
it what its data loader does.

  port_*          dansuh17/alexnet-pytorch (one column) in PyTorch; its dropout not in place, since
                  as printed it cannot run backward; port_bfloat16: autocast, channels last
  seed_*          the same network and optimizer here
  paper, ...      the other profiles with SGD; _bfloat16: mixed precision

`gflops` is of the products of convolutions and dense layers alone, `share` is that over the best
product of two 4096 x 4096 matrices in the same precision, which TensorFlow makes in the same run.
"""

import functools
import statistics
from collections.abc import Mapping, Sequence

from absl import flags

from benchmarks import contest, train_contestants
from benchmarks.train_contestants import CONTESTANTS
from data_prep import command_line

FLAGS = flags.FlagValues()
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "images a step", 1, flag_values=FLAGS)
STEPS = flags.DEFINE_integer("steps", 8, "timed steps of a run", 1, flag_values=FLAGS)
REPEATS = contest.repeats_flag(FLAGS, 3)
WIDTH = flags.DEFINE_float(
    "width", 1.0, "units, in parts of the full network's", 0.01, 1.0, flag_values=FLAGS
)
ONLY = contest.only_flag(FLAGS, CONTESTANTS)

# title: (what is judged, what it is compared with, the ratio that is hoped for)
RATIOS: Mapping[str, tuple[str, str, float]] = {
    "seed / port, float32, SGD": ("seed_sgd", "port_sgd", 1.9),
    "seed / port, float32, Adam": ("seed_adam", "port_adam", 1.9),
    "paper / port, float32, SGD": ("paper", "port_sgd", 2.7),
    "paper in bfloat16 / port, SGD": ("paper_bfloat16", "port_sgd", 4.4),
}


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Run the contestants on two cores, in turns.

    Returns:
        contestants: by name images_per_second (None for a matrix product), gflops, share (of the
        best product of its precision), milliseconds (median step); ratios of image rates in one
        round; batch_size and machine.

    Raises:
        UserError: no two cores, PyTorch is missing, or a contestant failed.
    """
    del arguments
    only, batch_size = ONLY.value, BATCH_SIZE.value
    contest.use_two_cores()
    sizes = (f"--batch_size={batch_size}", f"--steps={STEPS.value}", f"--width={WIDTH.value}")
    rounds = contest.rounds(REPEATS.value, only, functools.partial(_milliseconds, sizes))
    medians = {name: statistics.median(each[name] for each in rounds) for name in only}
    ratios = {
        title: contest.compared((each[other] / each[name] for each in rounds), hoped_for)
        for title, (name, other, hoped_for) in RATIOS.items()
        if {name, other} <= set(only)
    }
    return contest.report(_figures(medians), ratios, batch_size=batch_size)


def _milliseconds(sizes: Sequence[str], name: str) -> float:
    """Return the median of a run's steps."""
    run = contest.run(f"the contestant {name}", "benchmarks.train_contestants", name, *sizes)
    return 1000 * statistics.median(run.answer["seconds"])


def _figures(medians: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    work = {
        name: train_contestants.flop_of_a_step(CONTESTANTS[name], BATCH_SIZE.value, WIDTH.value)
        for name in medians
    }
    gflops = {name: work[name] / ms / 1e6 for name, ms in medians.items()}
    figures = {}
    for name, ms in medians.items():
        best = gflops.get(f"matmul_{CONTESTANTS[name].precision}")
        is_network = CONTESTANTS[name].profile is not None
        figures[name] = {
            "images_per_second": round(1000 * BATCH_SIZE.value / ms, 1) if is_network else None,
            "gflops": round(gflops[name], 1),
            "share": round(gflops[name] / best, 3) if best else None,
            "milliseconds": round(ms, 1),
        }
    return figures


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

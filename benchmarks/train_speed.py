r"""How fast a training step is on the CPU, next to PyTorch's port and the best matrix product.

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

import statistics
import sys
from collections.abc import Mapping, Sequence

import tqdm
from absl import flags

from benchmarks import machine, runs, train_contestants
from benchmarks.train_contestants import CONTESTANTS
from data_prep import command_line
from data_prep.command_line import UserError

FLAGS = flags.FlagValues()
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "images a step", 1, flag_values=FLAGS)
STEPS = flags.DEFINE_integer("steps", 8, "timed steps of a run", 1, flag_values=FLAGS)
REPEATS = flags.DEFINE_integer("repeats", 3, "rounds; medians count", 1, flag_values=FLAGS)
WIDTH = flags.DEFINE_float(
    "width", 1.0, "units, in parts of the full network's", 0.01, 1.0, flag_values=FLAGS
)
ONLY = flags.DEFINE_list(
    "only", list(CONTESTANTS), "what to measure, separated by commas", flag_values=FLAGS
)

# title: (what is judged, what it is compared with, the ratio that is hoped for)
RATIOS: Mapping[str, tuple[str, str, float]] = {
    "seed / port, float32, SGD": ("seed_sgd", "port_sgd", 1.9),
    "seed / port, float32, Adam": ("seed_adam", "port_adam", 1.9),
    "paper / port, float32, SGD": ("paper", "port_sgd", 2.7),
    "paper in bfloat16 / port, SGD": ("paper_bfloat16", "port_sgd", 4.4),
}


def measure(
    *, batch_size: int, steps: int, repeats: int, width: float, only: Sequence[str]
) -> dict[str, object]:
    """Runs the contestants on two cores, in turns.

    Args:
        batch_size: images a step.
        steps: timed steps of a run.
        repeats: rounds.
        width: units, in parts of the full network's.
        only: of `CONTESTANTS`.

    Returns:
        contestants: by name images_per_second (None for a matrix product), gflops, share (of the
        best product of its precision), milliseconds (median step); ratios: by title, the median of
        the rounds, the rounds, and what is hoped for; machine.

    Raises:
        UserError: no such contestant, no two cores, PyTorch is missing, or a contestant failed.
    """
    if unknown := sorted(set(only) - set(CONTESTANTS)):
        known = ", ".join(CONTESTANTS)
        raise UserError(f"--only must be some of {known}; {unknown[0]} is none of them")
    machine.use_two_cores()
    rounds = []
    with tqdm.tqdm(total=repeats * len(only), unit="run", desc="measure") as bar:
        for _ in range(repeats):
            milliseconds = {}
            for name in only:
                bar.set_postfix_str(name)
                milliseconds[name] = 1000 * _run(name, batch_size, steps, width)
                bar.update()
            rounds.append(milliseconds)
    return {
        "contestants": _figures(rounds, only, batch_size, width),
        "ratios": _ratios(rounds, only),
        "batch_size": batch_size,
        "machine": machine.describe(),
    }


def _run(name: str, batch_size: int, steps: int, width: float) -> float:
    """The median seconds of a step."""
    arguments = (f"--batch_size={batch_size}", f"--steps={steps}", f"--width={width}")
    timed = runs.call(
        f"the contestant {name}",
        "benchmarks.train_contestants",
        name,
        *arguments,
        environment={"OMP_NUM_THREADS": str(machine.CORES)},
    )
    return statistics.median(timed["seconds"])


Round = dict[str, float]  # milliseconds a step, by contestant


def _figures(
    rounds: list[Round], only: Sequence[str], batch_size: int, width: float
) -> dict[str, dict[str, float | None]]:
    medians = {name: statistics.median(run[name] for run in rounds) for name in only}
    gflops = {
        name: train_contestants.flop_of_a_step(CONTESTANTS[name], batch_size, width) / ms / 1e6
        for name, ms in medians.items()
    }
    figures = {}
    for name, ms in medians.items():
        best = gflops.get(f"matmul_{CONTESTANTS[name].precision}")
        is_network = CONTESTANTS[name].profile is not None
        figures[name] = {
            "images_per_second": round(1000 * batch_size / ms, 1) if is_network else None,
            "gflops": round(gflops[name], 1),
            "share": round(gflops[name] / best, 3) if best else None,
            "milliseconds": round(ms, 1),
        }
    return figures


def _ratios(rounds: list[Round], only: Sequence[str]) -> dict[str, dict[str, object]]:
    """Image rates over one another, of runs of one round."""
    ratios = {}
    for title, (name, other, hoped) in RATIOS.items():
        if name in only and other in only:
            each = [round(run[other] / run[name], 2) for run in rounds]
            ratios[title] = {
                "median": statistics.median(each),
                "rounds": each,
                "hoped_for": hoped,
            }
    return ratios


def table(result: Mapping[str, object]) -> str:
    """What `measure` returned, for a person."""
    columns = ("images/s", "GFLOP/s", "share", "ms a step")
    lines = [" ".join([f"{'':16}", *(f"{column:>10}" for column in columns)])]
    for name, figures in result["contestants"].items():
        cells = ("-" if value is None else f"{value:,}" for value in figures.values())
        lines.append(" ".join([f"{name:16}", *(f"{cell:>10}" for cell in cells)]))
    for title, ratio in result["ratios"].items():
        each = ", ".join(map(str, ratio["rounds"]))
        lines.append(f"{title}: {ratio['median']} ({each}), hoped for {ratio['hoped_for']}")
    about = machine.text(result["machine"])
    return "\n".join([*lines, f"batch {result['batch_size']}; {about}"])


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and measures."""
    del arguments
    result = measure(
        batch_size=BATCH_SIZE.value,
        steps=STEPS.value,
        repeats=REPEATS.value,
        width=WIDTH.value,
        only=ONLY.value,
    )
    print(table(result), file=sys.stderr)
    return result


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

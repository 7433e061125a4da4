r"""How fast photos come into training on the CPU, next to a bare loop and to PyTorch's port.

    pip install '.[torch]'
    python -m benchmarks.input_speed --photos_dir=PHOTOS

PHOTOS is a folder, or a tar, of JPEGs. A few hundred are enough: links repeat them. Without it, 200
photos are rendered that have the commonest size of ImageNet's, 500 x 375.

  torch_loader   dansuh17/alexnet-pytorch's input: originals through PIL, centre crop, float, two
                 workers
  bare           JPEG records: parse two features, decode one fixed window, batch; nothing is random
  ours           the same records through `inputs.pipeline.train_dataset`, profile paper: shuffled,
                 random crops, flips and noise drawn, each in the order that the seed decides
  bare_raw, ours_raw    the same two on records of raw pixels

Each contestant runs in a process of its own, on two cores, and all of them in turns, round after
round; what comes before the first batch is not counted. Ours draws from a buffer of 1,024 records,
as 8,192 would be most of so small a data set. Seconds depend on what else the machine does; ratios
are of runs of one round, and those of CPU time suffer less from it.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence

import tqdm
from absl import flags

from benchmarks import input_contestants, machine, prepare_runs, runs
from benchmarks.input_contestants import CONTESTANTS
from data_prep import command_line
from data_prep.command_line import UserError

FLAGS = flags.FlagValues()
PHOTOS_DIR = flags.DEFINE_string(
    "photos_dir",
    None,
    "Folder of photos, or of folders of photos, or a tar of them; without it, photos are rendered.",
    flag_values=FLAGS,
)
PHOTOS = flags.DEFINE_integer(
    "photos",
    8192,
    "How many photos the data sets hold.",
    lower_bound=2,
    flag_values=FLAGS,
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "photos a batch", 1, flag_values=FLAGS)
SECONDS = flags.DEFINE_float("seconds", 10.0, "how long a run is timed", 0.0, flag_values=FLAGS)
REPEATS = flags.DEFINE_integer("repeats", 5, "rounds; medians count", 1, flag_values=FLAGS)
ONLY = flags.DEFINE_list(
    "only", list(CONTESTANTS), "what to measure, separated by commas", flag_values=FLAGS
)
WORK_DIR = flags.DEFINE_string(
    "work_dir",
    None,
    "Folder for what is written, about 250 kB a photo; default: the system's for such files.",
    flag_values=FLAGS,
)

_SHARDS = 16
# title: (what is judged, what it is compared with, the ratio that is hoped for)
RATIOS: Mapping[str, tuple[str, str, float]] = {
    "ours / PyTorch's loader": ("ours", "torch_loader", 5.0),
    "ours / bare": ("ours", "bare", 0.85),
    "ours, raw / bare, raw": ("ours_raw", "bare_raw", 0.85),
}


def measure(
    *,
    photos_dir: str | None,
    photos: int,
    batch_size: int,
    seconds: float,
    repeats: int,
    only: Sequence[str],
    work_dir: str | None = None,
) -> dict[str, object]:
    """Prepares the photos and runs the contestants on two cores, in turns.

    Args:
        photos_dir: of `PHOTOS_DIR`; None renders photos.
        photos: how many the data sets hold, at least a batch.
        batch_size: photos a batch.
        seconds: how long a run is timed.
        repeats: rounds.
        only: of `CONTESTANTS`.
        work_dir: an existing folder, where a folder is made and removed.

    Returns:
        contestants: by name photos_per_second and cpu_ms_per_photo, medians of the rounds; ratios:
        by title, the median of the rounds, the rounds, that of CPU time, and what is hoped for;
        photos, batch_size and machine.

    Raises:
        UserError: no such contestant, no photos, no two cores, PyTorch is missing, or a contestant
            failed.
    """
    if unknown := sorted(set(only) - set(CONTESTANTS)):
        known = ", ".join(CONTESTANTS)
        raise UserError(f"--only must be some of {known}; {unknown[0]} is none of them")
    machine.use_two_cores()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="input_speed.", dir=work_dir) as folder:
        _prepare(folder, photos_dir, photos)
        with tqdm.tqdm(total=repeats * len(only), unit="run", desc="measure") as bar:
            for _ in range(repeats):
                figures = {}
                for name in only:
                    bar.set_postfix_str(name)
                    figures[name] = _run(name, folder, batch_size, seconds)
                    bar.update()
                rounds.append(figures)
    return {
        "contestants": {
            name: {
                "photos_per_second": round(
                    statistics.median(run[name]["photos_per_second"] for run in rounds)
                ),
                "cpu_ms_per_photo": round(
                    statistics.median(run[name]["cpu_ms_per_photo"] for run in rounds), 3
                ),
            }
            for name in only
        },
        "ratios": _ratios(rounds, only),
        "photos": photos,
        "batch_size": batch_size,
        "machine": machine.describe(),
    }


def _prepare(folder: str, photos_dir: str | None, photos: int) -> None:
    """Fills the folder as `input_contestants` wants it."""
    originals = prepare_runs.originals(folder, photos_dir)
    # One more: the first is to validate with.
    prepare_runs.link(os.path.join(folder, input_contestants.PHOTOS), originals, photos + 1)
    for storage in ("jpeg", "raw"):
        runs.call(
            f"data_prep.prepare --storage={storage}",
            "data_prep.prepare",
            f"--storage={storage}",
            "--source=class_folders",
            f"--input_dir={os.path.join(folder, input_contestants.PHOTOS)}",
            f"--output_dir={os.path.join(folder, storage)}",
            f"--train_shards={_SHARDS}",
            "--validation_shards=1",
        )


Figures = dict[str, float]  # of a run: photos_per_second, cpu_ms_per_photo


def _run(name: str, folder: str, batch_size: int, seconds: float) -> Figures:
    """One run of a contestant."""
    arguments = (name, folder, f"--batch_size={batch_size}", f"--seconds={seconds}")
    timed = runs.call(f"the contestant {name}", "benchmarks.input_contestants", *arguments)
    return {
        "photos_per_second": timed["photos"] / timed["seconds"],
        "cpu_ms_per_photo": 1000 * timed["cpu_seconds"] / timed["photos"],
    }


def _ratios(rounds: list[dict[str, Figures]], only: Sequence[str]) -> dict[str, dict[str, object]]:
    """Photo rates over one another, of runs of one round, and the same of CPU time."""
    ratios = {}
    for title, (name, other, hoped) in RATIOS.items():
        if name in only and other in only:
            each = [
                round(run[name]["photos_per_second"] / run[other]["photos_per_second"], 3)
                for run in rounds
            ]
            of_cpu = [
                run[other]["cpu_ms_per_photo"] / run[name]["cpu_ms_per_photo"] for run in rounds
            ]
            ratios[title] = {
                "median": statistics.median(each),
                "rounds": each,
                "median_of_cpu": round(statistics.median(of_cpu), 3),
                "hoped_for": hoped,
            }
    return ratios


def table(result: Mapping[str, object]) -> str:
    """What `measure` returned, for a person."""
    columns = ("photos/s", "CPU ms/photo")
    lines = [" ".join([f"{'':14}", *(f"{column:>12}" for column in columns)])]
    for name, figures in result["contestants"].items():
        cells = (f"{value:,}" for value in figures.values())
        lines.append(" ".join([f"{name:14}", *(f"{cell:>12}" for cell in cells)]))
    for title, ratio in result["ratios"].items():
        each = ", ".join(map(str, ratio["rounds"]))
        lines.append(
            f"{title}: {ratio['median']} ({each}), of CPU time {ratio['median_of_cpu']}, "
            f"hoped for {ratio['hoped_for']}"
        )
    about = machine.text(result["machine"])
    return "\n".join(
        [*lines, f"{result['photos']:,} photos; batch {result['batch_size']}; {about}"]
    )


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and measures."""
    del arguments
    result = measure(
        photos_dir=PHOTOS_DIR.value,
        photos=PHOTOS.value,
        batch_size=BATCH_SIZE.value,
        seconds=SECONDS.value,
        repeats=REPEATS.value,
        only=ONLY.value,
        work_dir=WORK_DIR.value,
    )
    print(table(result), file=sys.stderr)
    return result


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

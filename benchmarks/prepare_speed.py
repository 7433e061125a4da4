r"""Compare the speed of data_prep.prepare on two cores with loops that do less.

    python -m benchmarks.prepare_speed --photos_dir=PHOTOS

PHOTOS holds photos, in folders or not, or is a tar. A few hundred are enough: links repeat them.
Without it, 200 photos are rendered that have the commonest size of ImageNet's, 500 x 375.

  prepare       the command: 256 x 256 JPEGs in shuffled TFRecords, statistics, checksums, audit
  bare          the same library calls to decode, resize and encode, in two processes; no output
  bare_stored   the same, and decodes what it has encoded, as prepare does for the statistics
  slim          TensorFlow slim's converter, two threads: decodes, does not resize, copies the bytes
  slim_resized  the same, but stores what prepare stores, made by TensorFlow's ops

Start-up (Python, Beam, TensorFlow, processes) is left out in the same way for all: each is run over
a few photos and over many, in turns, and a rate is the difference of photos over the difference of
seconds. What prepare does at its end (merging, audit, manifest) is thus in its rate. `doubling` is
prepare's seconds a photo with twice the photos over those with the photos asked for.

Seconds depend on what else the machine does: ratios are of runs that followed one another, and
ratios of CPU time, which suffer less from it, are given as well.
"""

import functools
import itertools
import os
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence

import cv2
import PIL
from absl import flags

from benchmarks import contest
from benchmarks import photos as photo_folders
from benchmarks.contest import Run
from data_prep import command_line

CONTESTANTS = ("prepare", "bare", "bare_stored", "slim", "slim_resized")

FLAGS = flags.FlagValues()
PHOTOS_DIR = photo_folders.photos_dir_flag(FLAGS)
PHOTOS = flags.DEFINE_integer(
    "photos",
    10_000,
    "How many photos a run converts; doubling takes twice as many.",
    lower_bound=8,
    flag_values=FLAGS,
)
REPEATS = contest.repeats_flag(FLAGS, 3)
ONLY = contest.only_flag(FLAGS, CONTESTANTS)
WORK_DIR = photo_folders.work_dir_flag(FLAGS, 150)

_FEW = 32  # photos of the runs that measure the start-up
_PHOTOS_PER_SHARD = 1250  # as ILSVRC2012 in 1,024 shards

Turn = tuple[str, int]  # a contestant and a number of photos


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Run prepare and the contestants on two cores, in turns.

    Returns:
        contestants: figures of each by name; ratios: prepare's rate over that of each, by seconds
        and by CPU time, and `doubling`; photos, original_bytes (mean), versions and machine.

    Raises:
        UserError: there are no photos, no two cores, or a contestant failed.
    """
    del arguments
    photos, names = PHOTOS.value, list(dict.fromkeys(("prepare", *ONLY.value)))
    contest.use_two_cores()
    with tempfile.TemporaryDirectory(prefix="prepare_speed.", dir=WORK_DIR.value) as folder:
        originals = photo_folders.originals(folder, PHOTOS_DIR.value)
        few = min(_FEW, photos // 4)
        for count in (few, photos, 2 * photos):
            paths = photo_folders.link(_input_dir(folder, count), originals, count)
            with open(_list_path(folder, count), "w") as file:
                file.writelines(f"{path}\n" for path in paths)
        turns = [*itertools.product(names, (few, photos)), ("prepare", 2 * photos)]
        rounds = contest.rounds(REPEATS.value, turns, functools.partial(_run, folder))
        sizes = [os.path.getsize(originals[i % len(originals)]) for i in range(photos)]
    ratios = {}
    pairs = {f"prepare / {name}": ((name, photos), ("prepare", photos)) for name in names[1:]}
    pairs["doubling"] = (("prepare", 2 * photos), ("prepare", photos))
    for title, (upper, lower) in pairs.items():
        for field, of in (("seconds", ""), ("cpu_seconds", ", CPU time")):
            costs = [
                (_cost(each, upper, few, field), _cost(each, lower, few, field)) for each in rounds
            ]
            ratios[title + of] = contest.compared(a / b if a and b else None for a, b in costs)
    return contest.report(
        {name: _figures(rounds, name, few, photos) for name in names},
        ratios,
        photos=photos,
        original_bytes=round(statistics.fmean(sizes)),
        opencv=cv2.__version__,
        pillow=PIL.__version__,
    )


def _input_dir(folder: str, count: int) -> str:
    return os.path.join(folder, f"photos_{count}")


def _list_path(folder: str, count: int) -> str:
    return os.path.join(folder, f"list_{count}.txt")


def _run(folder: str, turn: Turn) -> tuple[Run, int]:
    """Return a contestant's run and the bytes that it stored; remove what it wrote."""
    contestant, count = turn
    output_dir = os.path.join(folder, "output")
    # An even number of shards, two at the least: as many for each worker.
    shards = 2 * max(1, round(count / _PHOTOS_PER_SHARD / 2))
    if contestant == "prepare":
        run = contest.run(
            *("prepare", "data_prep.prepare", "--source=class_folders", "--validation_shards=1"),
            *(f"--input_dir={_input_dir(folder, count)}", f"--output_dir={output_dir}"),
            f"--train_shards={shards}",
        )
    else:
        os.mkdir(output_dir)
        paths = (_list_path(folder, count), output_dir)
        module = "benchmarks.prepare_contestants"
        run = contest.run(contestant, module, contestant, *paths, str(shards))
    stored = sum(e.stat().st_size for e in os.scandir(output_dir) if "-of-" in e.name)
    stored = stored or run.answer["stored_bytes"]
    shutil.rmtree(output_dir)
    os.sync()  # what this run wrote shall not slow the next one down
    return run, stored


Round = Mapping[Turn, tuple[Run, int]]


def _cost(runs: Round, turn: Turn, few: int, field: str = "seconds") -> float | None:
    """Return seconds a photo without the start-up; None where a run was too short to tell."""
    contestant, many = turn
    small, large = runs[contestant, few][0], runs[turn][0]
    difference = getattr(large, field) - getattr(small, field)
    return difference / (many - few) if difference > 0 else None


def _figures(rounds: list[Round], name: str, few: int, photos: int) -> dict[str, object]:
    """Return a contestant's figures: medians of the rounds, the peak of all."""
    seconds = contest.median((_cost(runs, (name, photos), few) for runs in rounds), 6)
    cpu = contest.median((_cost(runs, (name, photos), few, "cpu_seconds") for runs in rounds), 6)
    largest = [runs[name, photos] for runs in rounds]
    return {
        "photos_per_second": round(1 / seconds, 1) if seconds else None,
        "cpu_ms_per_photo": round(1000 * cpu, 3) if cpu else None,
        "start_up_seconds": contest.median((runs[name, few][0].seconds for runs in rounds), 2),
        "peak_memory_mb": round(max(run.peak_bytes for run, _ in largest) / 1e6),
        "stored_bytes": round(largest[0][1] / photos),
    }


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

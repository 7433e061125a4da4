r"""Compare the speed of the input pipeline on the CPU with a bare loop and PyTorch's port.

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

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence

from absl import flags

from benchmarks import contest, input_contestants
from benchmarks import photos as photo_folders
from benchmarks.input_contestants import CONTESTANTS
from data_prep import command_line

FLAGS = flags.FlagValues()
PHOTOS_DIR = photo_folders.photos_dir_flag(FLAGS)
PHOTOS = flags.DEFINE_integer(
    "photos", 8192, "How many photos the data sets hold.", 2, flag_values=FLAGS
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "photos a batch", 1, flag_values=FLAGS)
SECONDS = flags.DEFINE_float("seconds", 10.0, "how long a run is timed", 0.0, flag_values=FLAGS)
REPEATS = contest.repeats_flag(FLAGS, 5)
ONLY = contest.only_flag(FLAGS, CONTESTANTS)
WORK_DIR = photo_folders.work_dir_flag(FLAGS, 250)

_SHARDS = 16
# title: (what is judged, what it is compared with, the ratio that is hoped for)
RATIOS: Mapping[str, tuple[str, str, float]] = {
    "ours / PyTorch's loader": ("ours", "torch_loader", 5.0),
    "ours / bare": ("ours", "bare", 0.85),
    "ours, raw / bare, raw": ("ours_raw", "bare_raw", 0.85),
}


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Prepare the photos and run the contestants on two cores, in turns.

    Returns:
        contestants: by name photos_per_second and cpu_ms_per_photo, medians of the rounds; ratios
        of photo rates and of CPU time in one round; photos, batch_size and machine.

    Raises:
        UserError: no photos, no two cores, PyTorch is missing, or a contestant failed.
    """
    del arguments
    only = ONLY.value
    contest.use_two_cores()
    with tempfile.TemporaryDirectory(prefix="input_speed.", dir=WORK_DIR.value) as folder:
        _prepare(folder)
        rounds = contest.rounds(REPEATS.value, only, functools.partial(_run, folder))
    ratios = {}
    for title, (name, other, hoped_for) in RATIOS.items():
        if {name, other} <= set(only):
            for upper, lower, figure, of, hope in (
                (name, other, "photos_per_second", "", hoped_for),
                (other, name, "cpu_ms_per_photo", ", CPU time", None),
            ):
                each = (run[upper][figure] / run[lower][figure] for run in rounds)
                ratios[title + of] = contest.compared(each, hope)
    return contest.report(
        contest.medians(rounds), ratios, photos=PHOTOS.value, batch_size=BATCH_SIZE.value
    )


def _prepare(folder: str) -> None:
    """Fill the folder as `input_contestants` wants it."""
    originals = photo_folders.originals(folder, PHOTOS_DIR.value)
    input_dir = os.path.join(folder, input_contestants.PHOTOS)
    photo_folders.link(input_dir, originals, PHOTOS.value + 1)  # the first is to validate with
    for storage in ("jpeg", "raw"):
        contest.run(
            *(f"data_prep.prepare --storage={storage}", "data_prep.prepare"),
            *(f"--storage={storage}", "--source=class_folders", f"--input_dir={input_dir}"),
            *(f"--output_dir={os.path.join(folder, storage)}", f"--train_shards={_SHARDS}"),
            "--validation_shards=1",
        )


def _run(folder: str, name: str) -> dict[str, float]:
    """Return the figures of one run of a contestant."""
    timed = contest.run(
        *(f"the contestant {name}", "benchmarks.input_contestants", name, folder),
        *(f"--batch_size={BATCH_SIZE.value}", f"--seconds={SECONDS.value}"),
    ).answer
    return {
        "photos_per_second": timed["photos"] / timed["seconds"],
        "cpu_ms_per_photo": 1000 * timed["cpu_seconds"] / timed["photos"],
    }


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

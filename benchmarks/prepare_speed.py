r"""How fast data_prep.prepare is on two cores, next to loops that do less.

    python -m benchmarks.prepare_speed --photos_dir=PHOTOS

PHOTOS holds photos, in folders or not. A few hundred are enough: links repeat them. Without it, 200
photos are rendered that have the commonest size of ImageNet's, 500 x 375.

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

import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence

import cv2
import PIL
import tqdm
from absl import flags

from benchmarks import machine, prepare_runs
from benchmarks.prepare_runs import Run
from data_prep import command_line
from data_prep.command_line import UserError

FLAGS = flags.FlagValues()
PHOTOS_DIR = flags.DEFINE_string(
    "photos_dir",
    None,
    "Folder of photos, or of folders of photos; without it, photos are rendered.",
    flag_values=FLAGS,
)
PHOTOS = flags.DEFINE_integer(
    "photos",
    10_000,
    "How many photos a run converts; doubling takes twice as many.",
    lower_bound=8,
    flag_values=FLAGS,
)
REPEATS = flags.DEFINE_integer(
    "repeats", 3, "How often all runs are made; medians count.", lower_bound=1, flag_values=FLAGS
)
AGAINST = flags.DEFINE_list(
    "against",
    list(prepare_runs.CONTESTANTS),
    "What to measure prepare against, separated by commas.",
    flag_values=FLAGS,
)
WORK_DIR = flags.DEFINE_string(
    "work_dir",
    None,
    "Folder for what is written, about 150 kB a photo; default: the system's for such files.",
    flag_values=FLAGS,
)

_FEW = 32  # photos of the runs that measure the start-up


def measure(
    *,
    photos_dir: str | None,
    photos: int,
    repeats: int,
    against: Sequence[str] = prepare_runs.CONTESTANTS,
    work_dir: str | None = None,
) -> dict[str, object]:
    """Runs all contestants on two cores, in turns.

    Args:
        photos_dir: of `PHOTOS_DIR`; None renders photos.
        photos: how many a run converts, at least 8.
        repeats: rounds; the medians of the rounds are returned.
        against: of `prepare_runs.CONTESTANTS`.
        work_dir: an existing folder, where a folder is made and removed.

    Returns:
        contestants: figures of each, by name (`_figures`); ratios: by name, each of the medians and
        the rounds' own; photos, repeats, original_bytes (mean) and machine.

    Raises:
        UserError: there are no photos, no two cores, no such contestant, or one failed.
    """
    if unknown := sorted(set(against) - set(prepare_runs.CONTESTANTS)):
        known = ", ".join(prepare_runs.CONTESTANTS)
        raise UserError(f"--against must be some of {known}; {unknown[0]} is none of them")
    names = ("prepare", *against)
    machine.use_two_cores()
    with tempfile.TemporaryDirectory(prefix="prepare_speed.", dir=work_dir) as folder:
        originals = prepare_runs.listed(photos_dir) if photos_dir else prepare_runs.rendered(folder)
        few = min(_FEW, photos // 4)
        lists = {
            count: prepare_runs.link(os.path.join(folder, f"photos_{count}"), originals, count)
            for count in (few, photos, 2 * photos)
        }
        wanted = [*itertools.product((few, photos), names), (2 * photos, "prepare")]
        rounds = []
        with tqdm.tqdm(total=repeats * len(wanted), unit="run", desc="measure") as bar:
            for _ in range(repeats):
                runs = {}
                for count, contestant in wanted:
                    bar.set_postfix_str(f"{contestant}, {count} photos")
                    runs[contestant, count] = prepare_runs.run(contestant, folder, lists[count])
                    bar.update()
                rounds.append(runs)
        sizes = [os.path.getsize(originals[i % len(originals)]) for i in range(photos)]
    return {
        "contestants": {name: _figures(rounds, name, few, photos) for name in names},
        "ratios": _ratios(rounds, against, few, photos),
        "photos": photos,
        "repeats": repeats,
        "original_bytes": round(statistics.fmean(sizes)),
        "machine": {
            **machine.describe(),
            "opencv": cv2.__version__,
            "pillow": PIL.__version__,
        },
    }


Runs = dict[tuple[str, int], Run]  # of a round, by contestant and number of photos


def _cost(runs: Runs, contestant: str, few: int, many: int, field: str = "seconds") -> float | None:
    """Seconds a photo without the start-up; None where a run was too short to tell."""
    small, large = runs[contestant, few], runs[contestant, many]
    difference = getattr(large, field) - getattr(small, field)
    return difference / (many - few) if difference > 0 else None


def _figures(rounds: list[Runs], name: str, few: int, photos: int) -> dict[str, object]:
    """Of a contestant: medians of the rounds, the peak of all."""
    seconds = _median(_cost(runs, name, few, photos) for runs in rounds)
    cpu = _median(_cost(runs, name, few, photos, "cpu_seconds") for runs in rounds)
    largest = [runs[name, photos] for runs in rounds]
    return {
        "photos_per_second": round(1 / seconds, 1) if seconds else None,
        "cpu_ms_per_photo": round(1000 * cpu, 3) if cpu else None,
        "start_up_seconds": round(_median(runs[name, few].seconds for runs in rounds), 2),
        "peak_memory_mb": round(max(run.peak_bytes for run in largest) / 1e6),
        "stored_bytes_per_photo": round(largest[0].stored_bytes / photos),
    }


def _ratios(
    rounds: list[Runs], against: Sequence[str], few: int, photos: int
) -> dict[str, dict[str, object]]:
    """Rates of prepare over those of the others, and what doubling the photos does to its cost."""
    pairs = {f"prepare_over_{name}": ((name, photos), ("prepare", photos)) for name in against}
    pairs["doubling"] = (("prepare", 2 * photos), ("prepare", photos))
    ratios = {}
    for title, ((name, count), (other, other_count)) in pairs.items():
        each = {}
        for field in ("seconds", "cpu_seconds"):
            each[field] = []
            for runs in rounds:
                upper = _cost(runs, name, few, count, field)
                lower = _cost(runs, other, few, other_count, field)
                each[field].append(round(upper / lower, 3) if upper and lower else None)
        ratios[title] = {
            "median": _median(each["seconds"]),
            "rounds": each["seconds"],
            "median_of_cpu": _median(each["cpu_seconds"]),
        }
    return ratios


def _median(values: Iterator[float | None] | list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 6) if known else None


def table(result: dict[str, object]) -> str:
    """What `measure` returned, for a person."""
    columns = ("photos/s", "CPU ms/photo", "first few s", "peak MB", "stored B/photo")
    lines = [" ".join([f"{'':12}", *(f"{column:>14}" for column in columns)])]
    for name, figures in result["contestants"].items():
        cells = ("-" if value is None else f"{value:,}" for value in figures.values())
        lines.append(" ".join([f"{name:12}", *(f"{cell:>14}" for cell in cells)]))
    for name, ratio in result["ratios"].items():
        each = ", ".join(map(str, ratio["rounds"]))
        lines.append(f"{name}: {ratio['median']} ({each}), of CPU time {ratio['median_of_cpu']}")
    about = machine.text(result["machine"])
    return "\n".join([*lines, f"{result['photos']:,} photos; {about}"])


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and measures."""
    result = measure(
        photos_dir=PHOTOS_DIR.value,
        photos=PHOTOS.value,
        repeats=REPEATS.value,
        against=AGAINST.value,
        work_dir=WORK_DIR.value,
    )
    print(table(result), file=sys.stderr)
    return result


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

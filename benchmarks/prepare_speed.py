r"""How fast data_prep.prepare is on two cores, next to loops that do less.

    python -m benchmarks.prepare_speed --photos_dir=PHOTOS

PHOTOS holds a folder of photos for each class, or just photos. Few are enough: links repeat them.
Without it, 200 photos are rendered that have the commonest size of ImageNet's, 500 x 375.

  prepare       the command: 256 x 256 JPEGs in shuffled TFRecords, statistics, checksums, audit
  bare          the same library calls to decode, resize and encode, in two processes; no output
  slim          TensorFlow slim's converter, two threads: decodes, does not resize, copies the bytes
  slim_resized  the same, but stores what prepare stores, made by TensorFlow's ops

Start-up (Python, Beam, TensorFlow, processes) is left out in the same way for all: each is run over
a few photos and over many, in turns, and a rate is the difference of photos over the difference of
seconds. What prepare does at its end (merging, audit, manifest) is thus in its rate. `doubling` is
prepare's seconds a photo with twice the photos over those with the photos asked for.

Seconds depend on what else the machine does: the ratios are of runs that followed one another, and
CPU time is given as well.
"""

import dataclasses
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import PIL
import psutil
import tqdm
from absl import flags
from PIL import Image

from data_prep import command_line, drawing, rehearsal_photos
from data_prep.command_line import UserError

FLAGS = flags.FlagValues()
PHOTOS_DIR = flags.DEFINE_string(
    "photos_dir", None, "Folder of photos, or of class folders; else they are rendered.",
    flag_values=FLAGS,
)  # fmt: skip
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
WORK_DIR = flags.DEFINE_string(
    "work_dir",
    None,
    "Folder for what is written, about 150 kB a photo; default: the system's for such files.",
    flag_values=FLAGS,
)

CORES = 2
CONTESTANTS = ("prepare", "bare", "slim", "slim_resized")
_RENDERED = 200
_FEW = 32  # photos of the runs that measure the start-up
_PHOTOS_PER_SHARD = 1250  # as ILSVRC2012 in 1,024 shards
_SAMPLE_SECONDS = 0.25
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a contestant, all its processes taken together.

    Attributes:
        photos: that it was given.
        seconds: from start to end.
        cpu_seconds: of all processes.
        peak_bytes: the most resident memory at a time; what processes share counts in each.
        stored_bytes: of the files of records.
    """

    photos: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stored_bytes: int


def measure(
    *, photos_dir: str | None, photos: int, repeats: int, work_dir: str | None = None
) -> dict[str, object]:
    """Runs all contestants on two cores, in turns.

    Args:
        photos_dir: of `PHOTOS_DIR`; None renders photos.
        photos: how many a run converts, at least 8.
        repeats: rounds; the medians of the rounds are returned.
        work_dir: an existing folder, where a folder is made and removed.

    Returns:
        contestants: figures of each, by name (`_figures`); ratios: by name, each of the medians and
        the rounds' own; photos, repeats, original_bytes (mean) and machine.

    Raises:
        UserError: there are no photos, no two cores, or a contestant failed.
    """
    _use_two_cores()
    with tempfile.TemporaryDirectory(prefix="prepare_speed.", dir=work_dir) as folder:
        originals = _listed(photos_dir) if photos_dir else _rendered(folder)
        few = min(_FEW, photos // 4)
        lists = {
            count: _link(os.path.join(folder, f"photos_{count}"), originals, count)
            for count in (few, photos, 2 * photos)
        }
        wanted = [*itertools.product((few, photos), CONTESTANTS), (2 * photos, "prepare")]
        rounds = []
        with tqdm.tqdm(total=repeats * len(wanted), unit="run", desc="measure") as bar:
            for _ in range(repeats):
                runs = {}
                for count, contestant in wanted:
                    bar.set_postfix_str(f"{contestant}, {count} photos")
                    runs[contestant, count] = _run(contestant, folder, lists[count], few)
                    bar.update()
                rounds.append(runs)
        sizes = [os.path.getsize(originals[i % len(originals)]) for i in range(photos)]
    return {
        "contestants": {name: _figures(rounds, name, few, photos) for name in CONTESTANTS},
        "ratios": _ratios(rounds, few, photos),
        "photos": photos,
        "repeats": repeats,
        "original_bytes": round(statistics.fmean(sizes)),
        "machine": _machine(),
    }


def _use_two_cores() -> None:
    """Of this process and all that it starts."""
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("this benchmark needs a system that can bind a process to cores: Linux")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES:
        raise UserError(f"this benchmark needs {CORES} cores; this process may use {len(cores)}")
    os.sched_setaffinity(0, cores[:CORES])


def _listed(photos_dir: str) -> list[str]:
    if not os.path.isdir(photos_dir):
        raise UserError(f"--photos_dir must be a folder of photos; {photos_dir} is none")
    found = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(os.path.abspath(photos_dir), followlinks=True)
        for name in names
        if not name.startswith(".")
    )
    if not found:
        raise UserError(f"--photos_dir must hold photos; {photos_dir} holds none")
    return found


def _rendered(folder: str) -> list[str]:
    """The rehearsal's drawings, enlarged to 500 x 375 or 375 x 500: JPEGs of about 100 kB."""
    os.mkdir(os.path.join(folder, "rendered"))
    paths = []
    for number in tqdm.trange(_RENDERED, unit="photo", desc="draw"):
        generator = np.random.default_rng(number)
        shape = rehearsal_photos.CLASSES[number % len(rehearsal_photos.CLASSES)].shape
        photo = drawing.draw_photo(shape, generator)
        size = (500, 375) if photo.shape[1] >= photo.shape[0] else (375, 500)
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)
        noise = generator.normal(0, 6, photo.shape)  # what enlarging has smoothed away
        photo = np.clip(photo + noise, 0, 255).astype(np.uint8)
        paths.append(os.path.join(folder, "rendered", f"{number}.jpg"))
        Image.fromarray(photo).save(paths[-1], "JPEG", quality=92)
    return paths


def _link(input_dir: str, originals: Sequence[str], count: int) -> list[str]:
    """Makes class folders of `count` photos, one of them to validate with; returns their paths."""
    paths = []
    for number in range(count):
        original = originals[number % len(originals)]
        split = "train" if number else "validation"
        # As the folders of ImageNet, which hold a thousand photos or so.
        folder = os.path.join(input_dir, split, f"class_{number // 500:04d}")
        os.makedirs(folder, exist_ok=True)
        paths.append(os.path.join(folder, f"{number:07d}_{os.path.basename(original)}"))
        os.symlink(original, paths[-1])
    return paths


def _run(contestant: str, folder: str, paths: Sequence[str], few: int) -> Run:
    """Runs a contestant over `paths`, in processes of its own."""
    input_dir = os.path.join(folder, f"photos_{len(paths)}")
    output_dir, list_path = os.path.join(folder, "output"), os.path.join(folder, "list.txt")
    # An even number of shards, two at the least: as many for each worker.
    shards = 2 * max(1, round(len(paths) / _PHOTOS_PER_SHARD / 2))
    if contestant == "prepare":
        command = ["data_prep.prepare", "--source=class_folders", f"--input_dir={input_dir}"]
        command += [f"--output_dir={output_dir}", f"--train_shards={shards}"]
        command += ["--validation_shards=1"]
    else:
        os.mkdir(output_dir)
        with open(list_path, "w") as file:
            file.writelines(f"{path}\n" for path in paths)
        command = ["benchmarks.prepare_contestants", contestant, list_path, output_dir, str(shards)]
    log_path = os.path.join(folder, "log.txt")
    with open(log_path, "w+") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=_ROOT, stdout=subprocess.PIPE, stderr=log
        )
        peak_bytes, cpu_seconds = _watch(process)
        seconds = time.monotonic() - started
        answer = process.stdout.read().decode().splitlines()
        if process.returncode:
            log.seek(0)
            raise UserError(f"{contestant} must succeed, but it failed: {log.read()[-500:]}")
    stored = sum(e.stat().st_size for e in os.scandir(output_dir) if "-of-" in e.name)
    stored = stored or int(answer[-1])
    shutil.rmtree(output_dir)
    os.sync()  # what this run wrote shall not slow the next one down
    return Run(len(paths), seconds, cpu_seconds, peak_bytes, stored)


def _watch(process: subprocess.Popen) -> tuple[int, float]:
    """Waits for a process; returns the peak memory and the CPU time of it and all below it."""
    peak_bytes, cpu_seconds = 0, {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        now_bytes = 0
        for member in _family(root):
            try:
                with member.oneshot():
                    now_bytes += member.memory_info().rss
                    times = member.cpu_times()
                cpu_seconds[member] = times.user + times.system
            except psutil.NoSuchProcess:  # it has ended meanwhile
                continue
        peak_bytes = max(peak_bytes, now_bytes)
        time.sleep(_SAMPLE_SECONDS)
    return peak_bytes, sum(cpu_seconds.values())


def _family(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


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


def _ratios(rounds: list[Runs], few: int, photos: int) -> dict[str, dict[str, object]]:
    """Rates of prepare over those of the others, and what doubling the photos does to its cost."""
    pairs = {f"prepare_over_{name}": (name, photos) for name in CONTESTANTS[1:]}
    pairs["doubling"] = ("prepare", 2 * photos)
    ratios = {}
    for title, (name, count) in pairs.items():
        costs = [
            (_cost(runs, name, few, count), _cost(runs, "prepare", few, photos)) for runs in rounds
        ]
        each = [round(other / own, 3) if other and own else None for other, own in costs]
        ratios[title] = {"median": _median(each), "rounds": each}
    return ratios


def _median(values: Iterator[float | None] | list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _machine() -> dict[str, object]:
    try:
        with open("/proc/cpuinfo") as file:
            models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        models = []
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": CORES,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "load": round(os.getloadavg()[0], 1),  # at the end: 2 of it are this benchmark's own
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
    }


def table(result: dict[str, object]) -> str:
    """What `measure` returned, for a person."""
    columns = ("photos/s", "CPU ms/photo", "first few s", "peak MB", "stored B/photo")
    lines = [" ".join([f"{'':12}", *(f"{column:>14}" for column in columns)])]
    for name, figures in result["contestants"].items():
        cells = ("-" if value is None else f"{value:,}" for value in figures.values())
        lines.append(" ".join([f"{name:12}", *(f"{cell:>14}" for cell in cells)]))
    for name, ratio in result["ratios"].items():
        lines.append(f"{name}: {ratio['median']} (rounds: {', '.join(map(str, ratio['rounds']))})")
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    return "\n".join([*lines, f"{result['photos']:,} photos; {machine}"])


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and measures."""
    result = measure(
        photos_dir=PHOTOS_DIR.value,
        photos=PHOTOS.value,
        repeats=REPEATS.value,
        work_dir=WORK_DIR.value,
    )
    print(table(result), file=sys.stderr)
    return result


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)

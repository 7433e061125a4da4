"""What `prepare_speed` runs: the photos, and a contestant over them, watched from outside."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence

import cv2
import numpy as np
import psutil
import tqdm
from PIL import Image

from data_prep.command_line import UserError
from data_prep.rehearsal import drawing
from data_prep.rehearsal.photos import CLASSES

# Besides prepare; `prepare_contestants` has them.
CONTESTANTS = ("bare", "bare_stored", "slim", "slim_resized")
_RENDERED = 200
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


def listed(photos_dir: str) -> list[str]:
    """The paths of all visible files below a folder, sorted.

    Raises:
        UserError: there is no folder, or no file.
    """
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


def originals(folder: str, photos_dir: str | None) -> list[str]:
    """The paths of some photos.

    Args:
        folder: an existing one, for what is rendered or unpacked.
        photos_dir: a folder of photos, or a tar of them; None renders some.

    Raises:
        UserError: it is no folder and no tar, or holds no file.
    """
    if photos_dir is None:
        return rendered(folder)
    if not os.path.isfile(photos_dir):
        return listed(photos_dir)
    unpacked = os.path.join(folder, "unpacked")
    try:
        with tarfile.open(photos_dir) as tar:
            tar.extractall(unpacked, filter="data")
    except tarfile.TarError as error:
        raise UserError(
            f"--photos_dir must be a folder or a tar; {photos_dir} is none ({error})"
        ) from error
    return listed(unpacked)


def rendered(folder: str) -> list[str]:
    """The rehearsal's drawings, enlarged to 500 x 375 or 375 x 500: JPEGs of about 100 kB."""
    os.mkdir(os.path.join(folder, "rendered"))
    paths = []
    for number in tqdm.trange(_RENDERED, unit="photo", desc="draw"):
        generator = np.random.default_rng(number)
        shape = CLASSES[number % len(CLASSES)].shape
        photo = drawing.draw_photo(shape, generator)
        size = (500, 375) if photo.shape[1] >= photo.shape[0] else (375, 500)
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)
        noise = generator.normal(0, 6, photo.shape)  # what enlarging has smoothed away
        photo = np.clip(photo + noise, 0, 255).astype(np.uint8)
        paths.append(os.path.join(folder, "rendered", f"{number}.jpg"))
        Image.fromarray(photo).save(paths[-1], "JPEG", quality=92)
    return paths


def link(input_dir: str, originals: Sequence[str], count: int) -> list[str]:
    """Makes class folders of `count` links, one of them to validate with; returns their paths."""
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


def run(contestant: str, folder: str, paths: Sequence[str]) -> Run:
    """Runs a contestant in processes of its own.

    Args:
        contestant: "prepare", or one of `CONTESTANTS`.
        folder: of the benchmark; what the run writes in it is removed.
        paths: the photos, as `link` made them in `folder`.

    Raises:
        UserError: the contestant failed.
    """
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
            raise UserError(f"{contestant} was to succeed, but failed: {log.read()[-1000:]}")
    stored = sum(e.stat().st_size for e in os.scandir(output_dir) if "-of-" in e.name)
    stored = stored or int(answer[-1])
    shutil.rmtree(output_dir)
    os.sync()  # what this run wrote shall not slow the next one down
    return Run(len(paths), seconds, cpu_seconds, peak_bytes, stored)


def _watch(process: subprocess.Popen) -> tuple[int, float]:
    """Waits for a process; returns the peak memory and the CPU time of it and all below it."""
    peak_bytes, cpu_seconds = 0, {}
    root = psutil.Process(process.pid)
    while True:
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
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SAMPLE_SECONDS)
            return peak_bytes, sum(cpu_seconds.values())


def _family(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []

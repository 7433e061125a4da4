"""Reads a prepared data set from end to end and proves that it is what its manifest says.

    python -m data_prep.verify --data_dir=imagenet

Checked are: that every file is there and none too many; size, SHA-256 and number of records of each
shard; the two checksums, the features, the label and the photo of each record; the SHA-256 of all
other files. With --statistics, mean and covariance are computed again and compared, too.

The exit status is 0 if all is well. If not, the first fault is named, by file and record.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import tqdm
from absl import flags

from data_prep import command_line, images, records, shards, statistics, tfrecord
from data_prep.command_line import UserError
from data_prep.statistics import PixelSums

FLAGS = flags.FlagValues()
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The folder that data_prep.prepare wrote.", flag_values=FLAGS
)
STATISTICS = flags.DEFINE_bool(
    "statistics", False, "Also compute the statistics again.", flag_values=FLAGS
)
flags.mark_flag_as_required("data_dir", flag_values=FLAGS)

_SHARD_LIKE = re.compile(rf"({'|'.join(records.SPLITS)})-\d+-of-\d+")


@dataclasses.dataclass
class _ShardReport:
    """What was found in one shard; reading stops at the first record whose checksum is wrong."""

    faults: list[str]
    sums: PixelSums | None  # of a train shard, when asked for


def verify(*, data_dir: str, check_statistics: bool = False) -> dict[str, object]:
    """Proves a data set.

    Args:
        data_dir: the folder that `data_prep.prepare` wrote; local.
        check_statistics: whether to compute the statistics again.

    Returns:
        train_records, validation_records, rejected, shards, files, faults (0), statistics
        ("equal" or "not checked"), seconds and records_per_second.

    Raises:
        UserError: there is no data set, or a fault in it: the first one, and how many there are.
    """
    started = time.monotonic()
    manifest = records.read_manifest(data_dir)
    size = manifest.recipe.get("short_side")
    if not isinstance(size, int) or not 0 < size <= images.LARGEST_SIZE:
        raise UserError(
            f"the manifest's recipe must have a short_side of 1 to {images.LARGEST_SIZE} pixels. "
            f"Received: {size!r}; run data_prep.prepare again"
        )
    faults = list(_file_faults(data_dir, manifest))
    sums = PixelSums.zeros(size)
    for report in _shard_reports(data_dir, manifest, size, check_statistics):
        faults += report.faults
        if report.sums:
            sums.merge(report.sums)
    if check_statistics and not faults:
        faults += _statistics_faults(data_dir, sums)
    if faults:
        raise UserError(
            f"{faults[0]} ({len(faults)} {'fault' if len(faults) == 1 else 'faults'} in "
            f"{data_dir}); remove the folder and run data_prep.prepare again"
        )
    seconds = time.monotonic() - started
    count = sum(split.records for split in manifest.splits.values())
    return {
        **{f"{name}_records": split.records for name, split in manifest.splits.items()},
        "rejected": sum(split.rejected for split in manifest.splits.values()),
        "shards": sum(len(split.shards) for split in manifest.splits.values()),
        "files": len(manifest.files),
        "faults": 0,
        "statistics": "equal" if check_statistics else "not checked",
        "seconds": round(seconds, 2),
        "records_per_second": round(count / seconds, 1),
    }


def _file_faults(data_dir: str, manifest: records.Manifest) -> Iterator[str]:
    """Faults of all that is not in a shard."""
    expected = set()
    for split, content in manifest.splits.items():
        for index, shard in enumerate(content.shards):
            expected.add(shard.name)
            if shard.name != records.shard_name(split, index, len(content.shards)):
                yield f"{records.MANIFEST}: {shard.name!r} is no name for a shard of {split}"
    for name in sorted(os.listdir(data_dir)):
        if _SHARD_LIKE.fullmatch(name) and name not in expected:
            yield f"{name}: is in the folder, but not in the manifest"
    wanted = {records.LABELS, records.REJECTED, records.STATISTICS, records.MEAN_IMAGE}
    for name in sorted(wanted - manifest.files.keys()):
        yield f"{records.MANIFEST}: says nothing of {name}"
    for name, digest in manifest.files.items():
        path = os.path.normpath(os.path.join(data_dir, name))
        if not path.startswith(os.path.normpath(data_dir) + os.sep):
            yield f"{records.MANIFEST}: {name!r} is not inside the folder"
            continue
        try:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    yield f"{name}: its SHA-256 is not the manifest's"
        except OSError as error:
            yield f"{name}: cannot be read ({error.strerror})"
    yield from _text_faults(data_dir, manifest)


def _text_faults(data_dir: str, manifest: records.Manifest) -> Iterator[str]:
    """labels.txt and rejected.jsonl against the manifest's own lists and counts."""
    try:
        with open(os.path.join(data_dir, records.LABELS), encoding="utf-8") as file:
            if file.read() != records.labels_text(manifest.classes):
                yield f"{records.LABELS}: is not the manifest's list of classes"
        with open(os.path.join(data_dir, records.REJECTED), encoding="utf-8") as file:
            counted = Counter(json.loads(line)["split"] for line in file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{records.LABELS} or {records.REJECTED}: cannot be read ({error!r})"
        return
    for split, content in manifest.splits.items():
        if counted[split] != content.rejected:
            yield (
                f"{records.REJECTED}: has {counted[split]} {split} photos, the manifest "
                f"{content.rejected}"
            )


def _shard_reports(
    data_dir: str, manifest: records.Manifest, size: int, sum_pixels: bool
) -> Iterator[_ShardReport]:
    """What is in the shards, in the manifest's order; each core reads one at a time."""
    wanted = [
        shard
        for split in manifest.splits.values()
        for shard in split.shards
        if _SHARD_LIKE.fullmatch(shard.name)  # a name is only a name when it is no path
    ]
    if not wanted:
        return
    read = functools.partial(_read_shard, data_dir, manifest.classes, size, sum_pixels)
    executor = concurrent.futures.ProcessPoolExecutor(
        min(os.cpu_count() or 1, len(wanted)),
        # Not forked: TensorFlow and Beam have threads, whose locks a fork would leave locked.
        multiprocessing.get_context("spawn"),
        # Ctrl-C is for the parent alone.
        functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
    )
    try:
        reports = executor.map(read, wanted)
        yield from tqdm.tqdm(reports, total=len(wanted), unit="shard", desc="verify")
    finally:
        executor.shutdown(cancel_futures=True)


def _read_shard(
    data_dir: str,
    classes: tuple[records.ClassName, ...],
    size: int,
    sum_pixels: bool,
    shard: records.Shard,
) -> _ShardReport:
    report = _ShardReport([], PixelSums.zeros(size) if sum_pixels else None)
    is_train = shards.split_of(shard.name) == "train"
    count = 0
    try:
        with open(os.path.join(data_dir, shard.name), "rb") as file:
            hashed = _HashingReader(file)
            for count, payload in enumerate(tfrecord.read_records(hashed), start=1):
                try:
                    pixels = _check_record(payload, classes, size)
                except ValueError as error:
                    report.faults.append(f"{shard.name}, record {count - 1}: {error}")
                    continue
                if sum_pixels and is_train:
                    report.sums.add(pixels)
    except tfrecord.CorruptRecordError as error:
        report.faults.append(f"{shard.name}, {error}")
        return report
    except OSError as error:
        report.faults.append(f"{shard.name}: cannot be read ({error.strerror})")
        return report
    for what, found, expected in (
        ("records", count, shard.records),
        ("bytes", hashed.size, shard.bytes),
        ("SHA-256", hashed.digest.hexdigest(), shard.sha256),
    ):
        if found != expected:
            report.faults.append(f"{shard.name}: {what} {found}, in the manifest {expected}")
    return report


def _check_record(payload: bytes, classes: tuple[records.ClassName, ...], size: int) -> np.ndarray:
    """The photo of a record, [size, size, 3] uint8.

    Raises:
        ValueError: what is wrong with the record.
    """
    example = tfrecord.decode_example(payload)
    for feature in records.FEATURES:
        kind = bytes if feature.dtype == "bytes" else int
        if not isinstance(example.get(feature.name), kind):
            raise ValueError(f"{feature.name} is missing, or not one {feature.dtype}")
    label = example["image/class/label"]
    if not 0 <= label < len(classes):
        raise ValueError(f"label {label} of {len(classes)} classes")
    expected = {
        "image/class/synset": classes[label].wnid.encode(),
        "image/class/text": classes[label].name.encode(),
        "image/format": b"JPEG",
        "image/colorspace": b"RGB",
        "image/channels": 3,
        "image/height": size,
        "image/width": size,
    }
    for name, value in expected.items():
        if example[name] != value:
            raise ValueError(f"{name} is {example[name]!r} instead of {value!r}")
    pixels = images.decode_record(example["image/encoded"])
    if pixels.shape != (size, size, 3):
        raise ValueError(f"the photo has {pixels.shape[1]} x {pixels.shape[0]} pixels")
    return pixels


class _HashingReader:
    """A file that is hashed while it is read, so that it is read once."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.digest.update(data)
        self.size += len(data)
        return data


def _statistics_faults(data_dir: str, sums: PixelSums) -> Iterator[str]:
    computed, stored = statistics.finish(sums), records.read_statistics(data_dir)
    for field in dataclasses.fields(computed):
        one, other = getattr(computed, field.name), getattr(stored, field.name)
        # Equal sums, but perhaps another machine's eigenvalue routine.
        if np.shape(one) != np.shape(other) or not np.allclose(one, other, rtol=1e-6, atol=1e-6):
            yield f"statistics: {field.name} is not that of the records"


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and does the work."""
    del arguments
    return verify(data_dir=DATA_DIR.value, check_statistics=STATISTICS.value)


def run() -> None:
    """The console command."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()

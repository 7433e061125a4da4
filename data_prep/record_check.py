"""Reads one shard from end to end and says all that is wrong with it.

Works on what anybody may have written: a broken record is a fault to name, never an error to stop
at, and after one whose payload alone is broken the next ones are still read.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from data_prep import images, records, shards, tfrecord
from data_prep.statistics import PixelSums


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What all records of a data set have in common.

    Attributes:
        data_dir: the data set's folder; local.
        classes: in the order of their labels.
        label_offset: what was added to a class' place to make its label.
        photo_format: how the photos are stored.
        sum_pixels: whether the statistics are to be computed again.
    """

    data_dir: str
    classes: tuple[records.ClassName, ...]
    label_offset: int
    photo_format: records.PhotoFormat
    sum_pixels: bool


@dataclasses.dataclass
class ShardReport:
    """What was found in one shard.

    Attributes:
        faults: one text each, that begins with the file's name.
        sums: over the photos of a train shard, if asked for; else of none.
    """

    faults: list[str]
    sums: PixelSums


def read_shard(expected: Expectation, shard: records.Shard, *, has_index: bool) -> ShardReport:
    """Reads every record of a shard, and its index.

    Args:
        expected: of each record.
        shard: as the manifest describes it; its name has been found to be a shard's.
        has_index: whether there has to be an index of it.
    """
    sums = PixelSums.zeros(expected.photo_format.short_side if expected.sum_pixels else 0)
    report = ShardReport([], sums)
    add_up = expected.sum_pixels and shards.split_of(shard.name) == "train"
    lengths: list[int] = []
    try:
        with open(os.path.join(expected.data_dir, shard.name), "rb") as file:
            hashed = _HashingReader(file)
            whole = True
            for number, frame in enumerate(tfrecord.read_frames(hashed)):
                lengths.append(frame.length)
                whole = whole and not frame.fault
                try:
                    pixels = check_record(frame, expected)
                except ValueError as error:
                    where = f"{shard.name}, record {number} at byte {frame.offset}"
                    report.faults.append(f"{where}: {error}")
                    continue
                if add_up:
                    sums.add(images.central_square(pixels, expected.photo_format.short_side))
    except OSError as error:
        report.faults.append(f"{shard.name}: cannot be read ({error.strerror})")
        return report
    if whole:  # else size and hash are wrong, too, and nobody learns more from that
        report.faults += _total_faults(shard, hashed, len(lengths))
        if has_index:
            report.faults += _index_faults(expected.data_dir, shard, records.index_text(lengths))
    return report


def check_record(frame: tfrecord.Frame, expected: Expectation) -> np.ndarray:
    """The photo of a record, [height, width, 3] uint8.

    Raises:
        ValueError: what is wrong with the record.
    """
    if frame.fault:
        raise ValueError(frame.fault)
    example = tfrecord.decode_example(frame.payload)
    for feature in records.FEATURES:
        kind = bytes if feature.dtype == "bytes" else int
        if not isinstance(example.get(feature.name), kind):
            raise ValueError(f"{feature.name} is missing, or not one {feature.dtype}")
    label = example["image/class/label"]
    place = label - expected.label_offset
    if not 0 <= place < len(expected.classes):
        raise ValueError(
            f"label {label} of {len(expected.classes)} classes from {expected.label_offset}"
        )
    values = {
        "image/class/synset": expected.classes[place].wnid.encode(),
        "image/class/text": expected.classes[place].name.encode(),
        "image/format": records.IMAGE_FORMATS[expected.photo_format.storage].encode(),
        "image/colorspace": b"RGB",
        "image/channels": 3,
    }
    side = expected.photo_format.short_side
    if expected.photo_format.crop == "center":
        values |= {"image/height": side, "image/width": side}
    for name, value in values.items():
        if example[name] != value:
            raise ValueError(f"{name} is {example[name]!r} instead of {value!r}")
    height, width = example["image/height"], example["image/width"]
    if min(height, width) != side:
        raise ValueError(f"the short side of {width} x {height} pixels is not {side}")
    return images.decode_stored(
        example["image/encoded"],
        storage=expected.photo_format.storage,
        height=height,
        width=width,
    )


def _total_faults(shard: records.Shard, read: "_HashingReader", count: int) -> Iterator[str]:
    for what, found, expected in (
        ("records", count, shard.records),
        ("bytes", read.size, shard.bytes),
        ("SHA-256", read.digest.hexdigest(), shard.sha256),
    ):
        if found != expected:
            yield f"{shard.name}: {what} {found}, in the manifest {expected}"


def _index_faults(data_dir: str, shard: records.Shard, expected: str) -> Iterator[str]:
    name = records.index_name(shard.name)
    try:
        with open(os.path.join(data_dir, name), "rb") as file:
            if file.read() != expected.encode():
                yield f"{name}: is not where the records of {shard.name} are"
    except OSError as error:
        yield f"{name}: cannot be read ({error.strerror})"


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

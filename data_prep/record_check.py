"""Checks the records of a shard against the manifest of their data set."""

import dataclasses
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from data_prep import records, tfrecord
from data_prep.photos import images


@dataclasses.dataclass(frozen=True)
class BrokenRecord:
    """A record that is not what the manifest promises.

    Attributes:
        shard: its name.
        number: of the record in the shard, from 0.
        offset: of its first byte; where that is unknown, of where reading ended.
        reason: the first fault of the record.
    """

    shard: str
    number: int
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}, record {self.number} at byte {self.offset}: {self.reason}"


def read_shard(
    file: BinaryIO, name: str, manifest: records.Manifest
) -> Iterator[tuple[tfrecord.Frame, np.ndarray | BrokenRecord]]:
    """Read and check every record of a shard.

    After a record whose payload alone is broken the next ones are still read; where a length is
    broken, or the shard is cut short, the record is the last one.

    Args:
        file: at the first byte of the shard.
        name: of the shard.
        manifest: of the data set.

    Yields:
        The frame of a record, and its photo, [height, width, 3] uint8, or its fault.
    """
    for number, frame in enumerate(tfrecord.read_frames(file)):
        try:
            found = _photo(frame, manifest)
        except ValueError as error:
            found = BrokenRecord(name, number, frame.offset, str(error))
        yield frame, found


def _photo(frame: tfrecord.Frame, manifest: records.Manifest) -> np.ndarray:
    """Return the photo of a record; ValueError if anything in the record is wrong."""
    if frame.fault:
        raise ValueError(frame.fault)
    example = tfrecord.decode_example(frame.payload)
    for name, dtype in records.FEATURES.items():
        if not isinstance(example.get(name), bytes if dtype == "bytes" else int):
            raise ValueError(f"{name} is missing, or not one {dtype}")
    label = example["image/class/label"]
    place = label - manifest.label_offset
    if not 0 <= place < len(manifest.classes):
        raise ValueError(
            f"label {label} of {len(manifest.classes)} classes from {manifest.label_offset}"
        )
    stored = manifest.photo_format
    values = {
        "image/class/synset": manifest.classes[place].wnid.encode(),
        "image/class/text": manifest.classes[place].name.encode(),
        "image/format": records.IMAGE_FORMATS[stored.storage].encode(),
        "image/colorspace": b"RGB",
        "image/channels": 3,
    }
    if stored.crop == "center":
        values |= {"image/height": stored.short_side, "image/width": stored.short_side}
    for name, value in values.items():
        if example[name] != value:
            raise ValueError(f"{name} is {example[name]!r} instead of {value!r}")
    height, width = example["image/height"], example["image/width"]
    if min(height, width) != stored.short_side:
        raise ValueError(f"the short side of {width} x {height} pixels is not {stored.short_side}")
    encoded = example["image/encoded"]
    return images.decode_stored(encoded, storage=stored.storage, height=height, width=width)

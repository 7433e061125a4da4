"""Checks one record of a data set against what all its records have in common."""

import dataclasses

import numpy as np

from data_prep import records, tfrecord
from data_prep.photos import images


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

"""The photos of a data set's records -> uint8 pixels, in whichever way they are stored.

Training, evaluation and export must see the same pixels. So JPEGs are decoded by the slow and
exact inverse transform: TensorFlow's default may be the fast one, some grey levels apart.
"""

import io
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from PIL import Image

from data_prep import records

_DCT = "INTEGER_ACCURATE"


def parse(serialized: tf.Tensor, photo_format: records.Rule) -> dict[str, tf.Tensor]:
    """Return the features of one serialized Example that `decode` and the label need.

    It is faster than `records.parse`, which parses all.
    """
    names = {"image/encoded", "image/class/label"}
    if photo_format.crop == "none":
        names |= {"image/height", "image/width"}
    spec = {
        name: tf.io.FixedLenFeature(
            [], tf.string if records.FEATURES[name] == "bytes" else tf.int64
        )
        for name in names
    }
    return tf.io.parse_single_example(serialized, spec)


def decode(features: Mapping[str, tf.Tensor], photo_format: records.Rule) -> tf.Tensor:
    """Return the stored square of a photo; of a longer photo the square in its middle.

    Args:
        features: of one record, as `parse` gives them.
        photo_format: of the data set.

    Returns:
        uint8 [S, S, 3] RGB, where S is `photo_format.short_side`.
    """
    side = photo_format.short_side
    if photo_format.storage == "jpeg":
        pixels = tf.io.decode_jpeg(features["image/encoded"], channels=3, dct_method=_DCT)
    else:
        values = tf.io.decode_raw(features["image/encoded"], tf.uint8)
        pixels = tf.reshape(values, tf.concat([_shape(features, photo_format), [3]], axis=0))
    if photo_format.crop == "none":
        corner = tf.concat([_corner(features, photo_format), [0]], axis=0)
        pixels = tf.slice(pixels, corner, [side, side, 3])
    return tf.ensure_shape(pixels, [side, side, 3])


def decode_part(
    features: Mapping[str, tf.Tensor],
    photo_format: records.Rule,
    offset: tf.Tensor,
    size: int,
) -> tf.Tensor:
    """Return a part of the square of `decode`; of a JPEG no more than the part is decoded.

    At the edge of a part of a JPEG, the two may differ by some grey levels: chroma is interpolated
    from the decoded pixels.

    Args:
        features: of one record, as `parse` gives them.
        photo_format: of the data set.
        offset: row and column of the part in the stored square, int32 [2].
        size: of the part, pixels.

    Returns:
        uint8 [size, size, 3] RGB.
    """
    if photo_format.storage == "raw":
        square = decode(features, photo_format)
        return tf.slice(square, tf.concat([offset, [0]], axis=0), [size, size, 3])
    if photo_format.crop == "none":
        offset += _corner(features, photo_format)
    # Skips the rows and the inverse transforms outside of the part.
    window = tf.concat([offset, [size, size]], axis=0)
    part = tf.image.decode_and_crop_jpeg(
        features["image/encoded"], window, channels=3, dct_method=_DCT
    )
    return tf.ensure_shape(part, [size, size, 3])


def _corner(features: Mapping[str, tf.Tensor], photo_format: records.Rule) -> tf.Tensor:
    """Return row and column of the square in the middle, as in photos.images.central_square."""
    return (_shape(features, photo_format) - photo_format.short_side) // 2


def _shape(features: Mapping[str, tf.Tensor], photo_format: records.Rule) -> tf.Tensor:
    """Return height and width, int32 [2]."""
    if photo_format.crop == "center":
        return tf.constant([photo_format.short_side] * 2)
    return tf.cast(tf.stack([features["image/height"], features["image/width"]]), tf.int32)


def to_photo_file(example: Mapping[str, bytes | int]) -> bytes:
    """Return the photo of a record as a file: its JPEG, or a PNG of its pixels.

    Args:
        example: the features of one record, as `data_prep.tfrecord.decode_example` gives them.

    Raises:
        KeyError: a feature is missing.
        ValueError: raw pixels are fewer or more than height and width say.
    """
    encoded = example["image/encoded"]
    if example["image/format"] != records.IMAGE_FORMATS["raw"].encode():
        return encoded
    shape = (example["image/height"], example["image/width"], 3)
    output = io.BytesIO()
    Image.fromarray(np.frombuffer(encoded, np.uint8).reshape(shape)).save(output, "PNG")
    return output.getvalue()

"""The photos of a data set's records -> uint8 pixels, in whichever way they are stored.

Training, evaluation and export must see the same pixels. So JPEGs are decoded by the slow and
exact inverse transform: TensorFlow's default may be the fast one, which differs by some grey
levels.
"""

import io
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from PIL import Image

from data_prep import records

_DCT = "INTEGER_ACCURATE"


def decode(features: Mapping[str, tf.Tensor], photo_format: records.PhotoFormat) -> tf.Tensor:
    """The stored square of a photo; of a longer photo the square in its middle.

    Args:
        features: of one record, as `records.parse` gives them.
        photo_format: of the data set.

    Returns:
        uint8 [S, S, 3] RGB, where S is `photo_format.short_side`.
    """
    side = photo_format.short_side
    if photo_format.crop == "center" and photo_format.storage == "jpeg":
        pixels = tf.io.decode_jpeg(features["image/encoded"], channels=3, dct_method=_DCT)
        return tf.ensure_shape(pixels, [side, side, 3])
    return decode_part(features, photo_format, tf.zeros([2], tf.int32), side)


def decode_part(
    features: Mapping[str, tf.Tensor],
    photo_format: records.PhotoFormat,
    offset: tf.Tensor,
    size: int,
) -> tf.Tensor:
    """A part of what `decode` returns; of a JPEG no more is decoded.

    At the edge of the part, the two may differ by some grey levels: chroma is interpolated from
    what was decoded.

    Args:
        features: of one record, as `records.parse` gives them.
        photo_format: of the data set.
        offset: row and column of the part in the stored square, int32 [2].
        size: of the part, pixels.

    Returns:
        uint8 [size, size, 3] RGB.
    """
    shape = tf.cast(tf.stack([features["image/height"], features["image/width"]]), tf.int32)
    if photo_format.crop == "none":
        # As data_prep.images.central_square has it.
        offset += (shape - photo_format.short_side) // 2
    part = _DECODERS[photo_format.storage](features["image/encoded"], shape, offset, size)
    return tf.ensure_shape(part, [size, size, 3])


def _part_of_jpeg(encoded: tf.Tensor, shape: tf.Tensor, offset: tf.Tensor, size: int) -> tf.Tensor:
    del shape  # the JPEG tells it itself
    # Skips the rows and the inverse transforms outside of the part.
    window = tf.concat([offset, [size, size]], axis=0)
    return tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=_DCT)


def _part_of_raw(encoded: tf.Tensor, shape: tf.Tensor, offset: tf.Tensor, size: int) -> tf.Tensor:
    pixels = tf.reshape(tf.io.decode_raw(encoded, tf.uint8), tf.concat([shape, [3]], axis=0))
    return tf.slice(pixels, tf.concat([offset, [0]], axis=0), [size, size, 3])


# By the recipe's "storage".
_DECODERS = {"jpeg": _part_of_jpeg, "raw": _part_of_raw}


def to_photo_file(example: Mapping[str, bytes | int]) -> bytes:
    """The photo of a record as a file that any program opens: its JPEG, or a PNG of its pixels.

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

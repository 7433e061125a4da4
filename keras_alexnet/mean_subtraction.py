"""Which mean is subtracted from a crop, and whether the crop is mirrored before that or after."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from data_prep.records import Statistics
from keras_alexnet.profiles import Profile
from keras_alexnet.views import central_view, crop


def subtract_mean(
    x: tf.Tensor,
    *,
    offsets: tf.Tensor,
    flips: tf.Tensor,
    profile: Profile,
    statistics: Statistics | None,
) -> tf.Tensor:
    """Crops minus their mean, mirrored where asked for.

    The mean is one of (see `Profile.mean` and `mean_position`)
    - the part of the mean image under the crop, mirrored with it (Caffe, data_transformer.cpp),
    - the central part of the mean image, whatever the crop's place, subtracted from the crop when
      that is mirrored already (2012 program, convdata_jpeg.py),
    - three constants (the PyTorch ports).

    Args:
        x: [B, S, S, 3], crops in 0-255, uint8 or any other numbers.
        offsets: int32 [B, 2], (y, x) of each crop in the stored photo, pixels.
        flips: bool [B], which crops to mirror.
        profile: says which mean.
        statistics: with the mean image, of the size of the stored photos; not looked at with three
            constants.

    Returns:
        float32 [B, S, S, 3].

    Raises:
        ValueError: the mean image is smaller than a crop, or no square.
    """
    return _SUBTRACT_MEAN[profile.mean_position](x, offsets, flips, profile, statistics)


def row_of(channels: Sequence[float], size: int) -> tf.Tensor:
    """Three constants as a row of pixels, float32 [size, 3].

    Arithmetic of photos with a row takes about half the time of that with three numbers: the CPU
    is good at broadcasting long stretches of memory.
    """
    return tf.constant(np.tile(np.asarray(channels, np.float32), (size, 1)))


def _minus_mean_under_crop(
    x: tf.Tensor, offsets: tf.Tensor, flips: tf.Tensor, profile: Profile, statistics: Statistics
) -> tf.Tensor:
    mean = tf.constant(_mean_image(profile, statistics))
    along = tf.range(profile.input_size)
    rows = (offsets[:, 0, None] + along)[:, :, None]  # [B, S, 1]
    # The mean is mirrored by the order in which it is gathered, at no cost.
    columns = offsets[:, 1, None] + tf.where(flips[:, None], along[::-1], along)
    places = rows * mean.shape[1] + columns[:, None, :]  # [B, S, S]
    return _mirrored(x, flips) - tf.gather(tf.reshape(mean, [-1, 3]), places)


def _minus_central_mean(
    x: tf.Tensor, offsets: tf.Tensor, flips: tf.Tensor, profile: Profile, statistics: Statistics
) -> tf.Tensor:
    del offsets  # whatever the place
    mean = _mean_image(profile, statistics)[np.newaxis]
    centre = crop(mean, central_view(profile, stored=mean.shape[1]), profile.input_size)
    return _mirrored(x, flips) - tf.constant(centre)


def _minus_channel_mean(
    x: tf.Tensor,
    offsets: tf.Tensor,
    flips: tf.Tensor,
    profile: Profile,
    statistics: Statistics | None,
) -> tf.Tensor:
    del offsets, statistics  # the same everywhere, and in every data set
    return _mirrored(x, flips) - row_of(profile.channel_mean, profile.input_size)


# By Profile.mean_position, which is None where the mean is three constants.
_SUBTRACT_MEAN = {
    "crop": _minus_mean_under_crop,
    "centre": _minus_central_mean,
    None: _minus_channel_mean,
}


def _mirrored(x: tf.Tensor, flips: tf.Tensor) -> tf.Tensor:
    """float32 [B, S, S, 3] with those photos mirrored that the condition [B] names."""
    # This `where` of TensorFlow 1 takes whole photos by a condition [B]; today's broadcasts the
    # condition to every pixel and is nine times slower on the CPU.
    # Cast in the end: bytes are moved in a quarter of the time.
    return tf.cast(tf.compat.v1.where(flips, tf.reverse(x, [2]), x), tf.float32)


def _mean_image(profile: Profile, statistics: Statistics) -> np.ndarray:
    """float32 [stored, stored, 3]."""
    shape, size = np.shape(statistics.mean_image), profile.input_size
    if len(shape) != 3 or shape[0] != shape[1] or shape[0] < size or shape[2] != 3:
        raise ValueError(
            f"The mean image must be [stored, stored, 3] with stored at least {size}. "
            f"Received: {shape}. Use the statistics of the data set the photos are from."
        )
    return np.asarray(statistics.mean_image, np.float32)

"""From stored photos, uint8, to network input: the one preprocessing of train, evaluate and export.

A uint8 crop of the photo (see views.py) crosses to the device; the arithmetic happens there, a
batch at a time, in `network_input`. Each profile's graph has its own steps alone. All functions
work in graphs and eagerly.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_prep.records import Statistics
from keras_alexnet.inputs import augmentations
from keras_alexnet.inputs.views import View, central_view, crop
from keras_alexnet.network.profile import Profile
from keras_alexnet.network.profiles import ILSVRC2012_MEAN, get_profile


def network_input(
    crops: tf.Tensor,
    *,
    offsets: tf.Tensor,
    flips: tf.Tensor,
    colour_noise: tf.Tensor | None = None,
    profile: Profile,
    statistics: Statistics | None,
) -> tf.Tensor:
    """Return (crop - mean, mirrored, + noise) / divisor / std * pixel_scale.

    The mean is one of (see `Profile.mean` and `mean_position`)
    - the part of the mean image under the crop, mirrored with it (Caffe, data_transformer.cpp),
    - the central part of the mean image, whatever the crop's place, subtracted from the crop when
      that is mirrored already (2012 program, convdata_jpeg.py),
    - three constants (the PyTorch ports).

    The colour noise of a photo, one RGB value added to all its pixels, is (paper, section 4.1)

        [p1, p2, p3] [a1 s1, a2 s2, a3 s3]^T,   a_i = colour_noise_std * colour_noise[i],

    with p the eigenvectors of the covariance of RGB over the training set. The scale s is
    - "deviation": the root of the eigenvalue, grey levels (2012 program): 12 grey levels of
      brightness for ImageNet, or
    - "eigenvalue": the eigenvalue itself, as the paper prints. It does not say in which units.
      Here pixels are in 0-1 for this formula, and its result is turned into grey levels: 6 of them
      for ImageNet, where the same formula in 0-255 would add 1,500.

    Args:
        crops: [B, S, S, 3], RGB in 0-255, uint8 or any other numbers; S the profile's
            `input_size`.
        offsets: int32 [B, 2], (y, x) of each crop in the stored photo, pixels.
        flips: bool [B], which crops to mirror.
        colour_noise: float32 [B, 3], standard normal draws, in training. Draws of exactly 0, all
            three, are a photo without noise, which is not divided by `colour_noise_divisor`
            either. None, in evaluation: no photo has noise. Ignored where the profile has none.
        profile: that of the network.
        statistics: of the training set; its mean image has the size of the stored photos. None
            where the profile needs neither mean image nor noise.

    Returns:
        float32 [B, S, S, 3].

    Raises:
        ValueError: the crops, or the mean image, do not have the size that the profile needs, or
            there are no statistics though it needs them.
    """
    size = profile.input_size
    if tuple(crops.shape[1:]) != (size, size, 3):
        raise ValueError(
            f"Crops must have the shape [B, {size}, {size}, 3], the profile's input. "
            f"Received: {tuple(crops.shape)}. Cut them with crop(images, view, {size})."
        )
    # A standard deviation of 0 is no noise, and the 2012 program then divides by nothing.
    is_noisy = colour_noise is not None and bool(profile.colour_noise and profile.colour_noise_std)
    if statistics is None and (is_noisy or profile.mean == "image"):
        raise ValueError(
            f"statistics of the training set must be given for the profile {profile.name}. "
            "Received: None. data_prep.records.read_statistics reads those of a data set."
        )
    # Rounding to float32 is the mean image's own; whole grey levels are exact in it.
    x = _SUBTRACT_MEAN[profile.mean_position](crops, offsets, flips, profile, statistics)
    gain = profile.pixel_scale / np.array(profile.channel_std or (1.0, 1.0, 1.0))
    if is_noisy:
        components = tf.constant(_noise_components(profile, statistics))
        noise = tf.linalg.matmul(colour_noise, components)
        x += tf.tile(noise[:, None, None, :], [1, 1, size, 1])  # a row; see `_row_of`
        if profile.colour_noise_divisor != 1.0:
            has_noise = tf.reduce_any(colour_noise != 0.0, axis=1)[:, None, None, None]
            lower = _row_of(gain / profile.colour_noise_divisor, size)
            return x * tf.where(has_noise, lower, _row_of(gain, size))
    return x if np.all(gain == 1.0) else x * _row_of(gain, size)


def preprocess_input(
    images: tf.Tensor | np.ndarray,
    statistics: Statistics | None = None,
    profile: str | Profile = "paper",
) -> tf.Tensor:
    """Return network input of the central view of stored photos, as in evaluation and serving.

    Args:
        images: [B, stored, stored, 3], RGB in 0-255, of any type of number; not rounded.
        statistics: of the training set (`data_prep.records.read_statistics`), with a mean image of
            the size of the photos. None: the channel means of ILSVRC2012 stand in for the mean
            image; a network that was trained with another mean is then less accurate. A profile
            that subtracts constants needs no statistics.
        profile: that of the network.

    Returns:
        float32 [B, S, S, 3], S the profile's `input_size`.

    Raises:
        ValueError: as `central_view` and `network_input` do, or there is no such profile, or the
            images have another shape.
    """
    profile = get_profile(profile)
    images = tf.convert_to_tensor(images)
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] is None or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(
            f"images must be squares of known size, [B, stored, stored, 3]. Received: {shape}. "
            "Resize them as data_prep.prepare does; a single photo is images[None]."
        )
    if statistics is None and profile.mean == "image":
        profile = dataclasses.replace(
            profile, mean="channels", mean_position=None, channel_mean=ILSVRC2012_MEAN
        )
    return view_input(images, central_view(profile, stored=shape[1]), profile, statistics)


def view_input(
    images: tf.Tensor, view: View, profile: Profile, statistics: Statistics | None
) -> tf.Tensor:
    """Return network input of one view of stored photos, without noise; see `network_input`.

    Raises:
        ValueError: as `network_input` does, or the mean image has another size than the photos.
    """
    if profile.mean == "image" and statistics is not None:
        mean_shape = np.shape(statistics.mean_image)
        if tuple(images.shape[1:]) != mean_shape:
            raise ValueError(
                f"Stored photos must have the shape of the mean image, {mean_shape}. "
                f"Received: {tuple(images.shape[1:])}. "
                "Use the statistics of the data set the photos are from."
            )
    count = tf.shape(images)[0]
    return network_input(
        crop(images, view, profile.input_size),
        offsets=tf.tile([[view.y, view.x]], [count, 1]),
        flips=tf.fill([count], view.flip),
        profile=profile,
        statistics=statistics,
    )


def mean_over_views(
    network: keras.Model,
    images: tf.Tensor,
    views: Sequence[View],
    profile: Profile,
    statistics: Statistics,
) -> tf.Tensor:
    """Return a network's output averaged over views of stored photos (paper, section 4.1).

    View after view, not one batch of all: ten times less memory for the same arithmetic.

    Args:
        network: network input -> [B, units].
        images: uint8 [B, stored, stored, 3], RGB.
        views: such as `views.ten_views`.
        profile: that of the network.
        statistics: of the training set.

    Returns:
        float32 [B, units], whatever the network computes in: JSON has no bfloat16.
    """
    outputs = [
        tf.cast(network(view_input(images, view, profile, statistics), training=False), tf.float32)
        for view in views
    ]
    return tf.add_n(outputs) / len(outputs)


class NetworkInput(keras.layers.Layer):
    """`network_input` as a layer, to stand in front of the network on the device.

    Input: a dict of "image" (uint8 [B, S, S, 3]), "offset" (int32 [B, 2]), "flip" (uint8 [B], 1 to
    mirror: MirroredStrategy averages batches, and bool has no mean) and, used in training alone,
    "noise" (float32 [B, 3]) and with augmentations "augment", their draws (float32 [B, K, 4]).
    Output: float32 [B, S, S, 3], under every dtype policy.

    Not serializable: it holds a data set's statistics, which an exported graph has as constants.
    """

    def __init__(
        self,
        profile: Profile,
        statistics: Statistics,
        augment: Sequence[augmentations.Augmentation] = (),
        **kwargs,
    ):
        # Without autocast, or mixed precision would round the noise to 8 bits on the way in.
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self._profile = profile
        self._statistics = statistics
        self._augment = tuple(augment)

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Return network input of the crops."""
        crops = inputs["image"]
        if training and self._augment:
            crops = augmentations.change(crops, inputs["augment"], self._augment)
        return network_input(
            crops,
            offsets=inputs["offset"],
            flips=tf.cast(inputs["flip"], tf.bool),
            colour_noise=inputs["noise"] if training else None,
            profile=self._profile,
            statistics=self._statistics,
        )


# By Profile.colour_noise: eigenvalues of the covariance of RGB in 0-255 -> scale, grey levels.
_NOISE_SCALES = {
    "eigenvalue": lambda eigenvalues: eigenvalues / 255.0**2 * 255.0,  # in 0-1, and back
    "deviation": np.sqrt,
}


def _noise_components(profile: Profile, statistics: Statistics) -> np.ndarray:
    """Return the grey levels that a draw of 1 adds, float32 [3, 3], a component per row."""
    scale = _NOISE_SCALES[profile.colour_noise](statistics.pca_eigenvalues)
    grey_levels = profile.colour_noise_std * scale
    return (statistics.pca_eigenvectors * grey_levels).T.astype(np.float32)


def _row_of(channels: Sequence[float], size: int) -> tf.Tensor:
    """Return three constants as a row of pixels, float32 [size, 3].

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
    x: tf.Tensor, offsets: tf.Tensor, flips: tf.Tensor, profile: Profile, statistics: object
) -> tf.Tensor:
    del offsets, statistics  # the same everywhere, and in every data set
    return _mirrored(x, flips) - _row_of(profile.channel_mean, profile.input_size)


# By Profile.mean_position, None for three constants: crops minus their mean, mirrored by `flips`.
_SUBTRACT_MEAN = {
    "crop": _minus_mean_under_crop,
    "centre": _minus_central_mean,
    None: _minus_channel_mean,
}


def _mirrored(x: tf.Tensor, flips: tf.Tensor) -> tf.Tensor:
    """Return the photos as float32, mirrored where the condition [B] is true."""
    # This `where` of TensorFlow 1 takes whole photos by a condition [B]; today's broadcasts the
    # condition to every pixel and is nine times slower on the CPU.
    # Cast in the end: bytes are moved in a quarter of the time.
    return tf.cast(tf.compat.v1.where(flips, tf.reverse(x, [2]), x), tf.float32)


def _mean_image(profile: Profile, statistics: Statistics) -> np.ndarray:
    """Return the mean image, float32 [stored, stored, 3], if a crop fits in it."""
    shape, size = np.shape(statistics.mean_image), profile.input_size
    if len(shape) != 3 or shape[0] != shape[1] or shape[0] < size or shape[2] != 3:
        raise ValueError(
            f"The mean image must be [stored, stored, 3] with stored at least {size}. "
            f"Received: {shape}. Use the statistics of the data set the photos are from."
        )
    return np.asarray(statistics.mean_image, np.float32)

"""From stored photos, uint8, to network input: the one preprocessing of train, evaluate and export.

A photo is stored as 256x256 RGB. A view is a crop of it with the side of the profile's input, as
it is or mirrored. What crosses to the device is the crop, uint8; the arithmetic happens there, a
batch at a time, in `network_input`. All functions work in graphs and eagerly.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data_prep.records import Statistics
from keras_alexnet.profiles import Profile, get_profile

STORED_SIZE = 256  # side of a stored photo, pixels; paper, section 2


class View(NamedTuple):
    """A crop's place in the stored photo (its upper left pixel), and whether it is mirrored."""

    y: int
    x: int
    flip: bool


def central_view(profile: Profile, stored: int = STORED_SIZE) -> View:
    """The crop in the middle; where no pixel is the middle, the one above and left of it (Caffe).

    Args:
        profile: its `input_size` is the side of the crop.
        stored: side of the stored photo, pixels.

    Raises:
        ValueError: the stored photo is smaller than a crop.
    """
    middle = _margin(profile, stored) // 2
    return View(middle, middle, flip=False)


def ten_views(profile: Profile, stored: int = STORED_SIZE) -> list[View]:
    """The four corners and the centre, then the same mirrored (paper, section 4.1).

    Args:
        profile: its `input_size` is the side of a crop.
        stored: side of the stored photo, pixels.

    Raises:
        ValueError: the stored photo is smaller than a crop.
    """
    margin = _margin(profile, stored)
    corners = [View(y, x, flip=False) for y in (0, margin) for x in (0, margin)]
    five = [*corners, central_view(profile, stored)]
    return five + [view._replace(flip=True) for view in five]


def crop(images: tf.Tensor, view: View, size: int) -> tf.Tensor:
    """The pixels of a view, not mirrored: the mean image has to be subtracted before that.

    Args:
        images: [B, stored, stored, 3], any dtype.
        view: the place of the crop; its `flip` is for `network_input`.
        size: side of the crop, pixels.

    Returns:
        [B, size, size, 3], of the dtype of `images`.
    """
    return images[:, view.y : view.y + size, view.x : view.x + size]


def random_view(
    seed: tf.Tensor, profile: Profile, stored: int = STORED_SIZE
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The random choices for one photo in training: a function of the seed (paper, section 4.1).

    Args:
        seed: int64 or int32, a scalar or [2]. Different seeds are independent draws.
        profile: its `input_size` is the side of the crop.
        stored: side of the stored photo, pixels.

    Returns:
        offset: int32 [2], (y, x) of the crop, each of 0 ... stored - size equally likely.
        flip: bool scalar, whether to mirror, as likely as not.
        noise: float32 [3], standard normal draws for the colour noise, one a component.

    Raises:
        ValueError: the stored photo is smaller than a crop.
    """
    margin = _margin(profile, stored)
    seed = tf.cast(seed, tf.int64)
    if seed.shape.rank == 0:
        seed = tf.stack([seed, tf.zeros_like(seed)])
    # One draw for all three choices: an operation a photo costs more than its arithmetic.
    uniform = tf.random.stateless_uniform([3], seed)
    offset = tf.cast(uniform[:2] * (margin + 1), tf.int32)
    noise_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    noise = tf.random.stateless_normal([3], noise_seed)
    return offset, uniform[2] < 0.5, noise


def network_input(
    crops: tf.Tensor,
    *,
    offsets: tf.Tensor,
    flips: tf.Tensor,
    colour_noise: tf.Tensor | None = None,
    profile: Profile,
    statistics: Statistics,
) -> tf.Tensor:
    """What the network takes: ((crop - mean image under it), mirrored, + noise) * pixel_scale.

    The colour noise of a photo, one RGB value added to all its pixels, is (paper, section 4.1)

        [p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T,   a_i = colour_noise_std * colour_noise[i],

    with p and l the eigenvectors and eigenvalues of the covariance of RGB over the training set.
    The paper does not say in which units. Here pixels are in 0-1 for this formula, and its result
    is turned into grey levels: l / 255^2 * 255 with the l of `statistics`, which is in 0-255. That
    is about 6 grey levels of brightness for ImageNet; the same formula in 0-255 would add 1,500.

    Args:
        crops: uint8 [B, S, S, 3], RGB, S the profile's `input_size`.
        offsets: int32 [B, 2], (y, x) of each crop in the stored photo, pixels.
        flips: bool [B], which crops to mirror.
        colour_noise: float32 [B, 3], standard normal draws; None (evaluation) for no noise. Not
            looked at where the profile has no colour noise.
        profile: says what is done.
        statistics: of the training set; its mean image has the size of the stored photos.

    Returns:
        float32 [B, S, S, 3].

    Raises:
        ValueError: the crops, or the mean image, do not have the size that the profile needs.
    """
    _require_sizes(crops, profile, statistics)
    # Rounding to float32 is the mean image's own; whole grey levels are exact in it.
    x = tf.cast(crops, tf.float32) - _mean_under(offsets, profile.input_size, statistics)
    # This `where` of TensorFlow 1 takes whole photos by a condition [B]; today's broadcasts the
    # condition to every pixel and is nine times slower on the CPU.
    x = tf.compat.v1.where(flips, tf.reverse(x, [2]), x)
    if colour_noise is not None and profile.colour_noise is not None:
        components = tf.constant(_noise_components(profile, statistics))
        x += tf.linalg.matmul(colour_noise, components)[:, None, None, :]
    return x * profile.pixel_scale


def preprocess_input(
    images: tf.Tensor, statistics: Statistics, profile: str | Profile = "paper"
) -> tf.Tensor:
    """Network input of the central view of stored photos, as evaluation and serving see it.

    Args:
        images: uint8 [B, stored, stored, 3], RGB.
        statistics: of the training set (`data_prep.records.read_statistics`).
        profile: that of the network.

    Returns:
        float32 [B, S, S, 3], S the profile's `input_size`.

    Raises:
        ValueError: as `central_view` and `network_input` do, or there is no such profile.
    """
    profile = get_profile(profile)
    images = tf.convert_to_tensor(images)
    return view_input(images, central_view(profile, stored=images.shape[1]), profile, statistics)


def view_input(
    images: tf.Tensor, view: View, profile: Profile, statistics: Statistics
) -> tf.Tensor:
    """Network input of one view of stored photos, without noise.

    Args:
        images: uint8 [B, stored, stored, 3], RGB.
        view: the same of every photo.
        profile: that of the network.
        statistics: of the training set.

    Returns:
        float32 [B, S, S, 3], S the profile's `input_size`.
    """
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
    """A network's output averaged over views of stored photos (paper, section 4.1).

    View after view, not one batch of all: ten times less memory for the same arithmetic.

    Args:
        network: network input -> [B, units].
        images: uint8 [B, stored, stored, 3], RGB.
        views: such as `ten_views`.
        profile: that of the network.
        statistics: of the training set.

    Returns:
        float32 [B, units], whatever the network computes in: JSON, for one, has no bfloat16.
    """
    outputs = [
        tf.cast(network(view_input(images, view, profile, statistics), training=False), tf.float32)
        for view in views
    ]
    return tf.add_n(outputs) / len(outputs)


class NetworkInput(keras.layers.Layer):
    """`network_input` as a layer, to stand in front of the network on the device.

    Input: a dict of "image" (uint8 [B, S, S, 3]), "offset" (int32 [B, 2]), "flip" (uint8 [B], 1 to
    mirror: Keras under MirroredStrategy takes means of a batch, which bool has not) and, in
    training, "noise" (float32 [B, 3]). Output: float32 [B, S, S, 3], under every dtype policy.

    Not serializable: it holds a data set's statistics, which an exported graph has as constants.
    """

    def __init__(self, profile: Profile, statistics: Statistics, **kwargs):
        # Without autocast, or mixed precision would round the noise to 8 bits on the way in.
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self._profile = profile
        self._statistics = statistics

    def call(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Network input of the crops."""
        return network_input(
            inputs["image"],
            offsets=inputs["offset"],
            flips=tf.cast(inputs["flip"], tf.bool),
            colour_noise=inputs.get("noise"),
            profile=self._profile,
            statistics=self._statistics,
        )


def _margin(profile: Profile, stored: int) -> int:
    """The largest offset of a crop."""
    if stored < profile.input_size:
        raise ValueError(
            f"Stored photos must be at least as large as the profile's input, "
            f"{profile.input_size} pixels. Received: {stored}. "
            "Prepare the data with a larger --short_side, or choose another profile."
        )
    return stored - profile.input_size


def _mean_under(offsets: tf.Tensor, size: int, statistics: Statistics) -> tf.Tensor:
    """The part of the mean image under each crop, float32 [B, size, size, 3]."""
    mean = tf.constant(statistics.mean_image, tf.float32)
    stored_columns = mean.shape[1]
    along = tf.range(size)
    rows = (offsets[:, 0, None] + along)[:, :, None]  # [B, size, 1]
    columns = (offsets[:, 1, None] + along)[:, None, :]  # [B, 1, size]
    return tf.gather(tf.reshape(mean, [-1, 3]), rows * stored_columns + columns)


def _noise_components(profile: Profile, statistics: Statistics) -> np.ndarray:
    """[3, 3] float32, a component a row: what a draw of 1 adds, grey levels."""
    eigenvalues = statistics.pca_eigenvalues / 255.0**2  # of pixels in 0-1
    grey_levels = profile.colour_noise_std * eigenvalues * 255.0
    return (statistics.pca_eigenvectors * grey_levels).T.astype(np.float32)


def _require_sizes(crops: tf.Tensor, profile: Profile, statistics: Statistics) -> None:
    size = profile.input_size
    if tuple(crops.shape[1:]) != (size, size, 3):
        raise ValueError(
            f"Crops must have the shape [B, {size}, {size}, 3], the profile's input. "
            f"Received: {tuple(crops.shape)}. Cut them with crop(images, view, {size})."
        )
    mean_shape = np.shape(statistics.mean_image)
    if len(mean_shape) != 3 or min(mean_shape[:2]) < size or mean_shape[2] != 3:
        raise ValueError(
            f"The mean image must be [stored, stored, 3] with stored at least {size}. "
            f"Received: {mean_shape}. Use the statistics of the data set the photos are from."
        )

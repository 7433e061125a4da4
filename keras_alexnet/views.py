"""Views: which part of a stored photo the network sees, in evaluation and in training.

A photo is stored as 256x256 RGB. A view is a crop of it with the side of the profile's input, as
it is or mirrored. All functions work in graphs and eagerly.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_alexnet.profiles import Profile

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
    """The pixels of a view, not mirrored: `preprocessing.network_input` does that, in its place.

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
    """What is drawn for one photo in training: a function of the seed (paper, section 4.1).

    The draws do not depend on the profile, only whether they are used: another profile sees the
    same places and mirrored photos.

    Args:
        seed: int64 or int32, a scalar or [2]. Different seeds are independent draws.
        profile: its `input_size` is the side of the crop, its `training_crop` and `training_flip`
            say what is random.
        stored: side of the stored photo, pixels.

    Returns:
        offset: int32 [2], (y, x) of the crop: each of 0 ... stored - size equally likely, or that
            of `central_view`.
        flip: bool scalar, whether to mirror: as likely as not, or never.
        noise: float32 [3], standard normal draws for the colour noise, one a component; a profile
            without colour noise does not look at them.

    Raises:
        ValueError: the stored photo is smaller than a crop.
    """
    margin = _margin(profile, stored)
    seed = tf.cast(seed, tf.int64)
    if seed.shape.rank == 0:
        seed = tf.stack([seed, tf.zeros_like(seed)])
    # One draw for all three choices: an operation a photo costs more than its arithmetic. (What
    # a profile does not use, TensorFlow takes out of the graph.)
    uniform = tf.random.stateless_uniform([3], seed)
    offset = _TRAINING_OFFSETS[profile.training_crop](uniform[:2], margin)
    flip = uniform[2] < 0.5 if profile.training_flip else tf.constant(False)
    noise_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    return offset, flip, tf.random.stateless_normal([3], noise_seed)


def _random_offset(uniform: tf.Tensor, margin: int) -> tf.Tensor:
    return tf.cast(uniform * (margin + 1), tf.int32)


def _central_offset(uniform: tf.Tensor, margin: int) -> tf.Tensor:
    return tf.fill(tf.shape(uniform), margin // 2)


# By Profile.training_crop: two draws from 0 to below 1, and the largest offset -> (y, x), int32.
_TRAINING_OFFSETS = {"random": _random_offset, "centre": _central_offset}


def _margin(profile: Profile, stored: int) -> int:
    """The largest offset of a crop."""
    if stored < profile.input_size:
        raise ValueError(
            f"Stored photos must be at least as large as the profile's input, "
            f"{profile.input_size} pixels. Received: {stored}. "
            "Prepare the data with a larger --short_side, or choose another profile."
        )
    return stored - profile.input_size

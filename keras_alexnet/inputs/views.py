"""Views: the part of a stored photo that the network sees, in evaluation and in training.

A photo is stored as 256x256 RGB. A view is a crop of it with the side of the profile's input, as
it is or mirrored. All functions work in graphs and eagerly.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_alexnet.network.profile import Profile

STORED_SIZE = 256  # side of a stored photo, pixels; paper, section 2


class View(NamedTuple):
    """A crop's place in the stored photo (its upper left pixel), and whether it is mirrored."""

    y: int
    x: int
    flip: bool


def central_view(profile: Profile, stored: int = STORED_SIZE) -> View:
    """Return the crop in the middle, or above and left of it if no pixel is the middle (Caffe).

    Raises:
        ValueError: the stored photo is smaller than a crop.
    """
    middle = _margin(profile, stored) // 2
    return View(middle, middle, flip=False)


def ten_views(profile: Profile, stored: int = STORED_SIZE) -> list[View]:
    """Return the four corners and the centre, then the same mirrored (paper, section 4.1).

    Raises:
        ValueError: the stored photo is smaller than a crop.
    """
    margin = _margin(profile, stored)
    corners = [View(y, x, flip=False) for y in (0, margin) for x in (0, margin)]
    five = [*corners, central_view(profile, stored)]
    return five + [view._replace(flip=True) for view in five]


def crop(images: tf.Tensor, view: View, size: int) -> tf.Tensor:
    """Return the pixels of a view, [B, size, size, 3]; `preprocessing.network_input` mirrors."""
    return images[:, view.y : view.y + size, view.x : view.x + size]


def random_views(
    seed: tf.Tensor,
    first: int | tf.Tensor,
    count: int,
    profile: Profile,
    stored: int = STORED_SIZE,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the random draws of consecutive training photos (paper, section 4.1).

    The draws of a photo are a function of the seed and of its place in the epoch, and do not
    depend on `count`. Of the profile they depend on `crop_chunk` alone: profiles that are random
    see the same places and mirrored photos.

    Args:
        seed: int64 [2]. Different seeds are independent draws.
        first: position of the first photo in the epoch, from 0.
        count: number of photos.
        profile: its `input_size` is the side of the crop, its `training_crop` and `training_flip`
            say what is random, its `crop_chunk` how many photos in a row share crop and flip.
        stored: side of the stored photos, pixels.

    Returns:
        offsets: int32 [count, 2], (y, x) of the crops: each of 0 ... stored - size equally likely,
            or that of `central_view`.
        flips: bool [count], true with probability 1/2, or never.
        noise: float32 [count, 3], standard normal draws for the colour noise, one per component.

    Raises:
        ValueError: the stored photos are smaller than a crop.
    """
    margin = _margin(profile, stored)
    first = tf.cast(first, tf.int64)
    chunks = (first + tf.range(count, dtype=tf.int64)) // profile.crop_chunk
    most_chunks = (count - 1) // profile.crop_chunk + 2  # the first and the last may be parts
    uniform = rows(tf.raw_ops.StatelessRandomUniformV2, seed, chunks[0], most_chunks)
    uniform = tf.gather(uniform, chunks - chunks[0])
    if profile.training_crop == "random":
        offsets = tf.cast(uniform[:, :2] * (margin + 1), tf.int32)
    else:
        offsets = tf.fill([count, 2], margin // 2)
    flips = uniform[:, 2] < 0.5 if profile.training_flip else tf.fill([count], False)
    noise_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    noise = rows(tf.raw_ops.StatelessRandomNormalV2, noise_seed, first, count)
    return offsets, flips, noise[:, :3]


def rows(
    draw: Callable[..., tf.Tensor], seed: tf.Tensor, first: int | tf.Tensor, count: int
) -> tf.Tensor:
    """Return rows first ... first + count - 1 of an endless table of draws, float32 [count, 4].

    Philox makes four numbers of a key and a counter (Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", 2011): row i is what the counter gives that is i above the seed's. So one
    operation draws for a whole batch, and it does not matter where the batch begins.
    """
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    counter += tf.stack([tf.cast(first, tf.uint64), tf.constant(0, tf.uint64)])
    algorithm = tf.random.Algorithm.PHILOX.value
    return draw(shape=[count, 4], key=key, counter=counter, alg=algorithm)


def _margin(profile: Profile, stored: int) -> int:
    """Return the largest offset of a crop."""
    if stored < profile.input_size:
        raise ValueError(
            f"Stored photos must be at least as large as the profile's input, "
            f"{profile.input_size} pixels. Received: {stored}. "
            "Prepare the data with a larger short_side, or choose another profile."
        )
    return stored - profile.input_size

"""Views: which part of a stored photo the network sees, in evaluation and in training.

A photo is stored as 256x256 RGB. A view is a crop of it with the side of the profile's input, as
it is or mirrored. All functions work in graphs and eagerly.
"""

from collections.abc import Callable, Sequence
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


def random_views(
    seed: tf.Tensor,
    first: int | tf.Tensor,
    count: int,
    profile: Profile,
    stored: int = STORED_SIZE,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What is drawn for photos in a row in training (paper, section 4.1).

    The draws of a photo are a function of the seed and of its place in the epoch, and do not
    depend on how many photos are asked for at once. Nor do they depend on the profile, but for its
    `crop_chunk`; the profile says which of them are used: another one sees the same places and
    mirrored photos.

    Args:
        seed: int64 [2]. Different seeds are independent draws.
        first: place of the first of the photos in the order of the epoch, from 0.
        count: how many photos.
        profile: its `input_size` is the side of the crop, its `training_crop` and `training_flip`
            say what is random, its `crop_chunk` how many photos in a row share crop and flip.
        stored: side of the stored photos, pixels.

    Returns:
        offsets: int32 [count, 2], (y, x) of the crops: each of 0 ... stored - size equally likely,
            or that of `central_view`.
        flips: bool [count], which to mirror: as likely as not, or none.
        noise: float32 [count, 3], standard normal draws for the colour noise, one a component and
            photo; a profile without colour noise does not look at them.

    Raises:
        ValueError: the stored photos are smaller than a crop.
    """
    margin = _margin(profile, stored)
    first = tf.cast(first, tf.int64)
    chunks = (first + tf.range(count, dtype=tf.int64)) // profile.crop_chunk
    most_chunks = (count - 1) // profile.crop_chunk + 2  # the first and the last may be parts
    uniform = _rows(tf.raw_ops.StatelessRandomUniformV2, seed, chunks[0], most_chunks)
    uniform = tf.gather(uniform, chunks - chunks[0])
    offsets = _TRAINING_OFFSETS[profile.training_crop](uniform[:, :2], margin)
    flips = uniform[:, 2] < 0.5 if profile.training_flip else tf.fill([count], False)
    noise_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    noise = _rows(tf.raw_ops.StatelessRandomNormalV2, noise_seed, first, count)
    return offsets, flips, noise[:, :3]


def uniform_draws(
    seed: tf.Tensor, first: int | tf.Tensor, count: int, streams: Sequence[int]
) -> tf.Tensor:
    """More draws for photos in a row: a function of seed, place and stream, as `random_views`.

    Args:
        seed: int64 [2].
        first: place of the first of the photos in the order of the epoch, from 0.
        count: how many photos.
        streams: K numbers above 1; those below are what `random_views` draws from.

    Returns:
        float32 [count, K, 4], from 0 to below 1.
    """
    first = tf.cast(first, tf.int64)
    seeds = [tf.random.experimental.stateless_fold_in(seed, stream) for stream in streams]
    draw = tf.raw_ops.StatelessRandomUniformV2
    return tf.stack([_rows(draw, own, first, count) for own in seeds], axis=1)


def _rows(
    draw: Callable[..., tf.Tensor], seed: tf.Tensor, first: tf.Tensor, count: int
) -> tf.Tensor:
    """Rows first ... first + count - 1 of an endless table of draws, float32 [count, 4].

    Philox makes four numbers of a key and a counter (Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", 2011): row i is what the counter gives that is i above the seed's. So one
    operation draws for a whole batch, and it does not matter where the batch begins.
    """
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    counter += tf.stack([tf.cast(first, tf.uint64), tf.constant(0, tf.uint64)])
    algorithm = tf.random.Algorithm.PHILOX.value
    return draw(shape=[count, 4], key=key, counter=counter, alg=algorithm)


def _random_offset(uniform: tf.Tensor, margin: int) -> tf.Tensor:
    return tf.cast(uniform * (margin + 1), tf.int32)


def _central_offset(uniform: tf.Tensor, margin: int) -> tf.Tensor:
    return tf.fill(tf.shape(uniform), margin // 2)


# By Profile.training_crop: draws [N, 2] from 0 to below 1, and the largest offset -> (y, x), int32.
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

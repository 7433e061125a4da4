"""Augmentations of training photos beyond the paper's own: `augment=rotate,cutout:64`.

They are named as in tfa.image, and TensorFlow's own operations compute them on both stacks. Their
random numbers are a function of (seed, epoch, position), so a resumed run repeats them.

The draws come with a batch; the arithmetic happens on the device, in training alone, on the crop
before it is mirrored and the mean is subtracted.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_alexnet.inputs import views
from keras_alexnet.network.choices import AUGMENTATIONS

# Fills pixels that are cut out or lie outside the photo. It is near the mean, which is subtracted.
EMPTY = 128.0

_DRAWS = 4  # per photo and operation, as many as `views.rows` gives

# RGB as a row times this matrix is YIQ, luma and two axes of chroma (NTSC).
_YIQ = ((0.299, 0.596, 0.211), (0.587, -0.274, -0.523), (0.114, -0.322, 0.312))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """An operation of `choices.AUGMENTATIONS` and its strength."""

    name: str
    strength: float

    def __str__(self) -> str:
        return f"{self.name}:{self.strength:g}"


def parse(texts: Sequence[str] | None) -> tuple[Augmentation, ...]:
    """Return the augmentations that texts name.

    Args:
        texts: "name" or "name:strength", in the order in which photos are changed; None for none.

    Raises:
        ValueError: a name is unknown or given twice, or a strength is out of its range.
    """
    chosen = tuple(map(_parse_one, texts or ()))
    names = [entry.name for entry in chosen]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"augment has {twice[0]} twice; leave one out")
    return chosen


def _parse_one(text: str) -> Augmentation:
    name, _, value = text.strip().partition(":")
    if name not in AUGMENTATIONS:
        raise ValueError(f"augment must be of {', '.join(AUGMENTATIONS)}, not {name!r}")
    limits = AUGMENTATIONS[name]
    try:
        strength = float(value) if value else limits.strength
    except ValueError:
        strength = math.nan
    if not 0 < strength <= limits.largest or (limits.step and strength % limits.step):
        steps = f", a multiple of {limits.step:g}" if limits.step else ""
        raise ValueError(
            f"the strength of augment {name} must be above 0 and at most {limits.largest:g}"
            f"{steps}, not {value!r}; the default is {name}:{limits.strength:g}"
        )
    return Augmentation(name, strength)


def draws(
    seed: tf.Tensor, first: int | tf.Tensor, count: int, chosen: Sequence[Augmentation]
) -> tf.Tensor:
    """Return the random numbers of consecutive photos, float32 [count, K, 4] in [0, 1).

    Args:
        seed: int64 [2].
        first: position of the first photo in the epoch, from 0.
        count: number of photos.
        chosen: K augmentations.
    """
    draw = tf.raw_ops.StatelessRandomUniformV2
    streams = [AUGMENTATIONS[entry.name].stream for entry in chosen]
    seeds = [tf.random.experimental.stateless_fold_in(seed, stream) for stream in streams]
    return tf.stack([views.rows(draw, own, first, count) for own in seeds], axis=1)


def shape(chosen: Sequence[Augmentation]) -> list[int]:
    """Return the shape of one photo's `draws`."""
    return [len(chosen), _DRAWS]


def change(images: tf.Tensor, drawn: tf.Tensor, chosen: Sequence[Augmentation]) -> tf.Tensor:
    """Apply augmentations in order; each result is clipped to 0-255.

    Args:
        images: [B, S, S, 3], RGB in 0-255, uint8 or float32.
        drawn: float32 [B, K, 4], of `draws`.
        chosen: K augmentations.

    Returns:
        float32 [B, S, S, 3], not rounded to whole grey levels.
    """
    known = images.shape  # which a projective transform forgets
    images = tf.cast(images, tf.float32)
    for index, entry in enumerate(chosen):
        images = KINDS[entry.name](images, drawn[:, index], entry.strength)
        images = tf.ensure_shape(tf.clip_by_value(images, 0.0, 255.0), known)
    return images


def _either_way(uniform: tf.Tensor, strength: float) -> tf.Tensor:
    """Map [0, 1) to [-strength, strength)."""
    return (2.0 * uniform - 1.0) * strength


def _rotate(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    angles = _either_way(drawn[:, 0], math.radians(strength))
    cosine, sine = tf.cos(angles), tf.sin(angles)
    matrices = tf.reshape(tf.stack([cosine, -sine, sine, cosine], axis=1), [-1, 2, 2])
    return _about_the_middle(images, matrices)


def _translate(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    shifts = _either_way(drawn[:, :2], strength)
    one = tf.ones_like(shifts[:, 0])
    zero = tf.zeros_like(one)
    rows = [one, zero, -shifts[:, 0], zero, one, -shifts[:, 1], zero, zero]
    return _transform(images, tf.stack(rows, axis=1))


def _shear(
    direction: np.ndarray, images: tf.Tensor, drawn: tf.Tensor, strength: float
) -> tf.Tensor:
    levels = _either_way(drawn[:, 0], strength)
    return _about_the_middle(images, tf.eye(2) + levels[:, None, None] * direction)


def _cutout(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    """Empty a square whose middle is anywhere in the photo: a part of it may lie outside."""
    side = int(strength)
    places = tf.range(images.shape[1])
    first = tf.cast(drawn[:, :2] * images.shape[1], tf.int32)[:, :, None] - side // 2
    within = (places >= first) & (places < first + side)  # [B, 2, S]
    mask = within[:, 0, :, None] & within[:, 1, None, :]
    return tf.where(mask[..., None], EMPTY, images)


def _hsv_in_yiq(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    changes = _either_way(drawn[:, :3], strength) + tf.constant([0.0, 1.0, 1.0])
    hue, saturation, value = tf.unstack(changes, axis=1)
    u, w = (value * saturation * turn(hue) for turn in (tf.cos, tf.sin))
    zero = tf.zeros_like(value)
    in_yiq = tf.stack([value, zero, zero, zero, u, w, zero, -w, u], axis=1)
    to_yiq = np.array(_YIQ, np.float32)
    from_yiq = np.linalg.inv(np.array(_YIQ)).astype(np.float32)
    matrices = to_yiq @ tf.reshape(in_yiq, [-1, 3, 3]) @ from_yiq
    return tf.einsum("bijc,bcd->bijd", images, matrices)


def _about_the_middle(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Transform photos by matrices [B, 2, 2] from (x, y) of the result to (x, y) of the photo."""
    middle = tf.fill([2, 1], (images.shape[1] - 1) / 2)
    rows = tf.reshape(tf.concat([matrices, middle - matrices @ middle], axis=2), [-1, 6])
    return _transform(images, tf.pad(rows, [[0, 0], [0, 2]]))


def _transform(images: tf.Tensor, transforms: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=EMPTY,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


# The function of each name in `choices.AUGMENTATIONS`: (images float32 [B, S, S, 3] in 0-255,
# draws float32 [B, 4] in [0, 1), strength) -> images.
KINDS: Mapping[str, Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]] = {
    "rotate": _rotate,
    "translate": _translate,
    "shear_x": functools.partial(_shear, np.eye(2, k=1, dtype=np.float32)),
    "shear_y": functools.partial(_shear, np.eye(2, k=-1, dtype=np.float32)),
    "cutout": _cutout,
    "hsv_in_yiq": _hsv_in_yiq,
}

"""Changes of the training photos beyond the paper's own: `--augment=rotate,cutout:64`.

They are operations of tfa.image, which the stack of TensorFlow Addons computes by that package and
the default stack by TensorFlow's own operations, with the same result. What decides them is drawn
in `views.uniform_draws`, a function of (seed, epoch, place of the photo): tfa's own random_cutout
and random_hsv_in_yiq draw from a state, which a run that goes on after a kill does not have.

The draws come with a batch; the arithmetic happens on the device, on the crop before it is
mirrored and the mean is subtracted, in training alone.

Of tfa.image these are left out:

- equalize: it is the same for a photo in every epoch, so that it belongs into data_prep rather than
  among random changes; it also takes one channel of one photo at a time;
- translate_xy and random_cutout, which are translate and cutout; mean_filter2d, a coarser
  gaussian_filter2d; blend, which needs the labels of two photos mixed as well;
- dense_image_warp, sparse_image_warp, interpolate_bilinear, interpolate_spline and resampler,
  which bend strokes of handwriting, but make photos that no camera takes;
- connected_components and euclidean_dist_transform, which are of masks, not of photos.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from data_prep.command_line import UserError
from keras_alexnet.inputs import views
from keras_alexnet.network import choices
from keras_alexnet.training import addons

# What a photo has where it was cut out or does not reach: near the mean, which is subtracted.
EMPTY = 128.0

_DRAWS = 4  # a photo and kind, as many as `views.uniform_draws` gives

# RGB, a row, times this is YIQ, luma and two axes of chroma (NTSC).
_YIQ = ((0.299, 0.596, 0.211), (0.587, -0.274, -0.523), (0.114, -0.322, 0.312))


@dataclasses.dataclass(frozen=True)
class Kind:
    """One operation, of which `--augment` names the strength.

    Attributes:
        name: as in tfa.image (of a random_ form there, without that).
        stream: which of a seed's streams of draws is its own, so that no other one's presence
            changes what it draws: above 1, which `views.random_views` uses.
        strength: where none is named.
        largest: strength; 0 is the smallest, exclusive.
        step: the strength is a multiple of it; None for any number.
        summary: what it does, with the strength as "this".
        change: (images float32 [B, S, S, 3] in 0-255, draws float32 [B, 4] from 0 to below 1,
            strength) -> images.
    """

    name: str
    stream: int
    strength: float
    largest: float
    step: float | None
    summary: str
    change: Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A kind, and how strong."""

    kind: Kind
    strength: float

    def __str__(self) -> str:
        return f"{self.kind.name}:{self.strength:g}"


def parse(texts: Sequence[str] | None) -> tuple[Augmentation, ...]:
    """What `--augment` asks for.

    Args:
        texts: "name" or "name:strength", in the order in which photos are changed; None for none.

    Raises:
        UserError: a name is unknown, or there twice, a strength is out of its range, or this stack
            does not have the operation.
    """
    chosen = tuple(map(_parse_one, texts or ()))
    names = [augmentation.kind.name for augmentation in chosen]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--augment takes each name once, but {twice[0]} came twice; leave one out")
    return chosen


def draws(
    seed: tf.Tensor, first: int | tf.Tensor, count: int, chosen: Sequence[Augmentation]
) -> tf.Tensor:
    """What decides the changes of photos in a row.

    Args:
        seed: int64 [2].
        first: place of the first photo in the order of the epoch, from 0.
        count: how many photos.
        chosen: as `parse` gives them, K of them.

    Returns:
        float32 [count, K, 4], from 0 to below 1.
    """
    return views.uniform_draws(seed, first, count, [entry.kind.stream for entry in chosen])


def no_draws(count: tf.Tensor, chosen: Sequence[Augmentation]) -> tf.Tensor:
    """In the place of `draws` where nothing is changed, as in validation: zeros."""
    return tf.zeros(tf.stack([count, len(chosen), _DRAWS]))


def shape(chosen: Sequence[Augmentation]) -> list[int]:
    """Of one photo's `draws`."""
    return [len(chosen), _DRAWS]


def change(images: tf.Tensor, drawn: tf.Tensor, chosen: Sequence[Augmentation]) -> tf.Tensor:
    """Changes photos, one operation after the other; each ends in 0-255.

    Args:
        images: [B, S, S, 3], RGB in 0-255, uint8 or float32.
        drawn: float32 [B, K, 4], of `draws`.
        chosen: K of them.

    Returns:
        float32 [B, S, S, 3], not rounded to whole grey levels (but by "sharpness").
    """
    known = images.shape  # which a projective transform forgets
    images = tf.cast(images, tf.float32)
    for index, entry in enumerate(chosen):
        images = entry.kind.change(images, drawn[:, index], entry.strength)
        images = tf.ensure_shape(tf.clip_by_value(images, 0.0, 255.0), known)
    return images


def _parse_one(text: str) -> Augmentation:
    name, _, value = text.strip().partition(":")
    if name not in KINDS:
        raise UserError(
            f"--augment takes {', '.join(KINDS)}, but {name!r} was asked for; take some of these, "
            "each with its strength if it is to differ, as rotate:10,cutout"
        )
    kind = KINDS[name]
    if name in _ONLY_ADDONS and name not in addons.IMAGE_OPERATIONS:
        raise addons.not_here(name, [other for other in KINDS if other not in _ONLY_ADDONS])
    try:
        strength = float(value) if value else kind.strength
    except ValueError:
        strength = math.nan
    if not 0 < strength <= kind.largest or (kind.step and strength % kind.step):
        steps = f", in steps of {kind.step:g}" if kind.step else ""
        raise UserError(
            f"--augment={name} takes a number above 0 and up to {kind.largest:g}{steps}, but got "
            f"{value!r}; its usual is {name}:{kind.strength:g}"
        )
    return Augmentation(kind, strength)


def _operation(name: str) -> Callable[..., tf.Tensor]:
    """TensorFlow Addons' where it is there, or TensorFlow's."""
    return addons.IMAGE_OPERATIONS.get(name) or TENSORFLOW_OPERATIONS[name]


def _either_way(uniform: tf.Tensor, strength: float) -> tf.Tensor:
    """From 0 ... 1 to -strength ... strength."""
    return (2.0 * uniform - 1.0) * strength


def _rotate(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    return _operation("rotate")(images, _either_way(drawn[:, 0], math.radians(strength)), EMPTY)


def _translate(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    return _operation("translate")(images, _either_way(drawn[:, :2], strength), EMPTY)


def _shear_x(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    return _shear(images, [[0, 1], [0, 0]], _either_way(drawn[:, 0], strength))


def _shear_y(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    return _shear(images, [[0, 0], [1, 0]], _either_way(drawn[:, 0], strength))


def _shear(images: tf.Tensor, place: list[list[int]], level: tf.Tensor) -> tf.Tensor:
    """About the middle and between pixels: tfa's own shear_x holds a corner and takes the nearest.

    Args:
        images: [B, S, S, 3].
        place: of the level in the matrix, [2, 2].
        level: [B].
    """
    matrices = tf.eye(2) + level[:, None, None] * tf.constant(place, tf.float32)
    return _operation("transform")(images, _about_the_middle(matrices, images.shape[1]), EMPTY)


def _cutout(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    """The square's middle is anywhere in the photo, so that a part of it may be outside."""
    centres = tf.cast(drawn[:, :2] * images.shape[1], tf.int32)
    return _operation("cutout")(images, centres, int(strength), EMPTY)


def _hsv_in_yiq(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    changes = _either_way(drawn[:, :3], strength) + tf.constant([0.0, 1.0, 1.0])
    return _operation("hsv_in_yiq")(images, changes)


def _sharpness(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    return _operation("sharpness")(images, 1.0 + _either_way(drawn[:, 0], strength))


def _gaussian_filter2d(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    side = 2 * math.ceil(3 * strength) + 1
    return _half(images, drawn, _operation("gaussian_filter2d")(images, strength, side))


def _median_filter2d(images: tf.Tensor, drawn: tf.Tensor, strength: float) -> tf.Tensor:
    return _half(images, drawn, _operation("median_filter2d")(images, int(strength)))


def _half(images: tf.Tensor, drawn: tf.Tensor, changed: tf.Tensor) -> tf.Tensor:
    """A photo as it was or as it is changed, as likely one as the other.

    Filters are the same for a whole batch: tfa's gaussian_filter2d takes no tensor.
    """
    return tf.where(drawn[:, :1, None, None] < 0.5, changed, images)


_CHANGES: Mapping[str, Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]] = {
    "rotate": _rotate,
    "translate": _translate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "cutout": _cutout,
    "hsv_in_yiq": _hsv_in_yiq,
    "gaussian_filter2d": _gaussian_filter2d,
    "sharpness": _sharpness,
    "median_filter2d": _median_filter2d,
}
KINDS: Mapping[str, Kind] = {
    name: Kind(name, *choices.AUGMENTATIONS[name], change) for name, change in _CHANGES.items()
}
_ONLY_ADDONS = frozenset({"median_filter2d"})  # TensorFlow has no median


def _about_the_middle(matrices: tf.Tensor, side: int) -> tf.Tensor:
    """Rows that a projective transform takes, of matrices that hold a photo's middle.

    Args:
        matrices: float32 [B, 2, 2], from (x, y) of the result to (x, y) of the photo.
        side: of the photo, pixels.

    Returns:
        float32 [B, 8].
    """
    middle = tf.fill([2, 1], (side - 1) / 2)
    shift = middle - matrices @ middle
    rows = tf.reshape(tf.concat([matrices, shift], axis=2), [-1, 6])
    return tf.pad(rows, [[0, 0], [0, 2]])


def _tf_transform(images: tf.Tensor, transforms: tf.Tensor, fill: float) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=fill,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _tf_rotate(images: tf.Tensor, angles: tf.Tensor, fill: float) -> tf.Tensor:
    cosine, sine = tf.cos(angles), tf.sin(angles)
    matrices = tf.reshape(tf.stack([cosine, -sine, sine, cosine], axis=1), [-1, 2, 2])
    return _tf_transform(images, _about_the_middle(matrices, images.shape[1]), fill)


def _tf_translate(images: tf.Tensor, shifts: tf.Tensor, fill: float) -> tf.Tensor:
    one = tf.ones_like(shifts[:, 0])
    zero = tf.zeros_like(one)
    rows = [one, zero, -shifts[:, 0], zero, one, -shifts[:, 1], zero, zero]
    return _tf_transform(images, tf.stack(rows, axis=1), fill)


def _tf_cutout(images: tf.Tensor, centres: tf.Tensor, side: int, fill: float) -> tf.Tensor:
    places = tf.range(images.shape[1])
    first = centres[:, :, None] - side // 2
    within = (places >= first) & (places < first + side)  # [B, 2, S]
    mask = within[:, 0, :, None] & within[:, 1, None, :]
    return tf.where(mask[..., None], fill, images)


def _tf_hsv_in_yiq(images: tf.Tensor, changes: tf.Tensor) -> tf.Tensor:
    hue, saturation, value = tf.unstack(changes, axis=1)
    u, w = (value * saturation * turn(hue) for turn in (tf.cos, tf.sin))
    zero = tf.zeros_like(value)
    in_yiq = tf.stack([value, zero, zero, zero, u, w, zero, -w, u], axis=1)
    to_yiq = np.array(_YIQ, np.float32)
    from_yiq = np.linalg.inv(np.array(_YIQ)).astype(np.float32)
    matrices = to_yiq @ tf.reshape(in_yiq, [-1, 3, 3]) @ from_yiq
    return tf.einsum("bijc,bcd->bijd", images, matrices)


def _tf_gaussian_filter2d(images: tf.Tensor, sigma: float, side: int) -> tf.Tensor:
    reach = side // 2
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    line /= line.sum()
    padded = tf.pad(images, [[0, 0], [reach, reach], [reach, reach], [0, 0]], mode="REFLECT")
    return _convolved(padded, np.outer(line, line))


def _tf_sharpness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    smooth = _convolved(images, np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13)
    inner = images[:, 1:-1, 1:-1]
    # The outermost pixels stay: they have no nine neighbours.
    away = tf.pad(smooth - inner, [[0, 0], [1, 1], [1, 1], [0, 0]])
    sharper = images + (1.0 - factors)[:, None, None, None] * away
    return tf.round(tf.clip_by_value(sharper, 0.0, 255.0))


def _convolved(images: tf.Tensor, kernel: np.ndarray) -> tf.Tensor:
    """Each channel with the same kernel [k, k], where all of it is inside."""
    of_channels = np.tile(kernel[:, :, None, None], [1, 1, 3, 1]).astype(np.float32)
    return tf.nn.depthwise_conv2d(images, of_channels, strides=[1, 1, 1, 1], padding="VALID")


# What `addons.IMAGE_OPERATIONS` has by the same names: the arguments are described there.
TENSORFLOW_OPERATIONS: Mapping[str, Callable[..., tf.Tensor]] = {
    "rotate": _tf_rotate,
    "translate": _tf_translate,
    "transform": _tf_transform,
    "cutout": _tf_cutout,
    "hsv_in_yiq": _tf_hsv_in_yiq,
    "gaussian_filter2d": _tf_gaussian_filter2d,
    "sharpness": _tf_sharpness,
}

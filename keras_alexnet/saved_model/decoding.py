"""The bytes of a photo -> the square that data_prep stores of it, by TensorFlow operations.

The same steps as the data job's, so that a photo is served as it would have been trained on:
decode, turn upright, short side to 256 by area averaging (or bicubic when it grows), central
square; or both sides to 256, where the data set was prepared with --fit=warp. Area averaging here
and in OpenCV differ in rounding alone; TensorFlow's bicubic is another curve than OpenCV's, so that
step is written out.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_alexnet.inputs.views import STORED_SIZE
from keras_alexnet.saved_model import exif

# The data job's limit, checked before decoding: 2 MB of JPEG can decode to 192 MB of pixels.
MAX_PIXELS = 1 << 26
# Photos decoded at the same time: bounds memory to a few times 3 bytes a pixel of the largest.
_PARALLEL_PHOTOS = 4

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_OPENCV_CUBIC = -0.75  # the free parameter of Keys' kernel; TensorFlow has -0.5


def stored_images(
    photos: tf.Tensor,
    *,
    size: int = STORED_SIZE,
    fit: str = "short_side",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what the data job would store of each photo.

    Args:
        photos: string [N]; JPEG (grey, RGB or CMYK, baseline or progressive) or PNG files.
        size: of the square, pixels.
        fit: "short_side" or "warp", see `data_prep.conversion_rule.Rule`.

    Returns:
        (images uint8 [N, size, size, 3] RGB, valid bool [N]). What cannot be decoded is zeros
        and not valid, and no other photo notices.
    """
    return tf.map_fn(
        lambda photo: stored_image(photo, size=size, fit=fit),
        photos,
        fn_output_signature=(
            tf.TensorSpec([size, size, 3], tf.uint8),
            tf.TensorSpec([], tf.bool),
        ),
        parallel_iterations=_PARALLEL_PHOTOS,
    )


def stored_image(
    photo: tf.Tensor,
    *,
    size: int = STORED_SIZE,
    fit: str = "short_side",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what the data job would store of one photo: see `stored_images`, without the N."""

    def convert(photo: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = exif.upright(_decode(photo), exif.orientation(photo))
        return _FITS[fit].square(image, size), tf.constant(True)

    converted = (
        tf.data.Dataset.from_tensors(photo)
        .filter(lambda photo: _is_jpeg(photo) | _is_png(photo))
        .filter(lambda photo: _is_affordable(_header_shape(photo), size, fit))
        .map(convert)
    )
    return first_or(converted, (tf.zeros([size, size, 3], tf.uint8), tf.constant(False)))


def first_or(dataset: tf.data.Dataset, fallback: object) -> object:
    """Return the element of a dataset of one element; the fallback if it fails or is left out.

    A graph has no try. A dataset of one element has: an element that fails can be ignored.
    """
    one = dataset.ignore_errors().concatenate(tf.data.Dataset.from_tensors(fallback)).take(1)
    return one.get_single_element()


def _is_jpeg(photo: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(photo, 0, len(_JPEG_START)) == _JPEG_START


def _is_png(photo: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(photo, 0, len(_PNG_START)) == _PNG_START


def _header_shape(photo: tf.Tensor) -> tf.Tensor:
    """Height and width, int64 [2], as the header of a JPEG or PNG file says."""

    def png_shape() -> tf.Tensor:
        # IHDR is the first chunk: width and height, 4 bytes each, big-endian.
        numbers = tf.io.decode_raw(tf.strings.substr(photo, 16, 8), tf.int32, little_endian=False)
        # Its numbers have no sign: -1 is a width of 2**32 - 1.
        return tf.reverse(tf.math.floormod(tf.cast(numbers, tf.int64), 1 << 32), [0])

    def jpeg_shape() -> tf.Tensor:
        return tf.io.extract_jpeg_shape(photo, tf.int64)[:2]

    return tf.ensure_shape(tf.cond(_is_jpeg(photo), jpeg_shape, png_shape), [2])


def _is_affordable(shape: tf.Tensor, size: int, fit: str) -> tf.Tensor:
    """Return whether the photo and its resized image stay within the limit of pixels.

    A line of pixels grows by a factor of `size` squared.
    """

    def fits(shape: tf.Tensor) -> tf.Tensor:
        # By a division, as a product of two lengths of 32 bits does not fit into an int64.
        return (tf.reduce_min(shape) > 0) & (shape[0] <= MAX_PIXELS // tf.maximum(shape[1], 1))

    # Also not when a length is 0, by which _short_side_shape would divide.
    return tf.cond(fits(shape), lambda: fits(_FITS[fit].shape(shape, size)), lambda: False)


def _short_side_shape(shape: tf.Tensor, size: int) -> tf.Tensor:
    """Height and width with a short side of `size`, int64 [2]; rounded half up."""
    short = tf.reduce_min(shape)
    return (2 * shape * size + short) // (2 * short)


def _decode(photo: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, 3] RGB, the very pixels that Pillow decodes from an RGB JPEG."""
    # The default transform is the fast, coarse one: 1.2 grey levels off on average.
    return tf.cond(
        _is_jpeg(photo),
        lambda: tf.io.decode_jpeg(photo, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: _decode_png(photo),
    )


def _decode_png(photo: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_png(photo, channels=4)
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(photo, 24, 1), tf.uint8), tf.int32)
    depth = header[0]  # bits a channel, or a palette's index
    # What is opaque gets 255 from TensorFlow, but 1, 3 or 15 where pixels have 1, 2 or 4 bits.
    opaque = tf.bitwise.left_shift(1, tf.minimum(depth, 8)) - 1
    is_opaque = tf.reduce_all(tf.cast(image[..., 3], tf.int32) == opaque)
    return tf.cond(is_opaque, lambda: image[..., :3], lambda: _over_white(image))


def _over_white(image: tf.Tensor) -> tf.Tensor:
    """RGBA uint8 [H, W, 4] as it looks on white paper, uint8 [H, W, 3]."""
    # In whole numbers, and without a copy in float32 of what may be 67 million pixels.
    colors = tf.cast(image[..., :3], tf.uint16)
    alpha = tf.cast(image[..., 3:], tf.uint16)
    return tf.cast((colors * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def short_side_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Short side to `size`, then the central square: the 2012 tool's rule.

    Args:
        image: uint8 [H, W, 3], of any size.
        size: pixels.

    Returns:
        uint8 [size, size, 3].
    """
    shape = tf.shape(image)[:2]
    resized = tf.cast(_short_side_shape(tf.cast(shape, tf.int64), size), tf.int32)
    top_left = (resized - size) // 2
    crop = tf.cond(
        tf.reduce_min(shape) < size,
        lambda: _grow(image, resized, top_left, size),
        lambda: tf.slice(
            tf.image.resize(image, resized, method="area"),
            tf.concat([top_left, [0]], 0),
            [size, size, 3],
        ),
    )
    # Halves go up, as in OpenCV's path for 512 -> 256, where a quarter of all pixels has one.
    return tf.saturate_cast(tf.floor(crop + 0.5), tf.uint8)


def _grow(image: tf.Tensor, resized: tf.Tensor, top_left: tf.Tensor, size: int) -> tf.Tensor:
    """Return the square at `top_left` of the image resized by OpenCV's bicubic, float32.

    Only the pixels that the square is made of are touched: of a photo 1 pixel high and a million
    wide, very few.
    """
    shape = tf.shape(image)
    rows, row_weights = _cubic_taps(shape[0], resized[0], top_left[0], size)
    columns, column_weights = _cubic_taps(shape[1], resized[1], top_left[1], size)
    top, left = tf.reduce_min(rows), tf.reduce_min(columns)
    image = image[top : tf.reduce_max(rows) + 1, left : tf.reduce_max(columns) + 1]
    image = tf.cast(image, tf.float32)
    # i: place in the square, t: tap, the rest: rows, columns and channels of the image
    image = tf.einsum("it,itwc->iwc", row_weights, tf.gather(image, rows - top, axis=0))
    return tf.einsum("it,hitc->hic", column_weights, tf.gather(image, columns - left, axis=1))


def _cubic_taps(
    length: tf.Tensor, resized: tf.Tensor, begin: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the four source pixels of each of `size` output pixels, and their weights.

    Keys' cubic convolution (1981) with OpenCV's parameter, pixel centres at half-integers,
    pixels outside the image being those of its border.

    Args:
        length: scalar int32, of the image along this axis.
        resized: scalar int32, of the whole output along this axis.
        begin: scalar int32, the first output pixel that is wanted.
        size: how many are wanted.

    Returns:
        (int32 [size, 4] from 0 to length - 1, float32 [size, 4] with rows that sum to 1).
    """
    scale = tf.cast(length, tf.float64) / tf.cast(resized, tf.float64)
    centre = (tf.cast(begin + tf.range(size), tf.float64) + 0.5) * scale - 0.5
    whole = tf.floor(centre)
    near = centre - whole  # distance to the second tap, 0 to 1
    a = _OPENCV_CUBIC

    def inner(distance: tf.Tensor) -> tf.Tensor:
        return ((a + 2) * distance - (a + 3)) * distance**2 + 1

    def outer(distance: tf.Tensor) -> tf.Tensor:
        return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a

    weights = tf.stack([outer(near + 1), inner(near), inner(1 - near), outer(2 - near)], 1)
    taps = tf.cast(whole, tf.int32)[:, tf.newaxis] + tf.constant([-1, 0, 1, 2])
    return tf.clip_by_value(taps, 0, length - 1), tf.cast(weights, tf.float32)


def _warp_shape(shape: tf.Tensor, size: int) -> tf.Tensor:
    """Height and width with both sides of `size`, int64 [2]."""
    del shape  # whatever it is
    return tf.constant([size, size], tf.int64)


def warp(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resize both sides to `size`: Caffe's rule, between the four nearest pixels also to shrink.

    Args:
        image: uint8 [H, W, 3], of any size.
        size: pixels.

    Returns:
        uint8 [size, size, 3].
    """
    resized = tf.image.resize(image, [size, size], method="bilinear", antialias=False)
    return tf.saturate_cast(tf.floor(resized + 0.5), tf.uint8)


class _Fit(NamedTuple):
    """A way to make a square of a photo: the shape it is resized to, and the square itself."""

    shape: Callable[[tf.Tensor, int], tf.Tensor]
    square: Callable[[tf.Tensor, int], tf.Tensor]


# By `data_prep.conversion_rule.Rule.fit`.
_FITS = {
    "short_side": _Fit(_short_side_shape, short_side_crop),
    "warp": _Fit(_warp_shape, warp),
}

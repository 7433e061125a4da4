"""The orientation that a camera wrote beside a JPEG's pixels, read by TensorFlow operations.

TensorFlow's decoder ignores it, while data_prep turns photos upright; without this, a phone's
portrait would be served lying on its side. Layout: Exif 2.3, section 4.5 (APP1), and TIFF 6.0,
section 2; tag 0x0112.
"""

import tensorflow as tf

# Exif stands before the picture, in a segment of at most 64 kB, usually the first.
_SEARCHED_BYTES = 1 << 18
_ORIENTATION_TAG = 0x0112
_MOST_ENTRIES = 512  # of a directory; a real one has some dozens


def orientation(photo: tf.Tensor) -> tf.Tensor:
    """The value of the Exif orientation tag.

    Args:
        photo: scalar string, the bytes of a file.

    Returns:
        Scalar int64, 1 to 8; 1 (upright) when the bytes are no JPEG, have no such tag or a
        broken one. Never fails.
    """
    head = tf.io.decode_raw(tf.strings.substr(photo, 0, _SEARCHED_BYTES), tf.uint8)
    # Zeros behind the end, so that every read has something to read.
    head = tf.concat([head, tf.zeros([16], tf.uint8)], 0)
    size = tf.size(head, tf.int64)

    def byte(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(head, tf.clip_by_value(position, 0, size - 1)), tf.int64)

    def is_exif(marker: tf.Tensor) -> tf.Tensor:
        begin = marker + tf.range(1, 10, dtype=tf.int64)
        wanted = tf.constant([0xE1, *b"Exif\0\0"], tf.int64)
        found = tf.gather(byte(begin), [0, 3, 4, 5, 6, 7, 8])  # between them, the length
        return tf.reduce_all(found == wanted)

    def goes_on(marker: tf.Tensor) -> tf.Tensor:
        is_marker = (byte(marker) == 0xFF) & (byte(marker + 1) != 0xDA)  # 0xDA: the picture
        return is_marker & (marker < size) & ~is_exif(marker)

    def next_marker(marker: tf.Tensor) -> tf.Tensor:
        length = byte(marker + 2) * 256 + byte(marker + 3)
        is_filler = byte(marker + 1) == 0xFF
        return tf.where(is_filler, marker + 1, marker + 2 + length)

    after_start = tf.constant(2, tf.int64)  # of FF D8
    (marker,) = tf.while_loop(goes_on, lambda marker: (next_marker(marker),), (after_start,))
    is_jpeg = (byte(tf.constant(0, tf.int64)) == 0xFF) & (byte(tf.constant(1, tf.int64)) == 0xD8)
    return tf.where(is_jpeg & is_exif(marker), _read_tiff(byte, marker + 10), 1)


def _read_tiff(byte, start: tf.Tensor) -> tf.Tensor:
    """The orientation in the first directory of the TIFF header at `start`."""
    is_little_endian = byte(start) == ord("I")

    def number(position: tf.Tensor, length: int) -> tf.Tensor:
        bytes_ = byte(position[..., tf.newaxis] + tf.range(length, dtype=tf.int64))
        powers = tf.constant([256**power for power in range(length)], tf.int64)
        return tf.reduce_sum(
            bytes_ * tf.where(is_little_endian, powers, tf.reverse(powers, [0])), -1
        )

    directory = start + number(start + 4, 4)
    count = tf.minimum(number(directory, 2), _MOST_ENTRIES)
    entries = directory + 2 + 12 * tf.range(count)
    values = tf.boolean_mask(number(entries + 8, 2), number(entries, 2) == _ORIENTATION_TAG)
    value = tf.concat([values, [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors an image as its orientation asks.

    Args:
        image: [H, W, C].
        orientation: scalar int64, 1 to 8.

    Returns:
        [H, W, C], or [W, H, C] for 5 to 8.
    """

    def one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(values, tf.int64))

    image = tf.cond(one_of(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(one_of(2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(one_of(3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)

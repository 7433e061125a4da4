"""The orientation that a camera wrote beside a photo's pixels, read by TensorFlow operations.

TensorFlow's decoders ignore it, while data_prep turns photos upright; without this, a phone's
portrait would be served lying on its side. Layout: Exif 2.3, section 4.5 (APP1 of a JPEG), PNG's
third edition, section 11.3.2.5 (its chunk eXIf), and TIFF 6.0, section 2; tag 0x0112.
"""

from collections.abc import Callable

import tensorflow as tf

# In a JPEG, Exif stands before the picture, in a segment of at most 64 kB, usually the first.
_SEARCHED_BYTES = 1 << 18
_MOST_EXIF_BYTES = 1 << 16
_ORIENTATION_TAG = 0x0112
_MOST_ENTRIES = 512  # of a directory; a real one has some dozens
# Of a JPEG's segments and a PNG's chunks. A real JPEG has some dozens, a PNG one each 8 kB; a file
# made of nothing else would keep the server busy.
_MOST_SEGMENTS, _MOST_CHUNKS = 1 << 10, 1 << 14
_PNG_START = b"\x89PNG\r\n\x1a\n"


def orientation(photo: tf.Tensor) -> tf.Tensor:
    """Return the value of the Exif orientation tag.

    Args:
        photo: scalar string, the bytes of a file.

    Returns:
        Scalar int64, 1 to 8; 1 (upright) when the bytes are neither JPEG nor PNG, have no such
        tag or a broken one. Never fails.
    """
    is_jpeg = tf.strings.substr(photo, 0, 2) == b"\xff\xd8"
    is_png = tf.strings.substr(photo, 0, len(_PNG_START)) == _PNG_START
    nothing = tf.constant(b"")
    tiff = tf.cond(
        is_jpeg,
        lambda: _exif_of_jpeg(photo),
        lambda: tf.cond(is_png, lambda: _exif_of_png(photo), lambda: nothing),
    )
    return _read_tiff(tiff)


def _exif_of_jpeg(photo: tf.Tensor) -> tf.Tensor:
    """Return the content of the Exif segment after its name; empty if there is none."""
    byte, size = _reader(tf.strings.substr(photo, 0, _SEARCHED_BYTES))

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
    (marker,) = tf.while_loop(
        goes_on,
        lambda marker: (next_marker(marker),),
        (after_start,),
        maximum_iterations=_MOST_SEGMENTS,
    )
    return tf.cond(is_exif(marker), lambda: _part(photo, marker + 10), lambda: tf.constant(b""))


def _exif_of_png(photo: tf.Tensor) -> tf.Tensor:
    """Return the content of the chunk eXIf, anywhere in the file; empty if there is none."""
    size = tf.cast(tf.strings.length(photo), tf.int64)

    def name(chunk: tf.Tensor) -> tf.Tensor:
        return tf.strings.substr(photo, tf.minimum(chunk + 4, size - 1), 4)

    def next_chunk(chunk: tf.Tensor) -> tf.Tensor:
        byte, _ = _reader(tf.strings.substr(photo, chunk, 4))
        powers = tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64)
        length = tf.reduce_sum(byte(tf.range(4, dtype=tf.int64)) * powers)
        return chunk + 12 + length  # of length, name and checksum

    def is_exif(chunk: tf.Tensor) -> tf.Tensor:
        return (chunk < size) & (name(chunk) == b"eXIf")

    after_start = tf.constant(len(_PNG_START), tf.int64)
    (chunk,) = tf.while_loop(
        lambda chunk: (chunk < size) & ~is_exif(chunk),
        lambda chunk: (next_chunk(chunk),),
        (after_start,),
        maximum_iterations=_MOST_CHUNKS,
    )
    return tf.cond(is_exif(chunk), lambda: _part(photo, chunk + 8), lambda: tf.constant(b""))


def _part(photo: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Return the bytes from an offset on, as many as Exif may have; empty past the end."""
    size = tf.cast(tf.strings.length(photo), tf.int64)
    return tf.strings.substr(photo, tf.minimum(start, size), _MOST_EXIF_BYTES)


def _reader(text: tf.Tensor) -> tuple[Callable[[tf.Tensor], tf.Tensor], tf.Tensor]:
    """Return a function from offsets to bytes (int64, 0 past the end), and their number."""
    # Zeros behind the end, so that every read has something to read.
    data = tf.concat([tf.io.decode_raw(text, tf.uint8), tf.zeros([16], tf.uint8)], 0)
    size = tf.size(data, tf.int64)

    def byte(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(data, tf.clip_by_value(position, 0, size - 1)), tf.int64)

    return byte, size


def _read_tiff(tiff: tf.Tensor) -> tf.Tensor:
    """Return the orientation in the first directory of a TIFF file; 1 if there is none."""
    byte, _ = _reader(tiff)
    is_little_endian = byte(tf.constant(0, tf.int64)) == ord("I")

    def number(position: tf.Tensor, length: int) -> tf.Tensor:
        bytes_ = byte(position[..., tf.newaxis] + tf.range(length, dtype=tf.int64))
        powers = tf.constant([256**power for power in range(length)], tf.int64)
        return tf.reduce_sum(
            bytes_ * tf.where(is_little_endian, powers, tf.reverse(powers, [0])), -1
        )

    directory = number(tf.constant(4, tf.int64), 4)
    count = tf.minimum(number(directory, 2), _MOST_ENTRIES)
    entries = directory + 2 + 12 * tf.range(count)
    values = tf.boolean_mask(number(entries + 8, 2), number(entries, 2) == _ORIENTATION_TAG)
    value = tf.concat([values, [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotate and mirror an image by its orientation.

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

"""Photos as people have them -> what a record stores of them; pure functions of bytes.

By default that is the rule of the authors' 2012 program: the short side becomes 256 pixels (area
averaging to shrink, bicubic to grow), the central square is kept, as a JPEG of quality 95.
What else can be asked for is in `data_prep.conversion_rule`; what a photo may be, in
`data_prep.photos.decoding`.
"""

import dataclasses
import io

import cv2
import numpy as np
from PIL import Image

from data_prep.conversion_rule import TRUNCATED, Rule
from data_prep.photos import decoding, jpeg_markers

# Part of every recipe: raise it when the same photo would give other bytes than before.
VERSION = 2
# Of the long side, where it is kept: what libjpeg writes.
LONGEST_SIDE = 65_500

ICC_PROFILES = (
    "Ignored: pixel values are stored as they were, as the 2012 tool, TensorFlow and OpenCV read "
    "them; photos that had a profile are counted under the note icc_profile_ignored."
)

_THUMBNAIL_QUALITY = 80


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A photo as a record stores it, or the reason why there is no record.

    Attributes:
        original_height: of the photo, upright, pixels; 0 where its header could not be read.
        original_width: likewise.
        reason: of `decoding.UnusableError`, or "too_elongated"; "" where there is a record.
        image: a baseline RGB JPEG, or raw pixels.
        height: of `image`, pixels.
        width: likewise.
        repairs: what had to be done besides resizing, in the order of `decoding.Decoded`.
        notes: what else is to be known of it: "icc_profile_ignored", "passed_through".
    """

    original_height: int
    original_width: int
    reason: str = ""
    image: bytes = b""
    height: int = 0
    width: int = 0
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def convert(data: bytes, rule: Rule) -> Conversion:
    """Convert a photo of any kind to what a record stores. Never raises, whatever `data` is.

    Args:
        data: the file's bytes; of an animation, the first frame is taken.
        rule: what to make of it.
    """
    try:
        photo = decoding.decode(data, fill_after=TRUNCATED[rule.truncated])
    except decoding.UnusableError as error:
        return Conversion(error.height, error.width, error.reason)
    original = photo.pixels.shape[:2]
    square = (rule.short_side, rule.short_side)
    fitted = square if rule.fit == "warp" else _fitted(*original, rule.short_side)
    # A line of pixels grows by a factor of size squared.
    too_long = rule.crop == "none" and max(fitted) > LONGEST_SIDE
    if too_long or fitted[0] * fitted[1] > decoding.MAX_PIXELS:
        return Conversion(*original, "too_elongated")
    stored = fitted if rule.crop == "none" else square
    is_as_wanted = rule.pass_through and not photo.repairs and original == stored
    if is_as_wanted and jpeg_markers.is_baseline_rgb(data):
        image, notes = data, (*photo.notes, "passed_through")
    else:
        pixels, notes = _resized(photo.pixels, fitted, rule.fit), photo.notes
        if rule.crop == "center":
            pixels = central_square(pixels, rule.short_side)
        image = pixels.tobytes() if rule.storage == "raw" else _encoded(pixels, rule.quality)
    return Conversion(*original, "", image, *stored, photo.repairs, notes)


def decode_stored(image: bytes, *, storage: str, height: int, width: int) -> np.ndarray:
    """Return the pixels of what `convert` stored, [height, width, 3] uint8 RGB.

    Raises:
        ValueError: it is not of that size, no RGB JPEG, or damaged.
    """
    if storage == "raw":
        if len(image) != height * width * 3:
            raise ValueError(
                f"{height} x {width} x 3 bytes of pixels are required. Received: {len(image)} bytes"
            )
        return np.frombuffer(image, np.uint8).reshape(height, width, 3)
    try:
        with Image.open(io.BytesIO(image), formats=["JPEG"]) as header:
            found = (header.height, header.width)
            mode, scan = header.mode, header.fp.tell()
    except Exception as error:  # decoders raise whatever they like on broken input
        raise ValueError("a JPEG is required. Received: bytes that do not open as one") from error
    if mode != "RGB":
        raise ValueError(f"an RGB JPEG is required. Received: one with {mode} pixels")
    if found != (height, width):
        raise ValueError(
            f"a photo of {height} x {width} pixels is required. Received: {found[0]} x {found[1]}"
        )
    pixels = decoding.decode_plain_jpeg(image, scan)
    if pixels is None:
        raise ValueError("a whole JPEG is required. Received: one that is damaged or has no end")
    return pixels


def stored_pixels(photo: Conversion, rule: Rule) -> np.ndarray:
    """Return the pixels of what `convert` has just stored, [height, width, 3] uint8 RGB.

    As `decode_stored`, but without its checks: nothing can have happened to it since.

    Args:
        photo: the conversion's result.
        rule: of the conversion.
    """
    data = np.frombuffer(photo.image, np.uint8)
    if rule.storage == "raw":
        return data.reshape(photo.height, photo.width, 3)
    return cv2.imdecode(data, decoding.PLAIN_JPEG)


def resize_and_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize by the 2012 program's rule: short side to `size`, then the central square.

    Args:
        pixels: [height, width, 3] uint8.
        size: pixels.

    Returns:
        [size, size, 3] uint8.
    """
    fitted = _fitted(*pixels.shape[:2], size)
    return central_square(_resized(pixels, fitted, "short_side"), size)


def central_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return the central square of a photo; half a pixel up or left where the middle cannot be met.

    Args:
        pixels: [height, width, 3].
        size: pixels.

    Returns:
        [size, size, 3], a view of `pixels`.

    Raises:
        ValueError: a side is shorter than `size`.
    """
    height, width, _ = pixels.shape
    if min(height, width) < size:
        raise ValueError(
            f"at least {size} x {size} pixels are required. Received: {height} x {width}"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def thumbnail(data: bytes, side: int = 96) -> bytes:
    """Return a small JPEG for a person to look at, of whatever can be decoded of `data`.

    Args:
        data: a file's bytes, broken or not; the limits on bytes and pixels hold.
        side: at most so many pixels each way; smaller photos are not enlarged.

    Returns:
        The JPEG, or nothing where nothing can be shown. Never raises.
    """
    try:
        pixels = decoding.decode(data, fill_after=("truncated", "undecodable")).pixels
    except decoding.UnusableError:
        return b""
    height, width, _ = pixels.shape
    longest = max(height, width)
    if longest > side:
        fitted = (max(1, height * side // longest), max(1, width * side // longest))
        pixels = _resized(pixels, fitted, "short_side")
    return _encoded(pixels, _THUMBNAIL_QUALITY)


def _fitted(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) once the short side is `size`."""
    short = min(height, width)
    # Rounded half up, in integers so that no machine rounds differently.
    return (2 * height * size + short) // (2 * short), (2 * width * size + short) // (2 * short)


def _resized(pixels: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Return `pixels` at `size`, (height, width), by the interpolation of `fit`."""
    if pixels.shape[:2] == size:
        return pixels
    if fit == "warp":
        method = cv2.INTER_LINEAR
    else:
        method = cv2.INTER_AREA if min(pixels.shape[:2]) > min(size) else cv2.INTER_CUBIC
    return cv2.resize(pixels, size[::-1], interpolation=method)


def _encoded(pixels: np.ndarray, quality: int) -> bytes:
    """Return a baseline JPEG, its chroma at half resolution, as is libjpeg's default."""
    options = (
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
        *(cv2.IMWRITE_JPEG_PROGRESSIVE, 0),
        *(cv2.IMWRITE_JPEG_OPTIMIZE, 0),
    )
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return jpeg.tobytes()

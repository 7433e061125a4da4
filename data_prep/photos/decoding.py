"""Photos as people have them -> upright RGB pixels, with a list of what had to be done.

What a file is, is read from its bytes and never from its name: ILSVRC2012 has CMYK photos and a
PNG called .JPEG. Pillow opens every photo: it knows the formats, and its headers tell the size
before a pixel is decoded. A JPEG of three components in one whole scan is then decoded by OpenCV,
which gives the same pixels (both hold libjpeg-turbo) in four fifths of the time (an AMD EPYC);
everything else is Pillow's. What libjpeg merely warns of is a photo, as it was for the 2012 tool.

Photos are turned upright by their EXIF or XMP.
"""

import contextlib
import dataclasses
import io
import threading
import warnings
from collections.abc import Collection, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError

from data_prep.photos import jpeg_markers

# What the decoders are offered; Pillow knows dozens more formats, each one more to attack.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
# 256 MiB once decoded. More is a decompression bomb, or a photo to shrink before it comes here.
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28
# Of the pixels of a photo, those that must be there for it to be called a photo.
LEAST_PART = 1 / 8

# A worker a core is what uses a machine; OpenCV's own threads would only get in their way.
cv2.setNumThreads(1)
# Pillow's remarks on odd metadata. Once for all: to do so a photo is not safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

# How OpenCV decodes a JPEG of three components to what is stored in it.
PLAIN_JPEG = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# How files begin, and how whole ones end.
_ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB`\x82", b"GIF8": b";"}

_UPRIGHT = 1
_EXIF_ORIENTATION = 0x0112
# EXIF 2.32, table 6: what undoes each.
_UNDONE_BY = {
    _UPRIGHT: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXCHANGE_SIDES = range(5, 9)

# Pillow fills in what is missing of a file by a switch of the whole process: see `_pillow`.
_PILLOW = threading.Lock()


class UnusableError(Exception):
    """A photo that cannot be decoded.

    Attributes:
        reason: "empty", "truncated", "not_a_photo", "undecodable", "unsupported_pixels",
            "too_many_bytes" or "too_many_pixels".
        height: of the photo, upright, in pixels; 0 where its header could not be read.
        width: likewise.
    """

    def __init__(self, reason: str, height: int = 0, width: int = 0):
        super().__init__(reason)
        self.reason, self.height, self.width = reason, height, width


@dataclasses.dataclass(frozen=True)
class Decoded:
    """The pixels of a photo.

    Attributes:
        pixels: [height, width, 3] uint8 RGB, upright.
        repairs: what had to be done, in this order: "not_a_jpeg", "16_bit_to_8_bit",
            "cmyk_to_rgb", "grey_to_rgb", "palette_to_rgb", "other_colors_to_rgb",
            "alpha_over_white", "exif_rotated", "truncated_tail_filled".
        notes: what was seen and left as it is: "icc_profile_ignored".
    """

    pixels: np.ndarray
    repairs: tuple[str, ...]
    notes: tuple[str, ...]


class _Header(NamedTuple):
    height: int
    width: int
    orientation: int
    scan: int  # where the pixels of a JPEG of three components begin; 0 for other photos
    notes: tuple[str, ...]


def decode(data: bytes, *, fill_after: Collection[str] = ()) -> Decoded:
    """Return the pixels of a photo of any kind; of an animation, those of its first frame.

    Args:
        data: the file's bytes, of one of `FORMATS`.
        fill_after: reasons ("truncated", "undecodable") after which the part of the photo that
            can be decoded is taken, the rest filled by the decoder (grey or black). With less
            than `LEAST_PART` of its pixels there, the reason stands.

    Raises:
        UnusableError: and nothing else, whatever `data` is.
    """
    if not data:
        raise UnusableError("empty")
    if len(data) > MAX_BYTES:
        raise UnusableError("too_many_bytes")
    try:
        return _decode(data, fill_missing=False)
    except UnusableError as error:
        if error.reason not in fill_after or not error.height:
            raise
        first = error
    try:
        photo = _decode(data, fill_missing=True)
    except UnusableError:
        raise first from None
    # Filling has rows of one color. Of a JPEG's first block, zeros in place of data make noise.
    if (photo.pixels != photo.pixels[:, -1:]).any(axis=2).mean() < LEAST_PART:
        raise first
    return dataclasses.replace(photo, repairs=(*photo.repairs, "truncated_tail_filled"))


def decode_plain_jpeg(data: bytes, scan: int) -> np.ndarray | None:
    """Return the pixels of a JPEG of three components.

    Args:
        data: the file's bytes.
        scan: where the pixels begin in it: as far as Pillow reads to open it.

    Returns:
        [height, width, 3] uint8 RGB, not turned upright; None unless it is one whole scan.
    """
    # Past a marker that damage made, OpenCV would give what it has; Pillow looks what it is.
    if jpeg_markers.end_of_only_scan(data, scan) is None:
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), PLAIN_JPEG)
    except cv2.error:
        return None


def _decode(data: bytes, *, fill_missing: bool) -> Decoded:
    height = width = 0
    try:
        header = _read_header(data)
        height, width = header.height, header.width
        if height * width > MAX_PIXELS:  # known before decoding
            raise UnusableError("too_many_pixels")
        orientation, repairs = header.orientation, []
        pixels = decode_plain_jpeg(data, header.scan) if header.scan else None
        if pixels is None:
            pixels, orientation = _load(data, repairs, fill_missing=fill_missing)
        if max(orientation, header.orientation) > _UPRIGHT:
            repairs.append("exif_rotated")
        if orientation > _UPRIGHT:
            pixels = np.asarray(Image.fromarray(pixels).transpose(_UNDONE_BY[orientation]))
        return Decoded(pixels, tuple(repairs), header.notes)
    except UnusableError as error:
        raise UnusableError(error.reason, height, width) from None
    except Image.DecompressionBombError:  # Pillow's own limit, which is above ours
        raise UnusableError("too_many_pixels", *_claimed_size(data)) from None
    except Exception as error:  # decoders raise whatever they like on broken input
        raise UnusableError(_reason(data, error), height, width) from error


@contextlib.contextmanager
def _pillow(*, fill_missing: bool = False) -> Iterator[None]:
    """Hold Pillow, which may fill in what is missing, for this thread alone."""
    with _PILLOW:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = fill_missing
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _read_header(data: bytes) -> _Header:
    with _pillow(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        notes = ("icc_profile_ignored",) if "icc_profile" in image.info else ()
        scan = image.fp.tell() if (image.format, image.mode) == ("JPEG", "RGB") else 0
        orientation = _orientation(image)
        return _Header(*_upright_size(image, orientation), orientation, scan, notes)


def _claimed_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) by the header of an image that Pillow's `open` refuses."""
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept(data[:16]):
            with contextlib.suppress(Exception), factory(io.BytesIO(data), "") as image:
                return _upright_size(image, _orientation(image))
    return 0, 0


def _load(data: bytes, repairs: list[str], *, fill_missing: bool) -> tuple[np.ndarray, int]:
    """Decode by Pillow; return the pixels and the orientation that is still to be undone."""
    with _pillow(fill_missing=fill_missing), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.format not in ("JPEG", "MPO"):  # MPO: a JPEG followed by further ones
            repairs.append("not_a_jpeg")
        # Pillow itself drops the low byte of some 16-bit kinds; only the raw mode tells.
        if any(";16" in str(tile.args) for tile in image.tile):
            repairs.append("16_bit_to_8_bit")
        image.load()
        # Not before: a PNG may have it behind its pixels, and Pillow turns a TIFF while it loads.
        orientation = _orientation(image)
        return np.asarray(_to_rgb(image, repairs)), orientation


def _to_rgb(image: Image.Image, repairs: list[str]) -> Image.Image:
    if image.mode.startswith("I;16"):
        eight_bit = (np.asarray(image) >> 8).astype(np.uint8)
        repairs.append("grey_to_rgb")
        return Image.fromarray(eight_bit).convert("RGB")
    if image.mode in ("I", "F"):  # 32 bits a pixel, of an unknown range
        raise UnusableError("unsupported_pixels")
    if image.mode == "CMYK":
        repairs.append("cmyk_to_rgb")
        # Adobe stores CMYK inverted and says so by a marker. Pillow inverts without asking.
        if image.format in ("JPEG", "MPO") and "adobe" not in image.info:
            image = ImageChops.invert(image)
        return image.convert("RGB")
    if image.mode in ("1", "L", "LA", "La"):
        repairs.append("grey_to_rgb")
    elif image.mode in ("P", "PA"):
        repairs.append("palette_to_rgb")
    elif image.mode not in ("RGB", "RGBA", "RGBa"):
        repairs.append("other_colors_to_rgb")
    if image.has_transparency_data:
        repairs.append("alpha_over_white")
        colors = image.convert("RGBA")
        white = Image.new("RGBA", colors.size, "white")
        return Image.alpha_composite(white, colors).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    """Return a reason without the decoder's own words, which hold memory addresses."""
    if isinstance(error, EOFError) or "truncated" in str(error).lower() or _lacks_end(data):
        return "truncated"
    is_known = any(Image.OPEN[name][1](data[:16]) for name in FORMATS)
    if isinstance(error, UnidentifiedImageError) and not is_known:
        return "not_a_photo"
    return "undecodable"


def _lacks_end(data: bytes) -> bool:
    for start, end in _ENDS.items():
        if data.startswith(start):
            return not data.rstrip(b"\0").endswith(end)
    # WebP is a RIFF file, which begins with its length; so does a BMP.
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return data.startswith(b"BM") and int.from_bytes(data[2:6], "little") > len(data)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where there is none or none that counts."""
    try:
        # Not image.getexif(): a PNG's own decodes all of it first, were it a bomb or not.
        orientation = Image.Image.getexif(image).get(_EXIF_ORIENTATION)
        return orientation if orientation in _UNDONE_BY else _UPRIGHT
    except Exception:  # broken metadata are no reason to lose a photo
        return _UPRIGHT


def _upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Return (height, width), once upright, of an image that is opened but not loaded."""
    # Of a TIFF, Pillow itself exchanges the two.
    if orientation in _EXCHANGE_SIDES and image.format != "TIFF":
        return image.width, image.height
    return image.height, image.width

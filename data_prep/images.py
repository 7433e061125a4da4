"""Photos as people have them -> square baseline RGB JPEGs; pure functions of bytes.

The rule is that of the authors' 2012 program: the short side becomes `size` pixels (area averaging
to shrink, bicubic to grow), the central square is kept, JPEG quality 95. What a file is, is read
from its bytes and never from its name: ILSVRC2012 has CMYK photos and a PNG called .JPEG.
"""

import dataclasses
import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

# Part of every recipe: raise it when the same photo would give other bytes than before.
VERSION = 1
# What the decoders are offered; Pillow knows dozens more formats, each one more to attack.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
# 256 MiB once decoded. More is a decompression bomb, or a photo to shrink before it comes here.
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28
# Of the side of a stored photo.
LARGEST_SIZE = 4096

# A worker a core is what uses a machine; OpenCV's own threads would only get in their way.
cv2.setNumThreads(1)

_EXIF_ORIENTATION = 0x0112
# EXIF 2.32, table 6: what undoes each orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Converted:
    """A photo that became a record.

    Attributes:
        jpeg: baseline RGB JPEG of size x size pixels.
        repairs: what had to be done besides resizing, in order: "not_a_jpeg", "exif_rotated",
            "16_bit_to_8_bit", "cmyk_to_rgb", "grey_to_rgb", "palette_to_rgb",
            "alpha_over_white", "other_colors_to_rgb".
    """

    jpeg: bytes
    repairs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A photo that could not become a record.

    Attributes:
        reason: "empty", "truncated", "not_a_photo", "undecodable", "unsupported_pixels",
            "too_many_bytes", "too_many_pixels" or "too_elongated".
    """

    reason: str


class _RejectError(Exception):
    """Carries a reason of `Rejected` out of the conversion."""


def convert(data: bytes, *, size: int = 256, quality: int = 95) -> Converted | Rejected:
    """Makes a photo of any kind the square JPEG of the data set. Never raises, whatever `data` is.

    Args:
        data: the file's bytes, of one of `FORMATS`; of an animation the first frame is taken.
        size: side of the result, pixels.
        quality: of the JPEG, 1 to 100.
    """
    if not data:
        return Rejected("empty")
    if len(data) > MAX_BYTES:
        return Rejected("too_many_bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, of each photo
            repairs: list[str] = []
            pixels = _decode(data, repairs)
            return Converted(_encode(resize_and_crop(pixels, size), quality), tuple(repairs))
    except _RejectError as rejection:
        return Rejected(str(rejection))
    except Exception as error:  # decoders raise whatever they like on broken input
        return Rejected(_reason(data, error))


def decode_record(jpeg: bytes) -> np.ndarray:
    """The pixels of a JPEG that `convert` made, [size, size, 3] uint8 RGB.

    Raises:
        ValueError: it is no RGB JPEG, or is damaged.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            mode, pixels = image.mode, np.asarray(image)
    except Exception as error:  # as above
        raise ValueError("a JPEG is required. Received: bytes that do not decode as one") from error
    if mode != "RGB":
        raise ValueError(f"an RGB JPEG is required. Received: one with {mode} pixels")
    return pixels


def resize_and_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """The 2012 program's rule: short side to `size`, then the central square.

    Args:
        pixels: [height, width, 3] uint8.
        size: pixels.

    Returns:
        [size, size, 3] uint8.
    """
    height, width, _ = pixels.shape
    short = min(height, width)
    # Rounded half up, in integers so that no machine rounds differently.
    new_height, new_width = ((2 * side * size + short) // (2 * short) for side in (height, width))
    if new_height * new_width > MAX_PIXELS:  # a line of pixels grows by a factor of size squared
        raise _RejectError("too_elongated")
    if short != size:
        method = cv2.INTER_AREA if short > size else cv2.INTER_CUBIC
        pixels = cv2.resize(pixels, (new_width, new_height), interpolation=method)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return pixels[top : top + size, left : left + size]


def _decode(data: bytes, repairs: list[str]) -> np.ndarray:
    """[height, width, 3] uint8 RGB, upright; appends to `repairs` what it did."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:  # known from the header, before decoding
            raise _RejectError("too_many_pixels")
        if image.format not in ("JPEG", "MPO"):  # MPO: a JPEG followed by further ones
            repairs.append("not_a_jpeg")
        # Pillow itself drops the low byte of some 16-bit kinds; only the raw mode tells.
        if any(";16" in str(tile.args) for tile in image.tile):
            repairs.append("16_bit_to_8_bit")
        orientation = _orientation(image)
        image.load()
        rgb = _to_rgb(image, repairs)
        if orientation in _UPRIGHT:
            repairs.append("exif_rotated")
            rgb = rgb.transpose(_UPRIGHT[orientation])
        return np.asarray(rgb)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # broken metadata are no reason to lose a photo
        return None


def _to_rgb(image: Image.Image, repairs: list[str]) -> Image.Image:
    if image.mode.startswith("I;16"):
        eight_bit = (np.asarray(image) >> 8).astype(np.uint8)
        repairs.append("grey_to_rgb")
        return Image.fromarray(eight_bit).convert("RGB")
    if image.mode in ("I", "F"):  # 32 bits a pixel, of an unknown range
        raise _RejectError("unsupported_pixels")
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
    # convert() would copy even what is RGB already: a tenth of the whole conversion.
    return image if image.mode == "RGB" else image.convert("RGB")


def _encode(pixels: np.ndarray, quality: int) -> bytes:
    """A baseline JPEG, its chroma at half resolution (the default of libjpeg, said aloud)."""
    output = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        output, "JPEG", quality=quality, subsampling="4:2:0", progressive=False, optimize=False
    )
    return output.getvalue()


def _reason(data: bytes, error: Exception) -> str:
    """A reason without the decoder's own words, which hold memory addresses."""
    is_jpeg = data.startswith(b"\xff\xd8\xff")
    lacks_end = is_jpeg and not data.rstrip(b"\0").endswith(b"\xff\xd9")
    if lacks_end or isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit is another
        return "too_many_pixels"
    if isinstance(error, UnidentifiedImageError) and not is_jpeg:
        return "not_a_photo"
    return "undecodable"

"""Bad and odd photos, made from scratch: what each is, what it ends as, and what it shows.

References are computed from the picture that was encoded, by NumPy and Pillow; nothing here
imports the package.
"""

import base64
import functools
import io
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

SIDE = 64
# Of the mean difference to the reference, grey levels: none, or what a JPEG or WebP costs.
EXACT, LOSSY = 0, 2

# picture(16, 16) by Pillow at quality 90 and 4:4:4, then `jpegtran -arithmetic -copy none` of
# libjpeg-turbo 2.1.5: Pillow itself writes no arithmetic coding.
_ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsL"
    "EBYQERMUFRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
    "FBQUFBQUFBQUFBQUFBQUFBQUFBT/yQARCAAQABADAREAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDSwUCJ"
    "WHgi79QiPC2ttEbOQuklIBGMmghJcX3/AO8LrNIiLf4R8m4PrgfpqR3c8jv3NqaK9gzsOnv4/lunXYE/XlFgrU9EVFjo"
    "uf8APSllPyLGj9RRyb707BAOHCef0jNwzHQZsQlXY21X9MnFOexmZLCMZ1JHxmyl+5cSz1P1d+LcO1JCSsnspmIoa6WO"
    "W6NTNRbs8XMyKaGgIO3cEOnGhabw33NfJZTnT8b5vkP7gP/Z"
)


class OddPhoto(NamedTuple):
    """A photo and its end.

    Attributes:
        data: the file.
        reason: why it is rejected; "" where it becomes a record.
        repairs: of the record.
        notes: of the record.
        pixels: what the record shows, [height, width, 3] uint8; None where it is rejected, or
            where nobody can say what it shows.
        tolerance: EXACT or LOSSY.
        size: (height, width) of a rejected photo, as far as its header tells.
    """

    data: bytes
    reason: str = ""
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pixels: np.ndarray | None = None
    tolerance: float = EXACT
    size: tuple[int, int] = (0, 0)


def picture(height=SIDE, width=SIDE, seed=0):
    """Smooth random colors, [height, width, 3] uint8: survives JPEG almost unchanged."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind="JPEG", **options):
    output = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(output, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return output.getvalue()


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png(width, height, depth, colors, *chunks):
    """Return a PNG by hand, with chunks (name, content) between its header and its end."""
    header = struct.pack(">IIBBBBB", width, height, depth, colors, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )


def without_segment(data, code):
    """Return a JPEG without its first segment of `code`."""
    start = data.index(b"\xff" + bytes([code]))
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def with_bytes(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def with_jpeg_size(data, height, width):
    """Return a JPEG whose header claims another size."""
    return with_bytes(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


def grey(pixels):
    return np.repeat(np.asarray(pixels, np.uint8)[..., None], 3, axis=2)


def _no_photos():
    return {
        name: OddPhoto(data, reason)
        for name, data, reason in [
            ("empty file", b"", "empty"),
            ("text", b"no photo here\n" * 9, "not_a_photo"),
            ("web page", b"<!DOCTYPE html><html>404</html>", "not_a_photo"),
            ("zeros", bytes(4096), "not_a_photo"),
            ("PDF", b"%PDF-1.4\n", "not_a_photo"),
            ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_a_photo"),
            ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_a_photo"),
            ("AVIF", b"\0\0\0\x1cftypavif" + bytes(99), "not_a_photo"),
        ]
    }


def _broken():
    photo, size = picture(), (SIDE, SIDE)
    jpeg = encoded(photo)
    half = len(jpeg) // 2
    scan = jpeg.index(b"\xff\xda") + 14
    noise = np.random.default_rng(0).integers(0, 255, half, np.uint8).tobytes()
    kinds = {
        "JPEG cut in its header": OddPhoto(jpeg[:90], "truncated"),
        "JPEG cut in its pixels": OddPhoto(jpeg[:half], "truncated", size=size),
        "JPEG cut before its pixels": OddPhoto(jpeg[:scan], "truncated", size=size),
        "JPEG without its end marker": OddPhoto(jpeg[:-2], "truncated", size=size),
        "JPEG with a tail of zeros": OddPhoto(jpeg[:half] + bytes(half), "truncated", size=size),
        "JPEG with a broken quantization table": OddPhoto(
            with_bytes(jpeg, jpeg.index(b"\xff\xdb") + 2, b"\0\0"), "undecodable", size=size
        ),
        "JPEG with a broken Huffman table": OddPhoto(
            with_bytes(jpeg, jpeg.index(b"\xff\xc4") + 5, b"\xff" * 16), "undecodable", size=size
        ),
        "JPEG of 12 bits": OddPhoto(
            with_bytes(jpeg, jpeg.index(b"\xff\xc0") + 4, b"\x0c"), "undecodable"
        ),
        # What libjpeg only warns of.
        "JPEG with other Huffman codes": OddPhoto(_other_huffman_codes(jpeg)),
        "JPEG header, then junk": OddPhoto(jpeg[:scan] + noise),
        "JPEG damaged in its middle": OddPhoto(with_bytes(jpeg, half, b"\xaa" * 40)),
        "JPEG with junk behind its end": OddPhoto(jpeg + noise, pixels=photo, tolerance=LOSSY),
        "PNG with damaged pixels": OddPhoto(
            _damaged_pixels(encoded(photo, "PNG")), "undecodable", size=size
        ),
    }
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        data = encoded(photo, kind)
        kinds[f"{kind} cut in its pixels"] = OddPhoto(
            data[: len(data) // 2], "truncated", size=size
        )
    data = encoded(photo, "WEBP")
    # libwebp wants the whole file, even to say how large the photo is.
    kinds["WebP cut in its pixels"] = OddPhoto(data[: len(data) // 2], "truncated")
    return kinds


def _other_huffman_codes(jpeg):
    """Reverse the values of the first AC table: every code is valid, and means another one."""
    at = jpeg.index(b"\x10", jpeg.index(b"\xff\xc4\x00\xb5"))
    values = jpeg[at + 17 : at + 17 + 162]
    return with_bytes(jpeg, at + 17, values[::-1])


def _damaged_pixels(data):
    at = data.index(b"IDAT")
    return with_bytes(data, at + 40, bytes([data[at + 40] ^ 1]))


def _jpegs():
    photo = picture()
    image = Image.fromarray(photo)
    cmyk = encoded(image.convert("CMYK"))
    inverted = encoded(Image.fromarray(255 - np.asarray(image.convert("CMYK")), "CMYK"))
    # YCCK holds the luma and chroma of the negative. Pillow inverts four channels as it writes them
    # and says "Adobe, not transformed" before them.
    channels = np.concatenate(
        [np.asarray(Image.fromarray(255 - photo).convert("YCbCr")), np.full((SIDE, SIDE, 1), 255)],
        2,
    )
    stored = encoded(Image.fromarray(255 - channels.astype(np.uint8), "CMYK"))
    ycck = with_bytes(stored, stored.index(b"Adobe") + 11, b"\x02")
    lightness = image.convert("L")
    huffman = encoded(picture(16, 16), quality=90, subsampling=0)  # what was made arithmetic
    huffman = np.asarray(Image.open(io.BytesIO(huffman)))
    second = Image.fromarray(picture(seed=1))
    exif, icc = oriented(1), ("icc_profile_ignored",)
    exif[0x010E] = "a description"
    profile = b"\0" * 36 + b"acsp" + bytes(99)
    cmyk_end = {"repairs": ("cmyk_to_rgb",), "pixels": photo, "tolerance": LOSSY}
    plain = {"pixels": photo, "tolerance": LOSSY}
    kinds = {
        "JPEG, CMYK of Adobe's": OddPhoto(cmyk, **cmyk_end),
        "JPEG, CMYK without Adobe's marker": OddPhoto(without_segment(inverted, 0xEE), **cmyk_end),
        "JPEG, YCCK": OddPhoto(ycck, **cmyk_end),
        "JPEG, grey": OddPhoto(
            encoded(lightness), "", ("grey_to_rgb",), (), grey(lightness), LOSSY
        ),
        "JPEG, stored as RGB": OddPhoto(encoded(photo, keep_rgb=True), **plain),
        "JPEG, progressive": OddPhoto(encoded(photo, progressive=True), **plain),
        "JPEG, arithmetic coding": OddPhoto(_ARITHMETIC, "", (), (), huffman, LOSSY),
        "JPEG, restart markers": OddPhoto(encoded(photo, restart_marker_blocks=1), **plain),
        "JPEG with further pictures (MPO)": OddPhoto(
            encoded(image, "MPO", quality=95, save_all=True, append_images=[second]), **plain
        ),
        "JPEG, upright EXIF": OddPhoto(encoded(photo, exif=exif), **plain),
        "JPEG, broken EXIF": OddPhoto(
            encoded(photo, exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff"), **plain
        ),
        "JPEG, ICC profile": OddPhoto(encoded(photo, icc_profile=profile), notes=icc, **plain),
        "JPEG, junk for an ICC profile": OddPhoto(
            encoded(photo, icc_profile=b"junk"), notes=icc, **plain
        ),
        "JPEG, part of an ICC profile": OddPhoto(
            encoded(photo, icc_profile=profile).replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2"),
            notes=icc,
            **plain,
        ),
    }
    return kinds | _turned("JPEG", range(1, 9), LOSSY)


def _turned(kind, orientations, tolerance, *repairs, **options):
    photo = picture(48, SIDE)
    undo = {  # as EXIF 2.32 words it: what the first row and the first column stored are
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.swapaxes(0, 1),
        6: np.rot90(photo, -1),
        7: np.rot90(photo, 2).swapaxes(0, 1),
        8: np.rot90(photo),
    }
    return {
        f"{kind}, EXIF orientation {value}": OddPhoto(
            encoded(photo, kind, exif=oriented(value), **options),
            repairs=(*repairs, *(("exif_rotated",) if value > 1 else ())),
            pixels=undo[value],
            tolerance=tolerance,
        )
        for value in orientations
    }


def _other_formats():
    photo = picture()
    image = Image.fromarray(photo)
    second = Image.fromarray(picture(seed=1))
    no_jpeg, lightness = ("not_a_jpeg",), image.convert("L")
    palette = image.quantize(17)
    alpha = np.zeros((SIDE, SIDE, 1), np.uint8)
    alpha[:32], alpha[32:48] = 255, 128
    over_white = np.round(photo * (alpha / 255) + 255 * (1 - alpha / 255))
    grey_over_white = np.round(grey(lightness) * (alpha / 255) + 255 * (1 - alpha / 255))
    half = grey(np.where(np.arange(SIDE) < 32, 0, 255)[None].repeat(SIDE, 0))
    with_alpha = Image.fromarray(np.concatenate([photo, alpha], axis=2))
    frames = {"save_all": True, "append_images": [second]}
    colors = np.asarray(palette.convert("RGB"))
    see_through = np.where((np.asarray(palette) == 3)[..., None], 255, colors)
    kinds = {}
    for kind in ("PNG", "BMP", "TIFF"):
        kinds[f"{kind}, RGB"] = (encoded(photo, kind), (), photo)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        kinds[f"{kind}, palette"] = (encoded(palette, kind), ("palette_to_rgb",), colors)
    both = ("palette_to_rgb", "alpha_over_white")
    for kind in ("PNG", "GIF"):
        data = encoded(palette, kind, transparency=3)
        kinds[f"{kind}, palette with transparency"] = (data, both, see_through)
    lossless = {"lossless": True}
    laid = ("alpha_over_white",)
    kinds |= {
        "WebP, lossless": (encoded(photo, "WEBP", **lossless), (), photo),
        "PNG, RGBA": (encoded(with_alpha, "PNG"), laid, over_white),
        "WebP, RGBA": (encoded(with_alpha, "WEBP", exact=True, **lossless), laid, over_white),
        "PNG, grey and alpha": (
            encoded(Image.merge("LA", (lightness, with_alpha.getchannel("A"))), "PNG"),
            ("grey_to_rgb", "alpha_over_white"),
            grey_over_white,
        ),
        "PNG, grey": (encoded(lightness, "PNG"), ("grey_to_rgb",), grey(lightness)),
        "PNG, 1 bit": (
            encoded(Image.fromarray(half).convert("1"), "PNG"),
            ("grey_to_rgb",),
            half,
        ),
        "PNG, animated (APNG)": (encoded(image, "PNG", **frames), (), photo),
        "WebP, animated": (encoded(image, "WEBP", **frames, **lossless), (), photo),
        "GIF, animated": (
            encoded(palette, "GIF", save_all=True, append_images=[second.quantize(9)]),
            ("palette_to_rgb",),
            colors,
        ),
        "TIFF, CMYK": (
            encoded(image.convert("CMYK"), "TIFF"),
            ("cmyk_to_rgb",),
            photo,
        ),
    }
    found = {
        name: OddPhoto(data, "", no_jpeg + repairs, (), pixels)
        for name, (data, repairs, pixels) in kinds.items()
    }
    found["WebP, lossy"] = OddPhoto(
        encoded(photo, "WEBP", quality=95), "", no_jpeg, (), photo, LOSSY
    )
    found["PNG, ICC profile"] = OddPhoto(
        encoded(photo, "PNG", icc_profile=bytes(128)), "", no_jpeg, ("icc_profile_ignored",), photo
    )
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", lossless)):
        found |= _turned(kind, (6,), EXACT, "not_a_jpeg", **options)
    return found


def _deep():
    photo = picture()
    size = (SIDE, SIDE)
    high = photo[..., 0].astype(np.uint16) << 8
    repairs = ("not_a_jpeg", "16_bit_to_8_bit")
    found = {
        f"{kind}, {bits} of 32 bits": OddPhoto(
            encoded(photo[..., 0].astype(dtype), kind), "unsupported_pixels", size=size
        )
        for kind, bits, dtype in [("TIFF", "floats", np.float32), ("TIFF", "integers", np.int32)]
    }
    for kind in ("PNG", "TIFF"):
        found[f"{kind}, grey of 16 bits"] = OddPhoto(
            encoded(high + 77, kind), "", (*repairs, "grey_to_rgb"), (), grey(photo[..., 0])
        )
        deep = (photo[..., ::-1].astype(np.uint16) << 8) + 77
        data = cv2.imencode(f".{kind.lower()}", deep)[1].tobytes()
        found[f"{kind}, colors of 16 bits"] = OddPhoto(data, "", repairs, (), photo)
    return found


def _bombs():
    small = np.zeros((8, 8, 3), np.uint8)
    animation = encoded(small, "WEBP", save_all=True, append_images=[Image.fromarray(small + 9)])
    tiff = Image.fromarray(small)
    side = 60_000
    claims = struct.pack("<HH", side, side)
    canvas = (16_383 - 1).to_bytes(3, "little") * 2
    pixels = (b"IDAT", zlib.compress(bytes(99)))
    bombs = {
        "bomb: PNG": (png(side, side, 8, 2, pixels), (side, side)),
        "bomb: PNG just above the limit": (png(8193, 8192, 1, 0, pixels), (8192, 8193)),
        "bomb: JPEG header": (with_jpeg_size(encoded(small), side, side), (side, side)),
        "bomb: GIF screen": (with_bytes(encoded(small, "GIF"), 6, claims), (side, side)),
        "bomb: WebP canvas": (
            with_bytes(animation, animation.index(b"VP8X") + 12, canvas),
            (16_383, 16_383),
        ),
        "bomb: BMP": (
            with_bytes(encoded(small, "BMP"), 18, struct.pack("<ii", side, side)),
            (side, side),
        ),
        "bomb: TIFF": (_tiff_with_size(encoded(tiff, "TIFF"), side), (side, side)),
    }
    return {
        name: OddPhoto(data, "too_many_pixels", size=size) for name, (data, size) in bombs.items()
    }


def _tiff_with_size(data, side):
    """Set the tags 256 and 257, width and height, of Pillow's TIFF."""
    for tag in (256, 257):
        entry = data.index(struct.pack("<HHI", tag, 4, 1))
        data = with_bytes(data, entry + 8, struct.pack("<I", side))
    return data


def _strips():
    row = picture(1, SIDE)
    return {
        "1 x 1 pixel": OddPhoto(encoded(row[:, :1], "PNG"), "", ("not_a_jpeg",), (), row[:, :1]),
        "1 x N strip": OddPhoto(encoded(row, "PNG"), "", ("not_a_jpeg",), (), row),
        "N x 1 strip": OddPhoto(encoded(picture(SIDE, 1)), "", (), (), picture(SIDE, 1), LOSSY),
    }


@functools.cache
def odd_photos():
    """Return all kinds, by name."""
    made = (_no_photos, _broken, _jpegs, _other_formats, _deep, _bombs, _strips)
    return {name: photo for make in made for name, photo in make().items()}

"""Bad photos, which may not be decoded, and some good ones, for tests of serving."""

import struct

import numpy as np
import stand_in

GOOD = stand_in.photo(300, 260)
PNG = stand_in.encoded(stand_in.pixels(300, 260), "PNG")


def jpeg_that_says(height: int, width: int) -> bytes:
    """Return a JPEG of other dimensions than its frame header tells. It decodes, the rest grey."""
    frame = GOOD.index(b"\xff\xc0") + 5
    return GOOD[:frame] + struct.pack(">HH", height, width) + GOOD[frame + 4 :]


BAD = {
    "empty": b"",
    "text": b"hello",
    "start_of_jpeg": b"\xff\xd8\xff",
    "header_of_jpeg": GOOD[:300],
    "truncated_jpeg": GOOD[: len(GOOD) // 2],
    "junk_after_header": GOOD[:700] + np.random.default_rng(0).bytes(20000),
    "jpeg_bomb": jpeg_that_says(65500, 2600),  # 170 million pixels, 510 MB
    "start_of_png": PNG[:8],
    "truncated_png": PNG[: len(PNG) // 2],
    "gif": stand_in.encoded(stand_in.pixels(300, 260), "GIF"),
    "bmp": stand_in.encoded(stand_in.pixels(300, 260), "BMP"),
    "png_of_no_pixels": PNG[:16] + bytes(8) + PNG[24:],
    "png_bomb": PNG[:16] + struct.pack(">II", 60000, 60000) + PNG[24:],
    "png_of_2_to_64_pixels": PNG[:16] + b"\xff" * 8 + PNG[24:],
    "line_of_pixels": stand_in.encoded(np.zeros([1, 60000], np.uint8), "JPEG"),
}

"""Which way up a photo is, by its EXIF or XMP, and turning it upright."""

import numpy as np
from PIL import Image

UPRIGHT = 1
_EXIF_ORIENTATION = 0x0112
# EXIF 2.32, table 6, as what undoes each: whether to reverse the rows, whether to reverse the
# columns, whether then to exchange rows and columns.
_UNDONE_BY = {
    UPRIGHT: (False, False, False),
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}


def read_orientation(image: Image.Image) -> int:
    """EXIF's orientation of an opened image, 1 to 8; 1 where there is none or none that counts."""
    try:
        # Not image.getexif(): a PNG's own decodes all of it first, were it a bomb or not.
        orientation = Image.Image.getexif(image).get(_EXIF_ORIENTATION)
        return orientation if orientation in _UNDONE_BY else UPRIGHT
    except Exception:  # broken metadata are no reason to lose a photo
        return UPRIGHT


def upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """(height, width), once upright, of an image that is opened but not loaded."""
    _, _, exchange = _UNDONE_BY[orientation]
    if exchange and image.format != "TIFF":  # of which Pillow itself exchanges the two
        return image.width, image.height
    return image.height, image.width


def turned_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an orientation: [height, width, 3] as stored, to that or [width, height, 3]."""
    if orientation == UPRIGHT:
        return pixels
    reverse_rows, reverse_columns, exchange = _UNDONE_BY[orientation]
    pixels = pixels[:: -1 if reverse_rows else 1, :: -1 if reverse_columns else 1]
    return np.ascontiguousarray(pixels.transpose(1, 0, 2) if exchange else pixels)

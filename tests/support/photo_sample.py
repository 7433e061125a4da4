"""Photos for tests: 300 real ones where they lie beside the checkout, else drawn ones."""

import functools
import io
import tarfile

import numpy as np
from PIL import Image
from repository import IMAGENET_SAMPLE

from data_prep.rehearsal import drawing

ARE_REAL = IMAGENET_SAMPLE.exists()
_DRAWN = 60
_SHAPES = ("disc", "star", "stripes", "checks", "ring")


@functools.cache
def photo_files():
    """Return the names and the contents of JPEG files, one in thirty of them grey."""
    if not ARE_REAL:
        return tuple((f"n0{index % 3}_{index:03d}.JPEG", _drawn(index)) for index in range(_DRAWN))
    with tarfile.open(IMAGENET_SAMPLE) as tar:
        entries = [entry for entry in tar if entry.isfile()]
        return tuple(
            (entry.name.split("/")[-1], tar.extractfile(entry).read()) for entry in entries
        )


def _drawn(index):
    generator = np.random.default_rng(index)
    photo = Image.fromarray(drawing.draw_photo(_SHAPES[index % len(_SHAPES)], generator))
    photo = photo.resize(tuple(generator.integers(280, 520, 2).tolist()), Image.Resampling.BICUBIC)
    photo = photo.convert("L") if index % 30 == 7 else photo
    data = io.BytesIO()
    photo.save(data, "JPEG", quality=90)
    return data.getvalue()

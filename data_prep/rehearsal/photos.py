"""The photo files of the rehearsal release: which class, which fault, which bytes.

Each file is a function of the seed and its place alone, so that neither the number of photos
nor that of the processes that draw them changes any of them.
"""

import dataclasses
import functools
import io
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from data_prep.rehearsal import drawing

TRAIN, VALIDATION, HELD_OUT = range(3)
_EXIF_ORIENTATION = 0x0112
_VERSION = 1  # of what is drawn; part of the recipe


class ObjectClass(NamedTuple):
    """A class of the release; `shape` is what `drawing` draws and the first of its words."""

    shape: str
    wnid: str
    words: str
    gloss: str


# In the order of ILSVRC2012_ID, from 1, which is not that of the wnids, as in the real release:
# a reader that takes the one for the other is found out, with any number of classes.
CLASSES = (
    ObjectClass("disc", "n90000007", "disc, filled circle", "a round, flat, filled figure"),
    ObjectClass("square", "n90000003", "square", "a figure of four equal sides"),
    ObjectClass("triangle", "n90000010", "triangle, trigon", "a figure of three sides"),
    ObjectClass("star", "n90000001", "star, pentagram", "a figure of five points"),
    ObjectClass("ring", "n90000008", "ring, annulus", "a round band about a hole"),
    ObjectClass("stripes", "n90000005", "stripes, bars", "parallel bars with gaps between"),
    ObjectClass("checks", "n90000002", "checks, checkerboard", "squares, each second one filled"),
    ObjectClass("cross", "n90000009", "cross, plus sign", "two bars that cross in the middle"),
    ObjectClass("hexagon", "n90000004", "hexagon", "a figure of six equal sides"),
    ObjectClass("dots", "n90000006", "dots, polka dots", "small discs in rows"),
)


# What is wrong with one train photo each, and whether a photo can still be read from it.
FAULTS = {
    "cmyk": True,
    "png_named_jpeg": True,
    "grey": True,
    "exif_rotated": True,
    "truncated": False,
    "empty": False,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of a release.

    Raises:
        ValueError: there are not so many classes, or fewer than 2.
    """

    classes: int
    images_per_class: int
    validation_per_class: int
    seed: int
    version: int = _VERSION

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= len(CLASSES):
            raise ValueError(
                f"classes must be 2 to {len(CLASSES)}, as there are no more shapes. "
                f"Received: {self.classes}."
            )


class Place(NamedTuple):
    """The place of a photo; its randomness comes from this and the seed alone."""

    split: int  # one of TRAIN, VALIDATION, HELD_OUT
    class_index: int  # in CLASSES
    number: int  # in its class, from 0


def draw_file(recipe: Recipe, place: Place) -> bytes:
    """Return the bytes of the photo file at a place: a JPEG, or one with one of `FAULTS`."""
    generator = np.random.default_rng([recipe.seed, *place])
    photo = Image.fromarray(drawing.draw_photo(CLASSES[place.class_index].shape, generator))
    quality = int(generator.integers(70, 97))
    fault = faults_by_place(recipe.classes).get(place)
    if fault == "empty":
        return b""
    kind, options = "JPEG", {"quality": quality}
    if fault == "png_named_jpeg":
        kind, options = "PNG", {}
    elif fault == "exif_rotated":
        options["exif"] = exif = Image.Exif()
        exif[_EXIF_ORIENTATION] = 6  # "turn me 90 degrees clockwise to look at me"
        photo = photo.transpose(Image.Transpose.ROTATE_90)  # counterclockwise
    else:
        photo = photo.convert({"cmyk": "CMYK", "grey": "L"}.get(fault, "RGB"))
    buffer = io.BytesIO()
    photo.save(buffer, kind, **options)
    content = buffer.getvalue()
    return content[: len(content) // 2] if fault == "truncated" else content


def faults_by_place(classes: int) -> dict[Place, str]:
    """Return which photo has which fault: each class in turn gets one, in its first photos."""
    return {
        Place(TRAIN, order % classes, order // classes): fault for order, fault in enumerate(FAULTS)
    }


def draw_files(recipe: Recipe, places: Sequence[Place], workers: int) -> Iterator[bytes]:
    """Draw the files of `places`, in their order.

    Args:
        recipe: what to draw.
        places: where the photos belong.
        workers: processes to draw with; 0 means one for each core that this process may use.
    """
    draw = functools.partial(draw_file, recipe)
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield from map(draw, places)
        return
    # Spawned: a fork of a process whose threads (OpenCV's, TensorFlow's) hold locks may hang.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap(draw, places, chunksize=16)


def _start_worker() -> None:
    cv2.setNumThreads(1)  # the processes already fill the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to report

"""The photos that benchmarks read: a user's own, or the rehearsal's drawings, repeated by links."""

import os
import tarfile
from collections.abc import Sequence

import cv2
import numpy as np
import tqdm
from absl import flags
from PIL import Image

from data_prep.command_line import UserError
from data_prep.rehearsal import drawing
from data_prep.rehearsal.photos import CLASSES

_RENDERED = 200
_PER_FOLDER = 500  # as the folders of ImageNet, which hold a thousand photos or so


def photos_dir_flag(values: flags.FlagValues) -> flags.FlagHolder:
    """Define --photos_dir."""
    return flags.DEFINE_string(
        "photos_dir",
        None,
        "Folder of photos, or of folders of photos, or a tar of them; by default, photos are "
        "rendered.",
        flag_values=values,
    )


def work_dir_flag(values: flags.FlagValues, kilobytes: int) -> flags.FlagHolder:
    """Define --work_dir, whose help says how much is written there for each photo."""
    return flags.DEFINE_string(
        "work_dir",
        None,
        f"Folder for what is written, about {kilobytes} kB a photo; default: the system's for "
        "such files.",
        flag_values=values,
    )


def originals(folder: str, photos_dir: str | None) -> list[str]:
    """Return the paths of some photos.

    Args:
        folder: an existing one, for what is rendered or unpacked.
        photos_dir: a folder of photos, or a tar of them; None renders some.

    Raises:
        UserError: it is no folder and no tar, or holds no file.
    """
    if photos_dir is None:
        return _rendered(folder)
    if os.path.isfile(photos_dir):
        unpacked = os.path.join(folder, "unpacked")
        try:
            with tarfile.open(photos_dir) as tar:
                tar.extractall(unpacked, filter="data")
        except tarfile.TarError as error:
            raise UserError(
                f"--photos_dir must be a folder or a tar; {photos_dir} is none ({error})"
            ) from error
        photos_dir = unpacked
    if not os.path.isdir(photos_dir):
        raise UserError(f"--photos_dir must be a folder or a tar; {photos_dir} is none")
    found = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(os.path.abspath(photos_dir), followlinks=True)
        for name in names
        if not name.startswith(".")
    )
    if not found:
        raise UserError(f"--photos_dir must hold photos; {photos_dir} holds none")
    return found


def _rendered(folder: str) -> list[str]:
    """Draw JPEGs of about 100 kB: the rehearsal's drawings, enlarged to 500 x 375 or 375 x 500."""
    os.mkdir(os.path.join(folder, "rendered"))
    paths = []
    for number in tqdm.trange(_RENDERED, unit="photo", desc="draw"):
        generator = np.random.default_rng(number)
        shape = CLASSES[number % len(CLASSES)].shape
        photo = drawing.draw_photo(shape, generator)
        size = (500, 375) if photo.shape[1] >= photo.shape[0] else (375, 500)
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)
        noise = generator.normal(0, 6, photo.shape)  # what enlarging has smoothed away
        photo = np.clip(photo + noise, 0, 255).astype(np.uint8)
        paths.append(os.path.join(folder, "rendered", f"{number}.jpg"))
        Image.fromarray(photo).save(paths[-1], "JPEG", quality=92)
    return paths


def link(input_dir: str, originals: Sequence[str], count: int) -> list[str]:
    """Make class folders of `count` links, one of them to validate with; return their paths."""
    paths = []
    for number in range(count):
        original = originals[number % len(originals)]
        split = "train" if number else "validation"
        folder = os.path.join(input_dir, split, f"class_{number // _PER_FOLDER:04d}")
        os.makedirs(folder, exist_ok=True)
        paths.append(os.path.join(folder, f"{number:07d}_{os.path.basename(original)}"))
        os.symlink(original, paths[-1])
    return paths

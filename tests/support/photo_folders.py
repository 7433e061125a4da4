"""Small class folders of photos, good and bad, and what the tests of the data job do with them."""

import io
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

IN_PROCESS = ("--runner=FnApiRunner",)


def picture(seed, width=60, height=48):
    """Smooth random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def faulty_photos():
    """File name -> content, and what must become of it: a repair or a reason."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "cmyk.jpg": (encoded(picture(1).convert("CMYK")), "cmyk_to_rgb"),
        "png.jpg": (encoded(picture(2), "PNG"), "not_a_jpeg"),
        "grey.jpg": (encoded(picture(3).convert("L")), "grey_to_rgb"),
        "turned.jpg": (encoded(picture(4), exif=exif), "exif_rotated"),
        "empty.jpg": (b"", "empty"),
        "truncated.jpg": (encoded(picture(5))[:700], "truncated"),
        "text.jpg": (b"not found", "not_a_photo"),
    }


REASONS = {"empty", "truncated", "not_a_photo"}


def write_photos(root):
    """Class folders: 2 classes, 19 train photos of which 3 are bad, 6 validation photos."""
    for split, count in (("train", 6), ("validation", 3)):
        for number, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                content = encoded(picture(100 * number + index + count))
                (root / split / name / f"{index}.jpg").write_bytes(content)
    for name, (content, _) in faulty_photos().items():
        (root / "train" / "cat" / name).write_bytes(content)
    return root


def write_copies(root, content, **counts):
    """Write one class, in which each photo holds the same; `counts` by split."""
    for split, count in counts.items():
        (root / split / "cat").mkdir(parents=True)
        (root / "original").write_bytes(content)
        for index in range(count):
            os.link(root / "original", root / split / "cat" / f"{index}.jpg")
    return root


def arguments(photos, output_dir, **changes):
    """Return the arguments of prepare.prepare for `write_photos`."""
    return {
        "source": "class_folders",
        "input_dir": str(photos),
        "output_dir": str(output_dir),
        "train_shards": 3,
        "validation_shards": 2,
        "short_side": 32,
        "index": True,
        "beam_options": IN_PROCESS,
    } | changes


def flags_for(photos, output_dir, **changes):
    """Return the same as flags of the command, whose default is to use processes."""
    options = arguments(photos, output_dir, **changes)
    options.pop("beam_options")
    return [f"--{name}={value}" for name, value in options.items()]


def start_job(flags, **environment):
    """Start a job in the background, the only one of its process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep.prepare", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        start_new_session=True,
    )


def wait_until(condition, what):
    """Wait; the limit is no measurement: it only ends a test that would never end."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"waited a minute for {what}")


def contents(folder):
    """Path -> content of all files in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


def identities(folder):
    """Return the identities of the finished shards: one that is made again is another file."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in pathlib.Path(folder).glob("*-of-*")
    }


class ReversedScan:
    """A replacement of os.scandir: each folder from Z to A."""

    _scan = staticmethod(os.scandir)

    def __init__(self, path):
        with self._scan(path) as entries:
            self._entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

    def __enter__(self):
        return iter(self._entries)

    __iter__ = __enter__

    def __exit__(self, *_):
        pass

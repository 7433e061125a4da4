"""Writes the containers of an ILSVRC2012 release: tars and the devkit. `ilsvrc2012` reads them.

Everything that would differ from day to day or machine to machine (times, owners, the header
that names the platform) is fixed, so that equal content is equal bytes.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable

import numpy as np
import scipy.io
import tqdm

from data_prep import files
from data_prep.rehearsal import photos as rehearsal_photos
from data_prep.rehearsal.photos import CLASSES, FAULTS, Place, Recipe
from data_prep.sources import ground_truth, ilsvrc2012_devkit

SUMMARY = "rehearsal.json"
HELD_OUT = "held_out"
HELD_OUT_PER_CLASS = 1

_DEVKIT_FOLDER = "ILSVRC2012_devkit_t12"

_META_FIELDS = (
    *("ILSVRC2012_ID", "WNID", "words", "gloss"),
    *("num_children", "children", "wordnet_height", "num_train_images"),
)
_MAT_HEADER_BYTES = 116  # descriptive text; the file's meaning begins after it
_README = """\
The devkit of a rehearsal release, in the shape of ILSVRC2012's own.

data/meta.mat: the struct array `synsets`; ILSVRC2012_ID 1 to the number of classes are the
classes, larger IDs are the inner nodes over them.
data/ILSVRC2012_validation_ground_truth.txt: the ILSVRC2012_ID of each validation photo, one a
line, in the order of the photos' names.
"""


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to an open tar, with no time, owner or machine in its header."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))  # TarInfo's defaults: time 0, owner 0, mode 0644


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a tar of (name, content), for a tar inside a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            add_member(tar, name, content)
    return buffer.getvalue()


def devkit_bytes(recipe: Recipe, class_ids: Iterable[int]) -> bytes:
    """Return ILSVRC2012_devkit_t12.tar.gz.

    Args:
        recipe: of the release.
        class_ids: the ILSVRC2012_ID of each validation photo, in order of file name.
    """
    lines = "".join(f"{class_id}\n" for class_id in class_ids)
    members = {
        "readme.txt": _README.encode(),
        f"data/{ilsvrc2012_devkit.GROUND_TRUTH}": lines.encode(),
        f"data/{ilsvrc2012_devkit.META}": _meta_mat(recipe),
    }
    tar = tar_bytes((f"{_DEVKIT_FOLDER}/{name}", content) for name, content in members.items())
    return gzip.compress(tar, mtime=0)


def _meta_mat(recipe: Recipe) -> bytes:
    """Return a MATLAB 5 file with the struct array `synsets` [N, 1], fields as in the real one.

    The classes come first, and after them a small tree of inner nodes, as WordNet's is over the
    real classes.
    """
    count = recipe.classes
    ids = list(range(1, count + 1))
    rows = [
        *((*entry[1:], [], 0, recipe.images_per_class) for entry in CLASSES[:count]),
        ("n90000101", "figure, shape", "figure, shape, an inner node", ids[: count // 2], 1, 0),
        ("n90000102", "figure, pattern", "figure, pattern, an inner node", ids[count // 2 :], 1, 0),
        ("n90000100", "drawing", "drawing, an inner node", [count + 1, count + 2], 2, 0),
    ]
    structs = np.empty((len(rows), 1), dtype=[(name, object) for name in _META_FIELDS])
    for row, (*texts, children, height, train_images) in enumerate(rows):
        # MATLAB's numbers are doubles; children are [1, number of children].
        counts = float(len(children)), np.array([children], np.float64)
        structs[row, 0] = (float(row + 1), *texts, *counts, float(height), float(train_images))
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": structs})
    content = bytearray(buffer.getvalue())
    # scipy writes the platform and the time of day here.
    content[:_MAT_HEADER_BYTES] = b"MATLAB 5.0 MAT-file, rehearsal release".ljust(_MAT_HEADER_BYTES)
    return bytes(content)


def write_release(*, output_dir: str, recipe: Recipe, workers: int = 0) -> dict[str, object]:
    """Write a release, or keep one of the same recipe that is already there.

    Args:
        output_dir: folder to make; may exist if it is empty or holds a release of this recipe.
        recipe: what to draw.
        workers: processes to draw with; 0 means one a core. The bytes do not depend on it.

    Returns:
        The content of rehearsal.json, and `output_dir`, `kept` (whether it was there before).

    Raises:
        ValueError: the folder holds something else, or cannot be written.
    """
    output_dir = os.path.abspath(output_dir)
    try:
        summary = _existing_release(output_dir, recipe)
        kept = summary is not None
        if summary is None:
            with files.new_folder(output_dir) as aside:
                summary = _write_files(aside, recipe, workers)
    except OSError as error:
        raise ValueError(
            f"output_dir must be a folder that can be written, but {output_dir} cannot be "
            f"({error}); choose another or make room"
        ) from error
    return {"output_dir": output_dir, "kept": kept, **summary}


def _existing_release(output_dir: str, recipe: Recipe) -> dict[str, object] | None:
    """Return the summary of a finished release of the same recipe; None where nothing is yet."""
    is_empty = os.path.isdir(output_dir) and not os.listdir(output_dir)
    if is_empty or not os.path.lexists(output_dir):
        return None
    try:
        with open(os.path.join(output_dir, SUMMARY)) as file:
            summary = json.load(file)
        found, checksums = summary["recipe"], dict(summary["files"])
    except (OSError, ValueError, KeyError, TypeError):
        fault = "something that is no finished release"
    else:
        if found != dataclasses.asdict(recipe):
            fault = f"a release of another recipe, {json.dumps(found)}"
        elif not checksums.items() <= _checksums(output_dir).items():
            fault = "a release whose files have changed since it was written"
        else:
            return summary
    raise ValueError(
        f"output_dir must be new, empty or a whole release of this recipe, but {output_dir} holds "
        f"{fault}; choose another output_dir, or delete it"
    )


def _write_files(folder: str, recipe: Recipe, workers: int) -> dict[str, object]:
    """Fill `folder`; return the content of rehearsal.json, which is written last."""
    train, validation, held_out = (
        [Place(split, index, number) for index in range(recipe.classes) for number in range(count)]
        for split, count in (
            (rehearsal_photos.TRAIN, recipe.images_per_class),
            (rehearsal_photos.VALIDATION, recipe.validation_per_class),
            (rehearsal_photos.HELD_OUT, HELD_OUT_PER_CLASS),
        )
    )
    np.random.default_rng([recipe.seed, rehearsal_photos.VALIDATION]).shuffle(validation)
    places = train + validation + held_out
    drawn = rehearsal_photos.draw_files(recipe, places, workers)
    photos = tqdm.tqdm(drawn, desc="drawing", total=len(places), unit="photo")
    files_left = iter(photos)  # in the order of `places`
    with tarfile.open(os.path.join(folder, ilsvrc2012_devkit.TRAIN_TAR), "w") as tar:
        # One class at a time in memory.
        for class_index, entry in enumerate(CLASSES[: recipe.classes]):
            names = [_train_name(place) for place in train if place.class_index == class_index]
            add_member(tar, f"{entry.wnid}.tar", tar_bytes((n, next(files_left)) for n in names))
    with tarfile.open(os.path.join(folder, ilsvrc2012_devkit.VALIDATION_TAR), "w") as tar:
        for number in range(1, len(validation) + 1):
            add_member(tar, f"{ground_truth.photo_name(number)}.JPEG", next(files_left))
    os.mkdir(os.path.join(folder, HELD_OUT))
    held_out_names = [
        f"{HELD_OUT}/{CLASSES[place.class_index].shape}_{place.number}.jpg" for place in held_out
    ]
    # `zip` asks for the end of the photos only if they come first: so the bar ends, too.
    for photo, name in zip(files_left, held_out_names, strict=True):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(photo)
    with open(os.path.join(folder, ilsvrc2012_devkit.DEVKIT), "wb") as file:
        file.write(devkit_bytes(recipe, (place.class_index + 1 for place in validation)))
    summary = {
        "recipe": dataclasses.asdict(recipe),
        "train_images": len(train),
        "validation_images": len(validation),
        "held_out": held_out_names,
        "faults": [
            {"name": fault, "readable": FAULTS[fault], "file": _train_name(place)}
            for place, fault in rehearsal_photos.faults_by_place(recipe.classes).items()
        ],
        "files": _checksums(folder),
    }
    files.write_file(os.path.join(folder, SUMMARY), json.dumps(summary, indent=1) + "\n")
    return summary


def _train_name(place: Place) -> str:
    return f"{CLASSES[place.class_index].wnid}_{place.number}.JPEG"


def _checksums(folder: str) -> dict[str, str]:
    """Return the sha256 of each file under `folder` but the summary, by its path there."""
    paths = sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    )
    checksums = {}
    for path in paths:
        if path != SUMMARY:
            with open(os.path.join(folder, path), "rb") as file:
                checksums[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums

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
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy.io
import tqdm

from data_prep import files
from data_prep.rehearsal import photos as rehearsal_photos
from data_prep.rehearsal.photos import CLASSES, Place, Recipe
from data_prep.sources import ilsvrc2012_devkit

_DEVKIT_FOLDER = "ILSVRC2012_devkit_t12"

_MAT_HEADER_BYTES = 116  # descriptive text; the file's meaning begins after it
_README = """\
The devkit of a rehearsal release, in the shape of ILSVRC2012's own.

data/meta.mat: the struct array `synsets`; ILSVRC2012_ID 1 to the number of classes are the
classes, larger IDs are the inner nodes over them.
data/ILSVRC2012_validation_ground_truth.txt: the ILSVRC2012_ID of each validation photo, one a
line, in the order of the photos' names.
"""


@dataclasses.dataclass(frozen=True)
class Synset:
    """One row of meta.mat; the fields of the real file, and in its order but for their names.

    Attributes:
        id: ILSVRC2012_ID, from 1. Classes come first, inner nodes after them.
        wnid: "n" and eight digits.
        words: the names of the concept, separated by ", ".
        gloss: what it is.
        children: IDs of the synsets right under this one; empty for a class.
        height: the longest way down to a leaf; 0 for a class.
        train_images: 0 for an inner node.
    """

    id: int
    wnid: str
    words: str
    gloss: str
    children: tuple[int, ...]
    height: int
    train_images: int


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Appends a file to an open tar, with no time, owner or machine in its header."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))  # TarInfo's defaults: time 0, owner 0, mode 0644


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A whole tar of (name, content) in memory, for a tar inside a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            add_member(tar, name, content)
    return buffer.getvalue()


def devkit_bytes(synsets: Sequence[Synset], ground_truth: Sequence[int]) -> bytes:
    """ILSVRC2012_devkit_t12.tar.gz.

    Args:
        synsets: in the order of their IDs.
        ground_truth: the ILSVRC2012_ID of each validation photo, in order of file name.
    """
    lines = "".join(f"{class_id}\n" for class_id in ground_truth)
    tar = tar_bytes(
        [
            (f"{_DEVKIT_FOLDER}/readme.txt", _README.encode()),
            (
                f"{_DEVKIT_FOLDER}/data/ILSVRC2012_validation_ground_truth.txt",
                lines.encode(),
            ),
            (f"{_DEVKIT_FOLDER}/data/meta.mat", _meta_mat(synsets)),
        ]
    )
    return gzip.compress(tar, mtime=0)


def _meta_mat(synsets: Sequence[Synset]) -> bytes:
    """A MATLAB 5 file with the struct array `synsets` [N, 1], fields as in the real one."""
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    structs = np.empty((len(synsets), 1), dtype=[(name, object) for name in names])
    for row, synset in enumerate(synsets):
        structs[row, 0] = (
            float(synset.id),  # MATLAB's numbers are doubles
            synset.wnid,
            synset.words,
            synset.gloss,
            float(len(synset.children)),
            np.array([synset.children], np.float64),  # [1, number of children]
            float(synset.height),
            float(synset.train_images),
        )
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": structs})
    content = bytearray(buffer.getvalue())
    # scipy writes the platform and the time of day here.
    content[:_MAT_HEADER_BYTES] = b"MATLAB 5.0 MAT-file, rehearsal release".ljust(_MAT_HEADER_BYTES)
    return bytes(content)


SUMMARY = "rehearsal.json"
HELD_OUT = "held_out"
HELD_OUT_PER_CLASS = 1


def write_release(*, output_dir: str, recipe: Recipe, workers: int = 0) -> dict[str, object]:
    """Writes a release, or keeps one of the same recipe that is already there.

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
    """The summary of a finished release of the same recipe; None where nothing is yet."""
    is_empty = os.path.isdir(output_dir) and not os.listdir(output_dir)
    if is_empty or not os.path.lexists(output_dir):
        return None
    advice = "choose another output_dir, or delete it"
    try:
        with open(os.path.join(output_dir, SUMMARY)) as file:
            summary = json.load(file)
        found, checksums = summary["recipe"], dict(summary["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"output_dir must be new or empty, but {output_dir} holds something that is no "
            f"finished release; {advice}"
        ) from error
    if found != dataclasses.asdict(recipe):
        raise ValueError(
            f"output_dir must be new or empty, but {output_dir} holds a release of another "
            f"recipe, {json.dumps(found)}; {advice}"
        )
    if not checksums.items() <= _checksums(output_dir).items():
        raise ValueError(
            f"the release in {output_dir} is needed whole, but its files have changed since it "
            f"was written; {advice}"
        )
    return summary


def _write_files(folder: str, recipe: Recipe, workers: int) -> dict[str, object]:
    """Fills `folder`; returns what it wrote to rehearsal.json, last."""
    train = _places(rehearsal_photos.TRAIN, recipe.classes, recipe.images_per_class)
    validation = _places(rehearsal_photos.VALIDATION, recipe.classes, recipe.validation_per_class)
    np.random.default_rng([recipe.seed, rehearsal_photos.VALIDATION]).shuffle(validation)
    held_out = _places(rehearsal_photos.HELD_OUT, recipe.classes, HELD_OUT_PER_CLASS)
    places = train + validation + held_out
    photos = iter(
        tqdm.tqdm(
            rehearsal_photos.draw_files(recipe, places, workers),
            desc="drawing",
            total=len(places),
            unit="photo",
        )
    )
    # In the order in which they were asked for: train, validation, held out.
    _write_train_tar(os.path.join(folder, ilsvrc2012_devkit.TRAIN_TAR), recipe, photos)
    with tarfile.open(os.path.join(folder, ilsvrc2012_devkit.VALIDATION_TAR), "w") as tar:
        for number in range(1, len(validation) + 1):
            add_member(tar, f"ILSVRC2012_val_{number:08d}.JPEG", next(photos))
    os.mkdir(os.path.join(folder, HELD_OUT))
    held_out_names = [
        f"{HELD_OUT}/{CLASSES[place.class_index].shape}_{place.number}.jpg" for place in held_out
    ]
    # `zip` asks for the end of `photos` only if they come first: so the bar ends, too.
    for photo, name in zip(photos, held_out_names, strict=True):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(photo)
    ground_truth = [place.class_index + 1 for place in validation]
    with open(os.path.join(folder, ilsvrc2012_devkit.DEVKIT), "wb") as file:
        file.write(devkit_bytes(_synsets(recipe), ground_truth))
    summary = {
        "recipe": dataclasses.asdict(recipe),
        "train_images": len(train),
        "validation_images": len(validation),
        "held_out": held_out_names,
        "faults": [
            {**dataclasses.asdict(fault), "file": _train_name(place)}
            for place, fault in rehearsal_photos.faults_by_place(recipe.classes).items()
        ],
        "files": _checksums(folder),
    }
    files.write_file(os.path.join(folder, SUMMARY), json.dumps(summary, indent=1) + "\n")
    return summary


def _places(split: int, classes: int, photos_per_class: int) -> list[Place]:
    return [
        Place(split, class_index, number)
        for class_index in range(classes)
        for number in range(photos_per_class)
    ]


def _train_name(place: Place) -> str:
    return f"{CLASSES[place.class_index].wnid}_{place.number}.JPEG"


def _write_train_tar(path: str, recipe: Recipe, photos: Iterator[bytes]) -> None:
    """A tar of one tar a class, one class at a time in memory."""
    with tarfile.open(path, "w") as tar:
        for class_index in range(recipe.classes):
            members = [
                (_train_name(Place(rehearsal_photos.TRAIN, class_index, number)), next(photos))
                for number in range(recipe.images_per_class)
            ]
            name = f"{CLASSES[class_index].wnid}.tar"
            add_member(tar, name, tar_bytes(members))


def _synsets(recipe: Recipe) -> list[Synset]:
    """The classes, and over them a small tree of inner nodes, as WordNet's is over the real."""
    leaves = [
        Synset(
            id=class_id,
            wnid=entry.wnid,
            words=entry.words,
            gloss=entry.gloss,
            children=(),
            height=0,
            train_images=recipe.images_per_class,
        )
        for class_id, entry in enumerate(CLASSES[: recipe.classes], start=1)
    ]
    half = recipe.classes // 2
    first, second, root = (recipe.classes + extra for extra in (1, 2, 3))
    class_ids = tuple(leaf.id for leaf in leaves)

    def inner(node_id: int, wnid: str, words: str, children: tuple[int, ...], height: int):
        return Synset(node_id, wnid, words, f"{words}, an inner node", children, height, 0)

    return [
        *leaves,
        inner(first, "n90000101", "figure, shape", class_ids[:half], 1),
        inner(second, "n90000102", "figure, pattern", class_ids[half:], 1),
        inner(root, "n90000100", "drawing", (first, second), 2),
    ]


def _checksums(folder: str) -> dict[str, str]:
    """The sha256 of each file under `folder` but the summary, by its path there."""
    checksums = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, folder)
            if relative != SUMMARY:
                with open(path, "rb") as file:
                    checksums[relative] = hashlib.file_digest(file, "sha256").hexdigest()
    return dict(sorted(checksums.items()))

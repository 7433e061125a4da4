"""Makes a small release of ILSVRC2012's own shape, to try the whole road without ImageNet.

The photos are drawn: a disc, a star, a ring ... of random colour, place, size and rotation, on
textured ground. The files, their names and their faults are those of the real release:

  ILSVRC2012_img_train.tar        a tar of one tar a class
  ILSVRC2012_img_val.tar          the validation photos, in no order of class
  ILSVRC2012_devkit_t12.tar.gz    the classes and the validation photos' true classes
  held_out/                       photos of neither, such as star_0.jpg, to classify at the end
  rehearsal.json                  what is where, with checksums; written last

Six train photos carry the faults that real ones have: CMYK colour, a PNG named JPEG, grey, a
rotation in EXIF, a file cut short, an empty file. The same flags give the same bytes.

Example:
  python -m data_prep.rehearsal --output_dir=/tmp/release --images_per_class=100
"""

import dataclasses
import hashlib
import json
import os
import tarfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm
from absl import flags

from data_prep import command_line, devkit, files, rehearsal_photos
from data_prep.command_line import UserError
from data_prep.rehearsal_photos import CLASSES, Place, Recipe

FLAGS = flags.FlagValues()
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "folder to write the release to; new or empty", flag_values=FLAGS
)
_CLASSES = flags.DEFINE_integer(
    "classes", 10, "number of classes, 2 to 10", 2, 10, flag_values=FLAGS
)
_IMAGES_PER_CLASS = flags.DEFINE_integer(
    "images_per_class", 400, "train photos of each class, at least 4", 4, flag_values=FLAGS
)
_VALIDATION_PER_CLASS = flags.DEFINE_integer(
    "validation_per_class", 50, "validation photos of each class", 1, flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "another seed, other photos", 0, flag_values=FLAGS)
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes to draw with; 0: one a core", 0, flag_values=FLAGS
)
flags.mark_flag_as_required("output_dir", flag_values=FLAGS)

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
        UserError: the folder holds something else, or cannot be written.
    """
    output_dir = os.path.abspath(output_dir)
    try:
        summary = _existing_release(output_dir, recipe)
        kept = summary is not None
        if summary is None:
            with files.new_folder(output_dir) as aside:
                summary = _write_files(aside, recipe, workers)
    except OSError as error:
        raise UserError(
            f"--output_dir must be a folder that can be written, but {output_dir} cannot be "
            f"({error}); choose another or make room"
        ) from error
    return {"output_dir": output_dir, "kept": kept, **summary}


def _existing_release(output_dir: str, recipe: Recipe) -> dict[str, object] | None:
    """The summary of a finished release of the same recipe; None where nothing is yet."""
    is_empty = os.path.isdir(output_dir) and not os.listdir(output_dir)
    if is_empty or not os.path.lexists(output_dir):
        return None
    advice = "choose another --output_dir, or delete it"
    try:
        with open(os.path.join(output_dir, SUMMARY)) as file:
            summary = json.load(file)
        found, checksums = summary["recipe"], dict(summary["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--output_dir must be new or empty, but {output_dir} holds something that is no "
            f"finished release; {advice}"
        ) from error
    if found != dataclasses.asdict(recipe):
        raise UserError(
            f"--output_dir must be new or empty, but {output_dir} holds a release of another "
            f"recipe, {json.dumps(found)}; {advice}"
        )
    if not checksums.items() <= _checksums(output_dir).items():
        raise UserError(
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
    _write_train_tar(os.path.join(folder, devkit.TRAIN_TAR), recipe, photos)
    with tarfile.open(os.path.join(folder, devkit.VALIDATION_TAR), "w") as tar:
        for number in range(1, len(validation) + 1):
            devkit.add_member(tar, f"ILSVRC2012_val_{number:08d}.JPEG", next(photos))
    os.mkdir(os.path.join(folder, HELD_OUT))
    held_out_names = [
        f"{HELD_OUT}/{CLASSES[place.class_index].shape}_{place.number}.jpg" for place in held_out
    ]
    # `zip` asks for the end of `photos` only if they come first: so the bar ends, too.
    for photo, name in zip(photos, held_out_names, strict=True):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(photo)
    ground_truth = [place.class_index + 1 for place in validation]
    with open(os.path.join(folder, devkit.DEVKIT), "wb") as file:
        file.write(devkit.devkit_bytes(_synsets(recipe), ground_truth))
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
            devkit.add_member(tar, name, devkit.tar_bytes(members))


def _synsets(recipe: Recipe) -> list[devkit.Synset]:
    """The classes, and over them a small tree of inner nodes, as WordNet's is over the real."""
    leaves = [
        devkit.Synset(
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
        return devkit.Synset(node_id, wnid, words, f"{words}, an inner node", children, height, 0)

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


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and writes the release."""
    start = time.monotonic()
    result = write_release(
        output_dir=_OUTPUT_DIR.value,
        recipe=Recipe(
            classes=_CLASSES.value,
            images_per_class=_IMAGES_PER_CLASS.value,
            validation_per_class=_VALIDATION_PER_CLASS.value,
            seed=_SEED.value,
        ),
        workers=_WORKERS.value,
    )
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def run() -> None:
    """The command."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()

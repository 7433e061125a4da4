"""ILSVRC2012 unpacked: train/WNID/*, and validation photos in one of the ways people keep them.

The data set that comes of it is the same, byte for byte, as that of the release's tars.
"""

import os
from collections.abc import Iterator, Mapping

from data_prep import records, storage
from data_prep.sources import class_folders, ground_truth, ilsvrc2012_devkit, kaggle_files
from data_prep.sources.ground_truth import UNLABELLED, checked
from data_prep.sources.ilsvrc2012_devkit import DEVKIT
from data_prep.sources.reference import Reference, Source, printable

# What the validation folder is called by torchvision and Kaggle, and by others.
_VALIDATION = ("val", "validation")


def open_folders(input_dir: str) -> Source:
    """train/WNID/*.JPEG, and val/ or validation/ with a folder for each WNID or all photos flat.

    Flat photos need the devkit (packed or not) or Kaggle's LOC_val_solution.csv beside the
    folders. Whatever of these is there is also held against photos in folders, and class names
    come from the devkit, or else from Kaggle's LOC_synset_mapping.txt, or else are the wnids.

    Args:
        input_dir: the folder that holds train/, or the top of Kaggle's zip.

    Raises:
        ValueError: something is missing, damaged, or does not fit together; also from `photos`.
        OSError: a file cannot be read; also from `photos`.
    """
    root, beside = _places(input_dir)
    places = {"train": storage.join(root, "train"), "validation": _validation_folder(root)}
    wnids = class_folders.class_names(places["train"])
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    told = _read_devkits(beside)
    tables = {path: kit.classes for path, kit in told.items()}
    for path in _existing(beside, kaggle_files.SYNSET_MAPPING):
        tables[path] = kaggle_files.read_synset_mapping(path)
    for path, table in tables.items():
        _check_classes(path, table, wnids, places["train"])
    unnamed = tuple(records.ClassName(wnid, wnid) for wnid in wnids)
    classes = next(iter(tables.values()), unnamed)
    truths = {path: kit.truth for path, kit in told.items()}
    for path in _existing(beside, kaggle_files.SOLUTION):
        truths[path] = kaggle_files.read_solution(path, labels)
    truth = ground_truth.agreed(truths)
    validation = _validation(places, labels, truth is not None)

    def photos() -> Iterator[Reference]:
        yield from class_folders.photos_in(places["train"], "train", labels)
        if truth is None:
            yield from validation
        else:
            yield from ground_truth.labelled(validation, truth, labels, places["validation"])

    train_images = next((kit.train_images for kit in told.values()), None)
    return Source(
        classes,
        checked(photos(), classes, places=places, train_images=train_images),
    )


def _places(input_dir: str) -> tuple[str, list[str]]:
    """The folder that holds train/, and the folders that the lists and the devkit may be in."""
    inside = storage.join(input_dir, *kaggle_files.PHOTOS)
    if not storage.is_folder(storage.join(input_dir, "train")) and storage.is_folder(inside):
        return inside, [inside, input_dir]
    absolute = os.path.abspath(input_dir) if storage.is_local(input_dir) else input_dir.rstrip("/")
    top = absolute.removesuffix("/" + "/".join(kaggle_files.PHOTOS))
    return input_dir, [input_dir] if top == absolute else [input_dir, top]


def _validation_folder(root: str) -> str:
    places = [place for name in _VALIDATION if storage.is_folder(place := storage.join(root, name))]
    if len(places) != 1:
        raise ValueError(
            f"the validation photos must be in {' or '.join(_VALIDATION)} in {root}; "
            f"{'both are' if places else 'neither is'} there"
        )
    return places[0]


def _existing(folders: list[str], *names: str) -> Iterator[str]:
    for folder in folders:
        for name in names:
            if storage.exists(path := storage.join(folder, name)):
                yield path


def _read_devkits(folders: list[str]) -> dict[str, ilsvrc2012_devkit.Devkit]:
    """By path; more than one if it is there packed and unpacked, and then they must agree."""
    unpacked = DEVKIT.removesuffix(".tar.gz")
    return {path: ilsvrc2012_devkit.read(path) for path in _existing(folders, DEVKIT, unpacked)}


def _check_classes(
    path: str, table: tuple[records.ClassName, ...], wnids: list[str], train: str
) -> None:
    listed = {entry.wnid for entry in table}
    advice = "a part of ImageNet is prepared with the source class_folders"
    if unknown := sorted(set(wnids) - listed):
        raise ValueError(
            f"each folder in {train} must be one of the {len(listed)} classes of {path}; "
            f"{unknown[0]} is none ({len(unknown)} in all); {advice}"
        )
    if missing := sorted(listed - set(wnids)):
        raise ValueError(
            f"each of the {len(listed)} classes of {path} needs a folder in {train}; "
            f"{missing[0]} has none ({len(missing)} in all); {advice}"
        )


def _validation(
    places: Mapping[str, str], labels: Mapping[str, int], has_truth: bool
) -> Iterator[Reference]:
    """The validation photos, labelled by their folders if they are in folders."""
    place = places["validation"]
    wnids = storage.folders(place)
    has_photos = next(storage.files(place, 1), None) is not None
    if wnids and has_photos:
        raise ValueError(
            f"{place} must hold either a folder for each class or all photos; it holds both; "
            "move or remove what does not belong there"
        )
    if wnids:
        class_folders.check_known(map(printable, wnids), labels, places)
        return _in_folders(place, labels)
    if has_photos and not has_truth:
        raise ValueError(
            f"the photos in {place} are not in folders of classes; the devkit ({DEVKIT}) "
            f"or Kaggle's {kaggle_files.SOLUTION} is needed beside it to tell their classes"
        )
    return _flat(place)


def _in_folders(place: str, labels: Mapping[str, int]) -> Iterator[Reference]:
    for photo in class_folders.photos_in(place, "validation", labels):
        # The key that the same photo has in a flat folder and in the tar: the order, and so every
        # byte of the data set, follows from the keys.
        is_official = ground_truth.photo_number(photo.filename) is not None
        yield photo._replace(key=photo.filename) if is_official else photo


def _flat(place: str) -> Iterator[Reference]:
    for file in storage.files(place, 1):
        filename = printable(file.name)
        yield Reference(
            split="validation",
            key=filename,
            path=storage.join(place, file.name),
            offset=0,
            length=file.length,
            filename=filename,
            label=UNLABELLED,
            modified_ns=file.modified_ns,
        )

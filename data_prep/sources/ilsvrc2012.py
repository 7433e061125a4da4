"""ILSVRC2012: the three files that image-net.org gives, never unpacked, or their folders.

The data set is the same, byte for byte, from the tars and from the folders.
"""

import os
from collections.abc import Iterator, Mapping

from data_prep import records, storage
from data_prep.sources import class_folders, ground_truth, ilsvrc2012_devkit, kaggle_files, tars
from data_prep.sources.ilsvrc2012_devkit import DEVKIT, TRAIN_TAR, VALIDATION_TAR
from data_prep.sources.reference import Reference, Source, labels_of, photo, printable, unnamed

# What the validation folder is called by torchvision and Kaggle, and by others.
_VALIDATION = ("val", "validation")


def open_release(input_dir: str) -> Source:
    """Return the photos of the release: ranges of bytes of its tars, labelled by sorted wnid.

    Checked against the devkit when the photos end: the train photos of each class by number, the
    validation photos one by one.

    Args:
        input_dir: the folder that holds the tar of train tars, the validation tar and the devkit.

    Raises:
        ValueError: something is missing, damaged, or does not fit together; also from `photos`.
        OSError: a file cannot be read; also from `photos`.
    """
    found = {file.name: file.modified_ns for file in storage.files(input_dir, 1)}
    paths = {name: storage.join(input_dir, name) for name in (TRAIN_TAR, VALIDATION_TAR, DEVKIT)}
    if missing := [path for name, path in paths.items() if name not in found]:
        raise ValueError(
            f"the ILSVRC2012 release is needed, but there is no {', no '.join(missing)}"
        )
    kit = ilsvrc2012_devkit.read(paths[DEVKIT])
    places = {"train": paths[TRAIN_TAR], "validation": paths[VALIDATION_TAR]}
    train = _train_photos(places["train"], labels_of(kit.classes), found[TRAIN_TAR])
    validation = (
        photo("validation", name, path, length, found[VALIDATION_TAR], offset=offset)
        for path in [places["validation"]]
        for name, offset, length in tars.members(path)
    )
    return ground_truth.source(
        kit.classes, train, validation, places, truth=kit.truth, train_images=kit.train_images
    )


def open_folders(input_dir: str) -> Source:
    """Open train/WNID/*.JPEG, and val/ or validation/ with a folder for each WNID or flat photos.

    Flat photos need the devkit (packed or not) or Kaggle's LOC_val_solution.csv beside the
    folders. Whatever of these is there is also held against photos in folders, and class names
    come from the devkit, or else from Kaggle's LOC_synset_mapping.txt, or else are the wnids.

    Args:
        input_dir: the folder that holds train/, or the top of Kaggle's zip.

    Raises:
        ValueError: something is missing, damaged, or does not fit together; also from `photos`.
        OSError: a file cannot be read; also from `photos`.
    """
    root, beside = _roots(input_dir)
    places = {"train": storage.join(root, "train"), "validation": _validation_folder(root)}
    classes = unnamed(class_folders.class_names(places["train"]))
    labels = labels_of(classes)

    def existing(*names: str) -> list[str]:
        paths = [storage.join(folder, name) for folder in beside for name in names]
        return [path for path in paths if storage.exists(path)]

    # A devkit that is there packed and unpacked has to agree with itself.
    packed_or_not = existing(DEVKIT, DEVKIT.removesuffix(".tar.gz"))
    kits = {path: ilsvrc2012_devkit.read(path) for path in packed_or_not}
    tables = {path: kit.classes for path, kit in kits.items()}
    for path in existing(kaggle_files.SYNSET_MAPPING):
        tables[path] = kaggle_files.read_synset_mapping(path)
    for path, table in tables.items():
        _check_classes(path, table, labels, places["train"])
    truths = {path: kit.truth for path, kit in kits.items()}
    for path in existing(kaggle_files.SOLUTION):
        truths[path] = kaggle_files.read_solution(path, labels)
    truth = ground_truth.agreed(truths)
    return ground_truth.source(
        next(iter(tables.values()), classes),
        class_folders.photos_in(places["train"], "train", labels),
        _validation_photos(places, labels, truth is not None),
        places,
        truth=truth,
        train_images=next((kit.train_images for kit in kits.values()), None),
    )


def _train_photos(path: str, labels: Mapping[str, int], modified_ns: int) -> Iterator[Reference]:
    for class_tar, (name, offset, length) in tars.nested_members(path):
        wnid, extension = os.path.splitext(os.path.basename(class_tar))
        if extension != ".tar" or wnid not in labels:
            raise ValueError(
                f"{path} must hold a tar for each class of {DEVKIT}, called WNID.tar; "
                f"{printable(class_tar)} is none"
            )
        label = labels[wnid]
        yield photo(
            "train", name, path, length, modified_ns, offset=offset, folder=wnid, label=label
        )


def _roots(input_dir: str) -> tuple[str, list[str]]:
    """Return the folder that holds train/, and the folders that lists and devkit may be in."""
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


def _check_classes(
    path: str, table: tuple[records.ClassName, ...], labels: Mapping[str, int], train: str
) -> None:
    """Refuse train folders that are not exactly the classes of a list."""
    listed = labels_of(table)
    classes = f"the {len(listed)} classes of {path}"
    if unknown := sorted(labels.keys() - listed.keys()):
        fault = f"each folder in {train} must be one of {classes}; {unknown[0]} is none"
    elif missing := sorted(listed.keys() - labels.keys()):
        fault = f"each of {classes} needs a folder in {train}; {missing[0]} has none"
    else:
        return
    count = len(unknown or missing)
    raise ValueError(
        f"{fault} ({count} in all); a part of ImageNet is prepared with the source class_folders"
    )


def _validation_photos(
    places: Mapping[str, str], labels: Mapping[str, int], has_truth: bool
) -> Iterator[Reference]:
    """Return the validation photos, labelled by their folders if they are in folders."""
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
        return map(_with_official_key, class_folders.photos_in(place, "validation", labels))
    if has_photos and not has_truth:
        raise ValueError(
            f"the photos in {place} are not in folders of classes; the devkit ({DEVKIT}) "
            f"or Kaggle's {kaggle_files.SOLUTION} is needed beside it to tell their classes"
        )
    return class_folders.photos_in(place, "validation")


def _with_official_key(found: Reference) -> Reference:
    """Return a photo with the key that it has in a flat folder and in the tar.

    The order, and so every byte of the data set, follows from the keys.
    """
    is_official = ground_truth.photo_number(found.filename) is not None
    return found._replace(key=found.filename) if is_official else found

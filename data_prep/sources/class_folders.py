"""Photos in a folder for each class: anybody's own.

Hidden files, and folders in a class' folder, are passed over; links count as what they lead to.
"""

from collections.abc import Collection, Iterator, Mapping

from data_prep import records, storage
from data_prep.command_line import UserError
from data_prep.references import Reference, Source, printable
from data_prep.sources import class_counts, content_split


def open_split_folders(input_dir: str) -> Source:
    """train/CLASS/* and validation/CLASS/*: a class a folder, the folder's name the class' name.

    Args:
        input_dir: the folder that holds train/ and validation/.

    Raises:
        UserError: a folder is missing or empty; also from `photos`.
        OSError: a folder cannot be read; also from `photos`.
    """
    places = {split: storage.join(input_dir, split) for split in records.SPLITS}
    wnids = class_names(places["train"], "; --validation_fraction splits a folder of classes")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    check_known(class_names(places["validation"]), labels, places)

    def photos() -> Iterator[Reference]:
        for split, place in places.items():
            yield from photos_in(place, split, labels)

    classes = tuple(records.ClassName(wnid, wnid) for wnid in wnids)
    return Source(classes, class_counts.checked(photos(), classes, places=places))


def open_one_folder(input_dir: str, validation_fraction: float) -> Source:
    """CLASS/*, not yet split: what a photo's bytes are decides which split it is in.

    Args:
        input_dir: the folder that holds a folder for each class.
        validation_fraction: more than 0, less than 1: the share of photos to validate with.

    Raises:
        UserError: as `open_split_folders`; or the fraction is out of range, or the folder is split.
        OSError: a folder or a photo cannot be read; also from `photos`.
    """
    if not 0 < validation_fraction < 1:
        raise UserError(
            "--validation_fraction must be more than 0 and less than 1; "
            f"it is {validation_fraction}"
        )
    wnids = class_names(input_dir)
    if set(wnids) == set(records.SPLITS):
        raise UserError(
            f"{input_dir} is split into {' and '.join(wnids)} already; --validation_fraction is "
            "for a folder of classes: leave it away"
        )
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    classes = tuple(records.ClassName(wnid, wnid) for wnid in wnids)
    photos = content_split.split(photos_in(input_dir, "train", labels), validation_fraction)
    places = dict.fromkeys(records.SPLITS, input_dir)
    return Source(classes, class_counts.checked(photos, classes, places=places))


def class_names(parent: str, advice: str = "") -> list[str]:
    """The printable names of the visible folders in `parent`, sorted: their places are labels.

    Raises:
        UserError: it is not there, or holds no folder; ends with `advice`.
        OSError: it cannot be read.
    """
    if not storage.is_folder(parent):
        raise UserError(
            f"a folder {parent} with a folder for each class is needed; there is none{advice}"
        )
    names = sorted(map(printable, storage.folders(parent)))
    if not names:
        raise UserError(f"{parent} must hold a folder for each class; it holds none{advice}")
    return names


def check_known(wnids: Collection[str], known: Collection[str], places: Mapping[str, str]) -> None:
    """Refuses validation folders of classes that are not trained on.

    Raises:
        UserError: it names the first.
    """
    if unknown := sorted(set(wnids) - set(known)):
        raise UserError(
            f"each class of {places['validation']} needs a folder in {places['train']}; "
            f"{unknown[0]} has none ({len(unknown)} in all)"
        )


def photos_in(parent: str, split: str, labels: Mapping[str, int]) -> Iterator[Reference]:
    """All parent/CLASS/*, in any order.

    Raises:
        UserError: a class came up that is not in `labels`.
        OSError: a folder cannot be read.
    """
    for file in storage.files(parent, 2):
        folder, filename = map(printable, file.name.split("/"))
        if folder not in labels:
            raise UserError(
                f"{parent} must stay as it is while its photos are listed; {folder} is new; "
                "start again"
            )
        yield Reference(
            split=split,
            key=f"{folder}/{filename}",
            path=storage.join(parent, file.name),
            offset=0,
            length=file.length,
            filename=filename,
            label=labels[folder],
            modified_ns=file.modified_ns,
        )

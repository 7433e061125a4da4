"""Photos in a folder for each class: anybody's own, split already or by a hash of their bytes.

Hidden files, and folders in a class' folder, are passed over; links count as what they lead to.

A photo that is split by its bytes stays where it is when others come or go or when it is renamed,
and exact duplicates are never on both sides.
"""

import concurrent.futures
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping

from data_prep import records, storage
from data_prep.sources import ground_truth
from data_prep.sources.reference import Reference, Source, labels_of, photo, printable, unnamed


def open_folders(input_dir: str, validation_fraction: float | None = None) -> Source:
    """Open train/CLASS/* and validation/CLASS/*, or CLASS/* that are not split yet.

    Args:
        input_dir: the folder that holds train/ and validation/, or a folder for each class.
        validation_fraction: more than 0, less than 1: the share of photos to validate with. None:
            they are split.

    Raises:
        ValueError: a folder is missing or empty; the fraction is out of range; a folder to be
            split is split already; also from `photos`.
        OSError: a folder or a photo cannot be read; also from `photos`.
    """
    if validation_fraction is not None:
        return _open_one_folder(input_dir, validation_fraction)
    places = {split: storage.join(input_dir, split) for split in records.SPLITS}
    wnids = class_names(places["train"], "; validation_fraction splits a folder of classes")
    labels = labels_of(classes := unnamed(wnids))
    check_known(class_names(places["validation"]), labels, places)
    photos = (photos_in(place, split, labels) for split, place in places.items())
    return ground_truth.source(classes, *photos, places)


def _open_one_folder(input_dir: str, validation_fraction: float) -> Source:
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must be more than 0 and less than 1; it is {validation_fraction}"
        )
    wnids = class_names(input_dir)
    if set(wnids) == set(records.SPLITS):
        raise ValueError(
            f"{input_dir} is split into {' and '.join(wnids)} already; validation_fraction is "
            "for a folder of classes: leave it away"
        )
    classes = unnamed(wnids)
    photos = split(photos_in(input_dir, "train", labels_of(classes)), validation_fraction)
    return ground_truth.source(classes, photos, (), dict.fromkeys(records.SPLITS, input_dir))


def class_names(parent: str, advice: str = "") -> list[str]:
    """Return the printable names of the visible folders in `parent`, sorted: places are labels.

    Raises:
        ValueError: it is not there, or holds no folder; ends with `advice`.
        OSError: it cannot be read.
    """
    if not storage.is_folder(parent):
        raise ValueError(
            f"a folder {parent} with a folder for each class is needed; there is none{advice}"
        )
    names = sorted(map(printable, storage.folders(parent)))
    if not names:
        raise ValueError(f"{parent} must hold a folder for each class; it holds none{advice}")
    return names


def check_known(wnids: Iterable[str], known: Collection[str], places: Mapping[str, str]) -> None:
    """Refuse validation folders of classes that are not trained on.

    Raises:
        ValueError: it names the first.
    """
    if unknown := sorted(set(wnids) - set(known)):
        raise ValueError(
            f"each class of {places['validation']} needs a folder in {places['train']}; "
            f"{unknown[0]} has none ({len(unknown)} in all)"
        )


def photos_in(
    parent: str, split: str, labels: Mapping[str, int] | None = None
) -> Iterator[Reference]:
    """Find all parent/CLASS/*, or without `labels` all parent/*, unlabelled; in any order.

    Raises:
        ValueError: a class came up that is not in `labels`.
        OSError: a folder cannot be read.
    """
    for file in storage.files(parent, 1 if labels is None else 2):
        known = {}
        if labels is not None:
            folder = printable(file.name.split("/")[0])
            if folder not in labels:
                raise ValueError(
                    f"{parent} must stay as it is while its photos are listed; {folder} is new; "
                    "start again"
                )
            known = {"folder": folder, "label": labels[folder]}
        path = storage.join(parent, file.name)
        yield photo(split, file.name, path, file.length, file.modified_ns, **known)


# Reading waits for disks and networks, and hashing lets go of Python's lock.
_THREADS = 8
_AT_ONCE = 8 * _THREADS
_SALT = b"validation split"  # no other hash of the same bytes must tell the split


def split(photos: Iterable[Reference], validation_fraction: float) -> Iterator[Reference]:
    """Read each photo, and give it back with its split; in the order in which they came.

    Args:
        photos: whole files, whatever their split.
        validation_fraction: the share that validates, about: each photo is a draw of its own.

    Raises:
        ValueError: a photo cannot be read.
    """
    # An integer of 64 bits and a float compare exactly; so does a float times a power of 2.
    limit = validation_fraction * 2.0**64
    photos = iter(photos)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        while some := list(itertools.islice(photos, _AT_ONCE)):
            places = pool.map(_place_of, [photo.path for photo in some])
            for photo, place in zip(some, places, strict=True):
                yield photo._replace(split="validation" if place < limit else "train")


def _place_of(path: str) -> int:
    """Return where in 0 to 2**64 - 1 the bytes of a file put it."""
    try:
        with storage.open_file(path) as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8, salt=_SALT))
    except OSError as error:
        raise ValueError(
            f"each photo is read to split them, but {path} cannot be ({error.strerror or error}); "
            "remove it, or make it readable"
        ) from error
    return int.from_bytes(digest.digest(), "big")

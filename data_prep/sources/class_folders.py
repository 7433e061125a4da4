"""Photos in a folder for each class: anybody's own.

Hidden files, and folders in a class' folder, are passed over; links count as what they lead to.

Splits photos into train and validation by a hash of their bytes.

So a photo stays where it is when others come or go or when it is renamed, and exact duplicates
are never on both sides.
"""

import collections
import concurrent.futures
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping

from data_prep import records, storage
from data_prep.sources import ground_truth
from data_prep.sources.reference import Reference, Source, printable


def open_split_folders(input_dir: str) -> Source:
    """train/CLASS/* and validation/CLASS/*: a class a folder, the folder's name the class' name.

    Args:
        input_dir: the folder that holds train/ and validation/.

    Raises:
        ValueError: a folder is missing or empty; also from `photos`.
        OSError: a folder cannot be read; also from `photos`.
    """
    places = {split: storage.join(input_dir, split) for split in records.SPLITS}
    wnids = class_names(places["train"], "; validation_fraction splits a folder of classes")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    check_known(class_names(places["validation"]), labels, places)

    def photos() -> Iterator[Reference]:
        for split, place in places.items():
            yield from photos_in(place, split, labels)

    classes = tuple(records.ClassName(wnid, wnid) for wnid in wnids)
    return Source(classes, ground_truth.checked(photos(), classes, places=places))


def open_one_folder(input_dir: str, validation_fraction: float) -> Source:
    """CLASS/*, not yet split: what a photo's bytes are decides which split it is in.

    Args:
        input_dir: the folder that holds a folder for each class.
        validation_fraction: more than 0, less than 1: the share of photos to validate with.

    Raises:
        ValueError: as `open_split_folders`; the fraction is out of range; the folder is split.
        OSError: a folder or a photo cannot be read; also from `photos`.
    """
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
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    classes = tuple(records.ClassName(wnid, wnid) for wnid in wnids)
    photos = split(photos_in(input_dir, "train", labels), validation_fraction)
    places = dict.fromkeys(records.SPLITS, input_dir)
    return Source(classes, ground_truth.checked(photos, classes, places=places))


def class_names(parent: str, advice: str = "") -> list[str]:
    """The printable names of the visible folders in `parent`, sorted: their places are labels.

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


def check_known(wnids: Collection[str], known: Collection[str], places: Mapping[str, str]) -> None:
    """Refuses validation folders of classes that are not trained on.

    Raises:
        ValueError: it names the first.
    """
    if unknown := sorted(set(wnids) - set(known)):
        raise ValueError(
            f"each class of {places['validation']} needs a folder in {places['train']}; "
            f"{unknown[0]} has none ({len(unknown)} in all)"
        )


def photos_in(parent: str, split: str, labels: Mapping[str, int]) -> Iterator[Reference]:
    """All parent/CLASS/*, in any order.

    Raises:
        ValueError: a class came up that is not in `labels`.
        OSError: a folder cannot be read.
    """
    for file in storage.files(parent, 2):
        folder, filename = map(printable, file.name.split("/"))
        if folder not in labels:
            raise ValueError(
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


# Reading waits for disks and networks, and hashing lets go of Python's lock.
_THREADS = 8
_LOOK_AHEAD = 4 * _THREADS
_SALT = b"validation split"  # no other hash of the same bytes must tell the split


def split(photos: Iterable[Reference], validation_fraction: float) -> Iterator[Reference]:
    """Reads each photo, and gives it back with its split; in the order in which they came.

    Args:
        photos: whole files, whatever their split.
        validation_fraction: the share that validates, about: each photo is a draw of its own.

    Raises:
        ValueError: a photo cannot be read.
    """
    # An integer of 64 bits and a float compare exactly; so does a float times a power of 2.
    limit = validation_fraction * 2.0**64
    for photo, place in _places(photos):
        yield photo._replace(split="validation" if place < limit else "train")


def place_of(path: str) -> int:
    """Where in 0 to 2**64 - 1 the bytes of a file put it.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with storage.open_file(path) as file:
            digest = hashlib.file_digest(file, _salted)
    except OSError as error:
        raise ValueError(
            f"each photo is read to split them, but {path} cannot be ({error.strerror or error}); "
            "remove it, or make it readable"
        ) from error
    return int.from_bytes(digest.digest(), "big")


def _salted():
    return hashlib.blake2b(digest_size=8, salt=_SALT)


def _places(photos: Iterable[Reference]) -> Iterator[tuple[Reference, int]]:
    """Photos and their places; no more than `_LOOK_AHEAD` are in memory at once."""
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    try:
        waiting: collections.deque = collections.deque()
        photos = iter(photos)
        while True:
            for photo in itertools.islice(photos, _LOOK_AHEAD - len(waiting)):
                waiting.append((photo, pool.submit(place_of, photo.path)))
            if not waiting:
                return
            photo, place = waiting.popleft()
            yield photo, place.result()
    finally:
        pool.shutdown(cancel_futures=True)

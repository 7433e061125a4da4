"""ILSVRC2012's validation photos and their classes, brought together by the photos' numbers.

Counts what a source yields, and refuses it where a class or a split has too few photos.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

from data_prep import records
from data_prep.sources.reference import UNLABELLED, Reference, Source, labels_of

_NAME = re.compile(r"ILSVRC2012_val_([0-9]{8})")


def photo_name(number: int) -> str:
    """Return what a validation photo is called, less the extension."""
    return f"ILSVRC2012_val_{number:08d}"


def photo_number(name: str) -> int | None:
    """Return the number in the name of a validation photo, or None: it is called otherwise."""
    match = _NAME.fullmatch(name.partition(".")[0])
    return int(match[1]) if match else None


def source(
    classes: tuple[records.ClassName, ...],
    train: Iterable[Reference],
    validation: Iterable[Reference],
    places: Mapping[str, str],
    *,
    truth: Mapping[int, str] | None = None,
    train_images: Mapping[str, int] | None = None,
) -> Source:
    """Return a source whose photos are checked while they are listed.

    Args:
        classes: in the order of their labels.
        train: the train photos, labelled, in any order.
        validation: the validation photos; with `truth` they may be `UNLABELLED`.
        places: by split, the folder or file that its photos are in, for errors.
        truth: the wnid of each validation photo by its number, where that is known.
        train_images: how many train photos there are by wnid, where that is known.

    Raises:
        ValueError: from `photos`: a photo has no line in the ground truth or two have one, a line
            has no photo, a folder says another class than the ground truth, a class has no train
            photos or not as many as it should, or a split is empty.
    """
    if truth is not None:
        validation = _labelled(validation, truth, labels_of(classes), places["validation"])
    photos = itertools.chain(train, validation)
    return Source(classes, _checked(photos, classes, places, train_images))


def _labelled(
    photos: Iterable[Reference], truth: Mapping[int, str], labels: Mapping[str, int], place: str
) -> Iterator[Reference]:
    """Give each validation photo its label."""
    found = set()
    for photo in photos:
        number = photo_number(photo.filename)
        if number not in truth:
            raise ValueError(
                f"each photo in {place} must be called {photo_name(1)}.JPEG and so on, to one of "
                f"the {len(truth)} lines of the ground truth; {photo.filename} has no line there; "
                "remove it, or fetch the ground truth again"
            )
        if number in found:
            raise ValueError(
                f"each photo in {place} must be there once; {photo.filename} is there twice; "
                "remove one"
            )
        found.add(number)
        label = labels[truth[number]]
        if photo.label not in (UNLABELLED, label):
            raise ValueError(
                f"each photo in {place} must lie in the folder of its class; {photo.key} is a "
                f"{truth[number]} in the ground truth; move it there"
            )
        yield photo._replace(label=label)
    if missing := sorted(truth.keys() - found):
        raise ValueError(
            f"{place} must hold a photo for each line of the ground truth; there is no "
            f"{photo_name(missing[0])} ({len(found)} photos for {len(truth)} lines); fetch it again"
        )


def agreed(truths: Mapping[str, Mapping[int, str]]) -> Mapping[int, str] | None:
    """Return the one ground truth that all of `truths`, by their paths, say; None without any.

    Raises:
        ValueError: two of them differ.
    """
    if not truths:
        return None
    (first_path, first), *others = truths.items()
    for path, other in others:
        differing = [n for n in first.keys() | other.keys() if first.get(n) != other.get(n)]
        if differing:
            number = min(differing)
            one, two = (truth.get(number, "nothing") for truth in (first, other))
            raise ValueError(
                f"{first_path} and {path} must say the same of each validation photo; of "
                f"{photo_name(number)} they say {one} and {two} ({len(differing)} such photos); "
                "remove the wrong one"
            )
    return first


def _checked(
    photos: Iterable[Reference],
    classes: tuple[records.ClassName, ...],
    places: Mapping[str, str],
    train_images: Mapping[str, int] | None,
) -> Iterator[Reference]:
    """Pass all photos on, and check their numbers when they end."""
    counts = {split: [0] * len(classes) for split in records.SPLITS}
    for photo in photos:
        counts[photo.split][photo.label] += 1
        yield photo
    train = {entry.wnid: count for entry, count in zip(classes, counts["train"], strict=True)}
    if lacking := [wnid for wnid, count in train.items() if not count]:
        raise ValueError(
            f"each of the {len(classes)} classes needs train photos in {places['train']}; "
            f"{lacking[0]} has none ({len(lacking)} in all); add some, or remove the class"
        )
    wanted = train if train_images is None else train_images
    if differing := [wnid for wnid, count in train.items() if count != wanted[wnid]]:
        wnid = differing[0]
        raise ValueError(
            f"{places['train']} must hold as many photos of each class as the devkit counts; "
            f"{wnid} has {train[wnid]}, not {wanted[wnid]} ({len(differing)} in all); fetch "
            "the release again, or prepare a part of it with the source class_folders"
        )
    for split, of_classes in counts.items():
        if not any(of_classes):
            raise ValueError(f"{split} photos are needed in {places[split]}; there are none")

"""Counts what a source yields, and refuses it where a class or a split has too few photos."""

from collections.abc import Iterable, Iterator, Mapping

from data_prep import records
from data_prep.command_line import UserError
from data_prep.references import Reference


def checked(
    photos: Iterable[Reference],
    classes: tuple[records.ClassName, ...],
    *,
    places: Mapping[str, str],
    train_images: Mapping[str, int] | None = None,
) -> Iterator[Reference]:
    """Passes all photos on, and looks at their numbers when they end.

    Args:
        photos: of both splits, labelled.
        classes: in the order of their labels.
        places: by split, the folder or file that its photos are in, for the error.
        train_images: how many train photos there are by wnid, where that is known.

    Raises:
        UserError: a class has no train photos or not as many as it should, or a split is empty.
    """
    counts = {split: [0] * len(classes) for split in records.SPLITS}
    for photo in photos:
        counts[photo.split][photo.label] += 1
        yield photo
    train = {entry.wnid: count for entry, count in zip(classes, counts["train"], strict=True)}
    if lacking := [wnid for wnid, count in train.items() if not count]:
        raise UserError(
            f"each of the {len(classes)} classes needs train photos in {places['train']}; "
            f"{lacking[0]} has none ({len(lacking)} in all); add some, or remove the class"
        )
    wanted = train if train_images is None else train_images
    if differing := [wnid for wnid, count in train.items() if count != wanted[wnid]]:
        wnid = differing[0]
        raise UserError(
            f"{places['train']} must hold as many photos of each class as the devkit counts; "
            f"{wnid} has {train[wnid]}, not {wanted[wnid]} ({len(differing)} in all); fetch "
            "the release again, or prepare a part of it with --source=class_folders"
        )
    for split, of_classes in counts.items():
        if not any(of_classes):
            raise UserError(f"{split} photos are needed in {places[split]}; there are none")

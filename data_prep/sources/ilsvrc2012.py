"""The three files of the ILSVRC2012 release, as image-net.org gives them, never unpacked."""

import os
from collections.abc import Iterator, Mapping

from data_prep import storage
from data_prep.sources import ground_truth, ilsvrc2012_devkit, tars
from data_prep.sources.ground_truth import checked
from data_prep.sources.ilsvrc2012_devkit import DEVKIT, TRAIN_TAR, VALIDATION_TAR
from data_prep.sources.reference import Reference, Source, printable


def open_release(input_dir: str) -> Source:
    """The photos of the release: ranges of bytes of its tars, labelled by sorted wnid.

    Checked against the devkit when the photos end: the train photos of each class by number, the
    validation photos one by one.

    Args:
        input_dir: the folder that holds the tar of train tars, the validation tar and the devkit.

    Raises:
        ValueError: something is missing, damaged, or does not fit together; also from `photos`.
        OSError: a file cannot be read; also from `photos`.
    """
    found = {file.name: file.modified_ns for file in storage.files(input_dir, 1)}
    if missing := [
        storage.join(input_dir, name)
        for name in (TRAIN_TAR, VALIDATION_TAR, DEVKIT)
        if name not in found
    ]:
        raise ValueError(
            f"the ILSVRC2012 release is needed, but there is no {', no '.join(missing)}"
        )
    train_tar, validation_tar, devkit_tar = (
        storage.join(input_dir, name) for name in (TRAIN_TAR, VALIDATION_TAR, DEVKIT)
    )
    told = ilsvrc2012_devkit.read(devkit_tar)
    labels = {entry.wnid: label for label, entry in enumerate(told.classes)}

    def photos() -> Iterator[Reference]:
        yield from _train(train_tar, labels, found[TRAIN_TAR])
        unlabelled = _validation(validation_tar, found[VALIDATION_TAR])
        yield from ground_truth.labelled(unlabelled, told.truth, labels, validation_tar)

    return Source(
        classes=told.classes,
        photos=checked(
            photos(),
            told.classes,
            places={"train": train_tar, "validation": validation_tar},
            train_images=told.train_images,
        ),
    )


def _train(path: str, labels: Mapping[str, int], modified_ns: int) -> Iterator[Reference]:
    for class_tar, photo in tars.nested_members(path):
        wnid, extension = os.path.splitext(os.path.basename(class_tar))
        if extension != ".tar" or wnid not in labels:
            raise ValueError(
                f"{path} must hold a tar for each class of {DEVKIT}, called WNID.tar; "
                f"{printable(class_tar)} is none"
            )
        filename = printable(os.path.basename(photo.name))
        yield Reference(
            split="train",
            key=f"{wnid}/{filename}",
            path=path,
            offset=photo.offset,
            length=photo.length,
            filename=filename,
            label=labels[wnid],
            modified_ns=modified_ns,
        )


def _validation(path: str, modified_ns: int) -> Iterator[Reference]:
    for photo in tars.members(path):
        filename = printable(os.path.basename(photo.name))
        yield Reference(
            split="validation",
            key=filename,
            path=path,
            offset=photo.offset,
            length=photo.length,
            filename=filename,
            label=ground_truth.UNLABELLED,
            modified_ns=modified_ns,
        )

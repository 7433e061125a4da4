"""Where photos and labels come from: each source ends as a `Source`, byte ranges with labels.

ILSVRC2012's tars are never unpacked: a photo in a tar of tars is a range of bytes of the outer
file. Names inside a tar are only ever labels and keys, never paths.
"""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from data_prep import ilsvrc2012_files, records
from data_prep.command_line import UserError

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
DEVKIT_TAR = "ILSVRC2012_devkit_t12.tar.gz"


class Reference(NamedTuple):
    """One photo: where its bytes are and what it shows."""

    key: str  # unique within the split, the same wherever the data lie
    path: str
    offset: int
    length: int
    filename: str
    label: int


@dataclasses.dataclass(frozen=True)
class Source:
    """What there is to prepare.

    Attributes:
        classes: sorted by wnid; the place of a class is its label.
        splits: the photos, sorted by key, by the name of the split (one of `records.SPLITS`).
    """

    classes: tuple[records.ClassName, ...]
    splits: Mapping[str, Sequence[Reference]]

    def fingerprint(self) -> str:
        """Tells two inputs apart by their keys, lengths, labels and classes, not by their place."""
        digest = hashlib.blake2b(repr(self.classes).encode(), digest_size=16)
        for split, references in self.splits.items():
            for key, _, _, length, filename, label in references:
                digest.update(repr((split, key, length, filename, label)).encode())
        return digest.hexdigest()


def open_source(name: str, input_dir: str) -> Source:
    """Lists the photos of a source; reads names and tar headers, no photo.

    Args:
        name: one of `SOURCES`.
        input_dir: the folder that holds its files.

    Raises:
        UserError: something is missing, damaged, or does not fit together.
    """
    if not os.path.isdir(input_dir):
        raise UserError(f"--input_dir must be a folder; there is none at {input_dir}")
    try:
        source = SOURCES[name](input_dir)
    except OSError as error:
        raise UserError(f"the source cannot be read: {error}; check --input_dir") from error
    for split, references in source.splits.items():
        for one, other in itertools.pairwise(references):
            if one.key == other.key:
                raise UserError(
                    f"each photo must have a name of its own; {one.key} is twice in the {split} "
                    f"photos of {input_dir}; rename or remove one"
                )
    return source


def class_folders(input_dir: str) -> Source:
    """train/CLASS/* and validation/CLASS/*: a class a folder, the folder's name the class' name.

    Hidden files, and folders in a class' folder, are passed over; links count as what they lead to.

    Args:
        input_dir: the folder that holds train/ and validation/.
    """
    folders = {split: _folders(os.path.join(input_dir, split)) for split in records.SPLITS}
    label = {wnid: place for place, wnid in enumerate(sorted(folders["train"]))}
    if unknown := sorted(folders["validation"].keys() - label.keys()):
        raise UserError(
            f"each class of {input_dir}/validation needs a folder in {input_dir}/train; "
            f"{unknown[0]} has none ({len(unknown)} in all)"
        )
    splits: dict[str, list[Reference]] = {split: [] for split in records.SPLITS}
    for split, references in splits.items():
        for wnid, folder in folders[split].items():
            found = list(_class_folder(folder, wnid, label[wnid]))
            if split == "train" and not found:
                raise UserError(f"a class needs photos to train on; {folder} holds none")
            references += found
        if not references:
            raise UserError(f"photos are needed in {input_dir}/{split}/CLASS/; there are none")
        references.sort()
    return Source(tuple(records.ClassName(wnid, wnid) for wnid in label), splits)


def _folders(parent: str) -> dict[str, str]:
    """The visible folders in `parent`: printable name -> path."""
    if not os.path.isdir(parent):
        raise UserError(f"a folder {parent} with a folder for each class is needed; there is none")
    with os.scandir(parent) as entries:
        folders = {
            _printable(entry.name): entry.path
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".")
        }
    if not folders:
        raise UserError(f"{parent} must hold a folder for each class; it holds none")
    return folders


def _class_folder(folder: str, wnid: str, label: int) -> Iterator[Reference]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() and not entry.name.startswith("."):
                filename = _printable(entry.name)
                length = entry.stat().st_size
                yield Reference(f"{wnid}/{filename}", entry.path, 0, length, filename, label)


def ilsvrc2012(input_dir: str) -> Source:
    """The three files of the ILSVRC2012 release, as image-net.org gives them.

    The ids of the devkit, 1 to N, are in no order that anyone uses; labels are the places of the
    sorted wnids, as in Keras, Caffe, torchvision and TFDS.

    Args:
        input_dir: the folder that holds the tar of train tars, the validation tar and the devkit.
    """
    train_tar, validation_tar, devkit = (
        os.path.join(input_dir, name) for name in (TRAIN_TAR, VALIDATION_TAR, DEVKIT_TAR)
    )
    if missing := [
        path for path in (train_tar, validation_tar, devkit) if not os.path.isfile(path)
    ]:
        raise UserError(
            f"the ILSVRC2012 release is needed, but there is no {', no '.join(missing)}"
        )
    synsets, ids = ilsvrc2012_files.read_devkit(devkit)
    wnids = sorted(synset.wnid for synset in synsets.values())
    label = {wnid: place for place, wnid in enumerate(wnids)}

    train = list(_train_references(train_tar, label))
    if lacking := sorted(set(wnids) - {wnids[reference.label] for reference in train}):
        raise UserError(
            f"each of the {len(wnids)} classes of the devkit needs photos in {train_tar}; "
            f"{lacking[0]} has none ({len(lacking)} in all)"
        )
    validation = sorted(_validation_references(validation_tar))
    if len(ids) != len(validation):
        raise UserError(
            f"{validation_tar} must hold a photo for each line of the devkit's ground "
            f"truth; it holds {len(validation)} photos for {len(ids)} lines"
        )
    by_name = zip(validation, ids, strict=True)
    return Source(
        classes=tuple(sorted(synsets.values(), key=lambda synset: synset.wnid)),
        splits={
            "train": sorted(train),
            "validation": [
                photo._replace(label=label[synsets[number].wnid]) for photo, number in by_name
            ],
        },
    )


def _train_references(path: str, label: Mapping[str, int]) -> Iterator[Reference]:
    for class_tar, photo in ilsvrc2012_files.nested_members(path):
        wnid, extension = os.path.splitext(os.path.basename(class_tar))
        if extension != ".tar" or wnid not in label:
            raise UserError(
                f"{path} must hold a tar for each class of {DEVKIT_TAR}, called WNID.tar; "
                f"{_printable(class_tar)} is none"
            )
        filename = _printable(os.path.basename(photo.name))
        key = f"{wnid}/{filename}"
        yield Reference(key, path, photo.offset, photo.length, filename, label[wnid])


def _validation_references(path: str) -> Iterator[Reference]:
    """Not yet labelled: labels come in the order of the file names, which is not the tar's."""
    for photo in ilsvrc2012_files.members(path):
        filename = _printable(os.path.basename(photo.name))
        yield Reference(filename, path, photo.offset, photo.length, filename, -1)


def _printable(name: str) -> str:
    r"""A name as plain text; what cannot be printed as \x07, bytes that are no UTF-8 as \udcff."""
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name
    )


# What `--source` chooses from.
SOURCES: Mapping[str, Callable[[str], Source]] = {
    "ilsvrc2012": ilsvrc2012,
    "class_folders": class_folders,
}

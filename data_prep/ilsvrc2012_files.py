"""Reads the files of the ILSVRC2012 release where they lie: two tars, and the devkit.

Untrusted input: a name in a tar is never used as a path, links and devices are passed over, and
nothing is unpickled.
"""

import contextlib
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
import scipy.io

from data_prep import records
from data_prep.command_line import UserError

META = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# Both take some hundred kB; a bomb must not become an allocation.
_LARGEST_DEVKIT_FILE = 1 << 26


class Member(NamedTuple):
    """A file in a tar, as a range of bytes of the outermost tar file."""

    name: str
    offset: int
    length: int


def members(path: str) -> Iterator[Member]:
    """The visible files of a flat tar, such as ILSVRC2012_img_val.tar.

    Raises:
        UserError: it is no tar, or a damaged one.
    """
    with open(path, "rb") as file, _tar(file, path) as archive:
        for member in _files(archive, path):
            yield Member(member.name, member.offset_data, member.size)


def nested_members(path: str) -> Iterator[tuple[str, Member]]:
    """The visible files of the tars in a tar, such as ILSVRC2012_img_train.tar.

    Yields:
        Name of the inner tar, and a file in it.

    Raises:
        UserError: it, or a file in it, is no tar, or a damaged one.
    """
    with open(path, "rb") as file, _tar(file, path) as archive:
        for inner in _files(archive, path):
            described = f"{inner.name!r} in {path}"
            with _tar(archive.extractfile(inner), described) as inner_archive:
                for member in _files(inner_archive, described):
                    offset = inner.offset_data + member.offset_data
                    yield inner.name, Member(member.name, offset, member.size)


def read_devkit(path: str) -> tuple[dict[int, records.ClassName], list[int]]:
    """What ILSVRC2012_devkit_t12.tar.gz says of classes and of the validation photos.

    Returns:
        The classes (the synsets without children) by their ILSVRC2012_ID, 1 to their number, and
        the ids of the validation photos in the order of their file names.

    Raises:
        UserError: a file is missing or damaged, or the ids are not 1 to the number of classes.
    """
    contents = {}
    with open(path, "rb") as file, _tar(file, path, "r:*") as archive:
        for member in archive:
            name = os.path.basename(member.name)
            if member.isreg() and name in (META, GROUND_TRUTH):
                contents[name] = archive.extractfile(member).read(_LARGEST_DEVKIT_FILE)
    for name in (META, GROUND_TRUTH):
        if name not in contents:
            raise UserError(f"{path} must hold data/{name}, but does not; fetch it again")
    classes = _leaf_synsets(contents[META], path)
    return classes, _ids(contents[GROUND_TRUTH], classes, path)


def _leaf_synsets(meta: bytes, path: str) -> dict[int, records.ClassName]:
    try:
        synsets = np.atleast_1d(scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        leaves = [
            (
                int(synset["ILSVRC2012_ID"]),
                # labels.txt has a line a class and a tab between the two: neither may hold one.
                records.ClassName(
                    wnid="".join(str(synset["WNID"]).split()),
                    name=" ".join(str(synset["words"]).split()),
                ),
            )
            for synset in synsets
            if int(synset["num_children"]) == 0
        ]
    except Exception as error:  # whatever a damaged or foreign .mat file leads to
        raise UserError(
            f"{META} in {path} must hold the table of synsets, but cannot be read "
            f"({type(error).__name__}); fetch it again"
        ) from error
    if not leaves or sorted(number for number, _ in leaves) != list(range(1, len(leaves) + 1)):
        raise UserError(f"the classes of {META} in {path} must have the ids 1 to N, but do not")
    if len({leaf.wnid for _, leaf in leaves}) < len(leaves):
        raise UserError(f"each class of {META} in {path} must have a wnid of its own")
    return dict(leaves)


def _ids(ground_truth: bytes, classes: dict[int, records.ClassName], path: str) -> list[int]:
    try:
        ids = [int(line) for line in ground_truth.split()]
    except ValueError as error:
        raise UserError(f"{GROUND_TRUTH} in {path} must hold an id a line: {error}") from error
    if unknown := [number for number in ids if number not in classes]:
        raise UserError(
            f"each id in {GROUND_TRUTH} must be one of the {len(classes)} classes of {META} in "
            f"{path}; {unknown[0]} is not"
        )
    return ids


@contextlib.contextmanager
def _tar(file: IO[bytes], described: str, mode: str = "r:") -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=file, mode=mode) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(
            f"{described} must be a whole tar file, but is not one ({error}); fetch it again"
        ) from error


def _files(archive: tarfile.TarFile, described: str) -> Iterator[tarfile.TarInfo]:
    """The visible files in an uncompressed tar; links, folders and devices are passed over."""
    for member in archive:
        hidden = os.path.basename(member.name).startswith(".")
        if member.isreg() and not member.issparse() and not hidden:
            yield member
    # tarfile takes a broken header in the middle for the end, which is a block of zeros.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise UserError(f"{described} is damaged at byte {archive.offset}; fetch it again")

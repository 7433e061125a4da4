"""Reads the tars of the ILSVRC2012 release where they lie: files in them are ranges of bytes.

Untrusted input: a name in a tar is never used as a path, links and devices are passed over.
"""

import contextlib
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from data_prep import storage

# Lists and the devkit's files take a few MB at most; a bomb must not become an allocation.
LARGEST_LIST = 1 << 26
# What tarfile and the decompressors raise of damage (gzip's error is also an OSError).
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
# What made-up headers lead to: a chain of a thousand extensions, a size of 2**90 bytes.
_HOSTILE = (RecursionError, OverflowError, ValueError)


class _RefusedError(ValueError):
    """Damage found here, to be told from a ValueError of tarfile."""


class Member(NamedTuple):
    """A file in a tar, as a range of bytes of the outermost tar file."""

    name: str
    offset: int
    length: int


def members(path: str) -> Iterator[Member]:
    """Find the visible files of a flat tar, such as ILSVRC2012_img_val.tar.

    Raises:
        ValueError: it is no tar, a damaged one, or cannot be read.
    """
    with open_tar(path) as archive:
        for member in _files(archive, path):
            yield Member(member.name, member.offset_data, member.size)


def nested_members(path: str) -> Iterator[tuple[str, Member]]:
    """Find the visible files of the tars in a tar, such as ILSVRC2012_img_train.tar.

    Yields:
        Name of the inner tar, and a file in it.

    Raises:
        ValueError: it, or a file in it, is no tar, a damaged one, or cannot be read.
    """
    with open_tar(path) as archive:
        for inner in _files(archive, path):
            described = f"{inner.name!r} in {path}"
            with _tar(archive.extractfile(inner), described, "r:") as inner_archive:
                for member in _files(inner_archive, described):
                    offset = inner.offset_data + member.offset_data
                    yield inner.name, Member(member.name, offset, member.size)


@contextlib.contextmanager
def open_tar(path: str, mode: str = "r:") -> Iterator[tarfile.TarFile]:
    """Open a tar, "r:" not compressed or "r:*" any; a fault within the block is a ValueError.

    Raises:
        ValueError: it is no tar, a damaged one, or cannot be read.
        OSError: it cannot be opened.
    """
    with storage.open_file(path) as file, _tar(file, path, mode) as archive:
        yield archive


def read_list(file: BinaryIO, described: str) -> bytes:
    """Read all of a small file, which the error calls as `described`.

    Raises:
        ValueError: it is larger than any list of the release could be.
    """
    content = file.read(LARGEST_LIST + 1)
    if len(content) > LARGEST_LIST:
        raise _RefusedError(
            f"{described} must be a list of at most {LARGEST_LIST >> 20} MB, but is larger; "
            "fetch it again"
        )
    return content


@contextlib.contextmanager
def _tar(file: BinaryIO, described: str, mode: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=file, mode=mode) as archive:
            yield archive
    except _RefusedError:
        raise
    except (*_DAMAGE, *_HOSTILE) as error:
        one_line = " ".join(str(error).split())
        raise _RefusedError(
            f"{described} must be a whole tar file, but is not one ({one_line}); fetch it again"
        ) from error
    except OSError as error:
        raise _RefusedError(
            f"{described} cannot be read ({error}); check the disk, or fetch it again"
        ) from error


def _files(archive: tarfile.TarFile, described: str) -> Iterator[tarfile.TarInfo]:
    """Find the visible files in an uncompressed tar; links, folders and devices are passed over."""
    for member in archive:
        archive.members.clear()  # tarfile keeps them all: 50,000 of a kB each
        hidden = os.path.basename(member.name).startswith(".")
        if member.isreg() and not member.issparse() and not hidden:
            yield member
    # tarfile takes a broken header in the middle for the end, which is a block of zeros.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise _RefusedError(f"{described} is damaged at byte {archive.offset}; fetch it again")

"""One way to reach local paths and those of Beam's file systems: gs://, s3://, hdfs://.

A path with "://" goes to beam_storage.py, which imports Beam; any other is local and costs no
import. Whatever goes wrong is an OSError whose text, or whose `filename`, names the path.
"""

import contextlib
import os
import shutil
import stat
import types
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from data_prep import files as whole_files

READ_AHEAD = 1 << 24  # what Beam's own streams ask for at a time
_REMOTE = "://"


class FileStat(NamedTuple):
    """A file that was found below a folder.

    Attributes:
        name: path relative to that folder, with "/" between the components.
        length: bytes.
        modified_ns: nanoseconds since 1970; 0 where the file system does not tell.
    """

    name: str
    length: int
    modified_ns: int


def configure(beam_arguments: Sequence[str]) -> None:
    """Gives Beam's file systems their options, such as --hdfs_host or --s3_endpoint_url.

    For each process that reaches remote paths outside of a Beam worker, which has them already.
    Without it, credentials and places come from the clients' own environment variables; hdfs://
    has none of those.

    Args:
        beam_arguments: Beam options as on the command line; others are passed over.
    """
    if beam_arguments:
        _beam().configure(beam_arguments)


def is_local(path: str) -> bool:
    """Whether `path` is one of this machine's: it has no "://"."""
    return _REMOTE not in path


def join(folder: str, *names: str) -> str:
    """The path of `names` below `folder`."""
    if is_local(folder):
        return os.path.join(folder, *names)
    return "/".join([folder.rstrip("/"), *(name.strip("/") for name in names)])


def is_folder(path: str) -> bool:
    """Whether `path` is a folder; on an object store: whether an object lies below it."""
    if is_local(path):
        return os.path.isdir(path)
    return _beam().is_folder(path)


def exists(path: str) -> bool:
    """Whether there is a file or a folder at `path`; a link that leads nowhere is neither."""
    if is_local(path):
        return os.path.exists(path)
    return _beam().exists(path)


def size(path: str) -> int | None:
    """Bytes of the file at `path`, or None if there is none."""
    if not is_local(path):
        return _beam().size(path)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if stat.S_ISDIR(status.st_mode) else status.st_size


def open_file(path: str, *, read_ahead: int = READ_AHEAD) -> BinaryIO:
    """Opens a file for reading, from any position.

    Args:
        path: a file.
        read_ahead: bytes to ask for at a time, at least; remote paths only. Much for a file that
            is read from end to end, where each request costs a wait; little for photos here and
            there in a tar, where each reads this many bytes for its own hundred thousand.

    Raises:
        OSError: there is no such file, or it cannot be read, now or while it is being read.
    """
    if is_local(path):
        return open(path, "rb")
    return _beam().open_file(path, read_ahead)


def folders(parent: str) -> list[str]:
    """Names of the visible folders (no "." in front) in `parent`, sorted.

    Beam has object stores list all that is below `parent` for it, as `files` does: ask for the
    files two levels down rather than for each folder's.

    Raises:
        OSError: `parent` is not there, or cannot be read.
    """
    if not is_local(parent):
        return _beam().folders(parent)
    with os.scandir(parent) as entries:
        return sorted(entry.name for entry in entries if _is_visible(entry) and entry.is_dir())


def files(parent: str, depth: int) -> Iterator[FileStat]:
    """Finds the visible files exactly `depth` levels below `parent`, in any order.

    Passed over: whatever has a component below `parent` that begins with ".", and what is
    neither a file nor a folder (a socket, a device). A link counts as what it leads to.

    Args:
        parent: a folder.
        depth: 1 for "x.jpg", 3 for "train/cat/x.jpg".

    Raises:
        OSError: `parent` or a folder in it is not there or cannot be read, or a link that is a
            file's place leads nowhere.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1. Received: {depth}")
    if is_local(parent):
        return _local_files(parent, "", depth)
    return _beam().files(parent, depth)


def _local_files(folder: str, prefix: str, depth: int) -> Iterator[FileStat]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _is_visible(entry):
                continue
            name = prefix + entry.name
            if depth > 1:
                if entry.is_dir():
                    yield from _local_files(entry.path, name + "/", depth - 1)
            elif entry.is_file() or _leads_nowhere(entry):
                # A photo that is missing must not go unnoticed: stat() says that it is.
                status = entry.stat()
                yield FileStat(name, status.st_size, status.st_mtime_ns)


def _is_visible(entry: os.DirEntry) -> bool:
    return not entry.name.startswith(".")


def _leads_nowhere(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def write_file(path: str, content: bytes | str) -> None:
    """Writes `content` to `path`, as a whole or not at all; replaces what was there.

    Args:
        path: its folder must exist where there are folders.
        content: bytes, or text that is written as UTF-8.

    Raises:
        OSError: the folder is missing, read-only or full; `path` is then as it was.
    """
    if is_local(path):
        whole_files.write_file(path, content)
    else:
        _beam().write_file(path, content)


def create(path: str, aside: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """Opens `path` for writing; it appears, as a whole, when the `with` block ends well.

    The bytes go to `aside`, which is renamed to `path` at the good end. An error in the block
    removes `aside` and leaves `path` as it was; a crash leaves `aside` behind and `path` as it
    was. Folders above both are made if they are missing.

    Object stores go the same way, though an object appears there only when it is closed: a block
    that ends by an error closes it, too, and so would a garbage collector. Renaming costs them a
    copy within the store. On hdfs://, which never replaces, an old `path` is removed just before
    the renaming; for that moment there is neither.

    Args:
        path: where the file is to be; what was there is replaced.
        aside: a path on the same file system that nobody takes for a result and that no other
            writer uses.

    Raises:
        OSError: a folder cannot be written, or is full.
    """
    if is_local(path):
        return whole_files.create(path, aside)
    return _beam().create(path, aside)


def remove(path: str) -> None:
    """Removes the file `path`; nothing happens if it is not there."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    else:
        _beam().remove(path)


def remove_folder(path: str) -> None:
    """Removes the folder `path` and all that is in it; nothing happens if it is not there."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
    else:
        _beam().remove_folder(path)


def _beam() -> types.ModuleType:
    # Imported here because importing Beam takes more than a second.
    from data_prep import beam_storage

    return beam_storage

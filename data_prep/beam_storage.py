"""The remote half of storage.py: gs://, s3://, hdfs:// and azfs:// through Beam's FileSystems.

What the file systems have in common is less than Beam's interface says, so this module keeps to:

- a listing gives all below a prefix where there are no folders (gs://, s3://, azfs://), and one
  folder where there are (hdfs://), without saying which entries are folders in their turn;
- a path with one of * ? [ in it cannot be quoted, and deleting takes it for a pattern: such paths
  are read, but never written or removed;
- renaming is copying and deleting where there are no folders, and never replaces a file on hdfs://.

Listings are held in memory, as Beam makes them: some hundred bytes a file.
"""

import contextlib
import errno
import importlib
import io
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.value_provider import RuntimeValueProvider

from data_prep.beam_streams import Stream, errors
from data_prep.storage import FileStat

# Scheme -> the package that Beam's file system needs, the extra of apache-beam that brings it.
_CLIENTS = {
    "gs": ("google.cloud.storage", "gcp"),
    "s3": ("boto3", "aws"),
    "hdfs": ("hdfs", "hadoop"),
    "azfs": ("azure.storage.blob", "azure"),
}
_PATTERN_CHARACTERS = "*?["
_WRITE_BUFFER = 1 << 20
# Otherwise Beam packs and unpacks files whose names end with .gz.
_AS_IT_IS = {"compression_type": CompressionTypes.UNCOMPRESSED}


def configure(beam_arguments: Sequence[str]) -> None:
    """See storage.configure."""
    FileSystems.set_options(PipelineOptions(list(beam_arguments)))


def is_folder(path: str) -> bool:
    """See storage.is_folder."""
    system = _file_system(path)
    with errors(path):
        if not system.has_dirs():
            return bool(_list(system, path, limit=None if _has_pattern(path) else 1))
        if not system.exists(path):
            return False
        try:
            _list(system, path)
        except BeamIOError as error:
            # The one sign by which Beam's Hadoop file system tells a file from a folder.
            if "not a directory" in str(error).lower():
                return False
            raise
        return True


def exists(path: str) -> bool:
    """See storage.exists."""
    system = _file_system(path)
    with errors(path):
        if system.has_dirs():
            return system.exists(path)
    return size(path) is not None or is_folder(path)


def size(path: str) -> int | None:
    """See storage.size."""
    system = _file_system(path)
    with errors(path):
        length = system.size(path) if system.exists(path) else None
    # Where there are folders, one has no length.
    return None if length == 0 and system.has_dirs() and is_folder(path) else length


def open_file(path: str, read_ahead: int) -> BinaryIO:
    """See storage.open_file."""
    system = _file_system(path)
    with errors(path):
        if system.has_dirs():
            _require(system, path)
        handle = system.open(path, **_AS_IT_IS)
    # Beam asks for 16 MiB at a time, whatever is wanted, and has no setting for it: take the
    # stream below its buffer (s3, hdfs), or tell the buffer (gs).
    if isinstance(handle, io.BufferedReader):
        handle = handle.detach()
    elif hasattr(handle, "_chunk_size"):
        handle._chunk_size = read_ahead
    return io.BufferedReader(Stream(handle, path), read_ahead)


def folders(parent: str) -> list[str]:
    """See storage.folders."""
    system = _file_system(parent)
    with errors(parent):
        entries = _list_parent(system, parent)
        names = {name.partition("/")[0] for name in entries if _is_visible(name.partition("/")[0])}
        if system.has_dirs():
            names = {name for name in names if _is_entry_folder(parent, name, entries[name])}
        else:
            names = {name.partition("/")[0] for name in entries if "/" in name} & names
    return sorted(names)


def files(parent: str, depth: int) -> Iterator[FileStat]:
    """See storage.files."""
    system = _file_system(parent)
    with errors(parent):
        entries = _list_parent(system, parent)
    if system.has_dirs():
        yield from _files_of_folder(system, parent, "", depth, entries)
        return
    for name, entry in entries.items():
        # An object named "train/", which consoles make to show a folder, has no visible name.
        components = name.split("/")
        if len(components) == depth and all(map(_is_visible, components)):
            yield _stat(name, entry)


def _files_of_folder(
    system: FileSystem, folder: str, prefix: str, depth: int, entries: dict[str, FileMetadata]
) -> Iterator[FileStat]:
    for name, entry in entries.items():
        if not _is_visible(name):
            continue
        below = _is_entry_folder(folder, name, entry)
        if depth == 1 and not below:
            yield _stat(prefix + name, entry)
        elif depth > 1 and below:
            path = _folder(folder) + name
            with errors(path):
                inside = _list(system, path)
            yield from _files_of_folder(system, path, f"{prefix}{name}/", depth - 1, inside)


def write_file(path: str, content: bytes | str) -> None:
    """See storage.write_file."""
    data = content.encode() if isinstance(content, str) else content
    # Not the process id: other machines write to the same place.
    with create(path, f"{path}.{uuid.uuid4().hex}.tmp") as file:
        file.write(data)


@contextlib.contextmanager
def create(path: str, aside: str) -> Iterator[BinaryIO]:
    """See storage.create."""
    for name in (path, aside):
        _refuse_pattern(name)
    system = _file_system(path)
    if system.has_dirs():
        remove(aside)  # hdfs:// refuses to write over what a crash has left
    with errors(aside):
        file = io.BufferedWriter(
            Stream(system.create(aside, **_AS_IT_IS), aside), buffer_size=_WRITE_BUFFER
        )
    try:
        yield file
        file.close()
        _rename(system, aside, path)
    except BaseException:
        # An object appears when it is closed, good or bad: this is why it is not `path`.
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            remove(aside)
        raise


def _rename(system: FileSystem, aside: str, path: str) -> None:
    with errors(path):
        if system.has_dirs():
            parent = system.split(path)[0]
            if not system.exists(parent):
                system.mkdirs(parent)
            remove(path)
        system.rename([aside], [path])


def remove(path: str) -> None:
    """See storage.remove."""
    _refuse_pattern(path)
    if size(path) is not None:  # not a folder: deleting is recursive on hdfs://
        with errors(path):
            _file_system(path).delete([path])


def remove_folder(path: str) -> None:
    """See storage.remove_folder."""
    _refuse_pattern(path)
    if not is_folder(path):
        return
    with errors(path):
        _file_system(path).delete([_folder(path)])
    # Beam's gs:// only logs what it could not delete.
    if is_folder(path):
        raise OSError(errno.EIO, "not all of the folder could be deleted", path)


def _file_system(path: str) -> FileSystem:
    """Beam's file system for `path`; OSError if its client is not installed."""
    scheme = path.partition("://")[0]
    if scheme in _CLIENTS:
        package, extra = _CLIENTS[scheme]
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise OSError(
                errno.ENOPKG,
                f"{scheme}:// needs the package {package}; pip install 'apache-beam[{extra}]'",
                path,
            ) from error
    if FileSystems._pipeline_options is None and RuntimeValueProvider.runtime_options is None:
        FileSystems.set_options(PipelineOptions([]))  # s3:// and hdfs:// want some
    if not any(system.scheme() == scheme for system in FileSystem.get_all_subclasses()):
        known = ", ".join(f"{name}://" for name in _CLIENTS)
        raise OSError(
            errno.EINVAL, f"a local path or one of {known} is needed. Received: {scheme}://", path
        )
    with errors(path):
        return FileSystems.get_filesystem(path)


def _list(system: FileSystem, folder: str, limit: int | None = None) -> dict[str, FileMetadata]:
    """What is listed below `folder`: relative path -> what Beam knows of it."""
    if system.has_dirs():
        _refuse_pattern(folder)  # Beam would list the folder above
    folder = _folder(folder)
    # "?" stands for any character; what it lets through besides is left out below.
    pattern = "".join("?" if c in _PATTERN_CHARACTERS else c for c in folder) + "**"
    entries = system.match([pattern], [limit])[0].metadata_list
    return {e.path[len(folder) :]: e for e in entries if e.path.startswith(folder)}


def _list_parent(system: FileSystem, parent: str) -> dict[str, FileMetadata]:
    """Like _list, but FileNotFoundError if there is no such folder."""
    if system.has_dirs():
        _require(system, parent)
        return _list(system, parent)
    if entries := _list(system, parent):
        return entries
    raise FileNotFoundError(errno.ENOENT, "no such folder, or nothing in it", parent)


def _require(system: FileSystem, path: str) -> None:
    # Beam's hdfs:// does not tell what is missing from other trouble.
    if not system.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _is_entry_folder(parent: str, name: str, entry: FileMetadata) -> bool:
    return not entry.size_in_bytes and is_folder(_folder(parent) + name)


def _stat(name: str, entry: FileMetadata) -> FileStat:
    return FileStat(name, entry.size_in_bytes, int((entry.last_updated_in_seconds or 0) * 1e9))


def _folder(path: str) -> str:
    return path.rstrip("/") + "/"


def _is_visible(component: str) -> bool:
    return bool(component) and not component.startswith(".")


def _has_pattern(path: str) -> bool:
    return any(character in path for character in _PATTERN_CHARACTERS)


def _refuse_pattern(path: str) -> None:
    if _has_pattern(path):
        raise OSError(
            errno.EINVAL, "a path without * ? [ is needed, Beam takes them for a pattern", path
        )

"""One way to reach local paths and those of object stores: gs://, s3://, hdfs://.

A path without "://" is local and imports nothing; any other goes to fsspec, which uses gcsfs, s3fs
or pyarrow. Every failure is an OSError whose text, or whose `filename`, names the path.

Credentials and endpoints come from the environment: GOOGLE_APPLICATION_CREDENTIALS,
STORAGE_EMULATOR_HOST, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and the like. The
address of hdfs:// is in the path: hdfs://HOST:PORT/FOLDER.
"""

import concurrent.futures
import contextlib
import errno
import functools
import io
import logging
import os
import shutil
import stat
import tempfile
import threading
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from data_prep import files as whole_files

READ_AHEAD = 1 << 24  # bytes of one request where a file is read from end to end
# Seconds until a request is given up, retries included, plus its bytes at this many a second.
_DEADLINE = 30
_SLOWEST = 1 << 20
_DELETIONS_AT_ONCE = 16
_LOG_NAMES = ("gcsfs", "s3fs", "google.auth", "botocore", "aiobotocore", "asyncio")
# Scheme -> the package that fsspec needs for it, what installs it, where credentials come from.
_CLIENTS = {
    "gs": ("gcsfs", "keras-alexnet[gcs]", "gcloud auth application-default login"),
    "s3": ("s3fs", "keras-alexnet[s3]", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    "hdfs": ("pyarrow", "pyarrow", "HADOOP_HOME and CLASSPATH"),
    "memory": ("fsspec", "fsspec", "nowhere"),  # tests
}
_lock = threading.Lock()


class FileStat(NamedTuple):
    """A file that was found below a folder.

    Attributes:
        name: path relative to that folder, with "/" between the components.
        length: bytes.
        modified_ns: nanoseconds since 1970; 0 where the store does not know.
    """

    name: str
    length: int
    modified_ns: int


def is_local(path: str) -> bool:
    """Return whether a path is local: it has no "://"."""
    return "://" not in path


def join(folder: str, *names: str) -> str:
    """Return the path of `names` below `folder`."""
    if is_local(folder):
        return os.path.join(folder, *names)
    return "/".join([folder.rstrip("/"), *(name.strip("/") for name in names)])


def is_folder(path: str) -> bool:
    """Return whether a path is a folder; on an object store: whether an object lies below it."""
    if is_local(path):
        return os.path.isdir(path)
    return (_info(path) or {}).get("type") == "directory"


def exists(path: str) -> bool:
    """Return whether there is a file or a folder; a link that leads nowhere is neither."""
    return os.path.exists(path) if is_local(path) else _info(path) is not None


def size(path: str) -> int | None:
    """Return the bytes of a file, or None if there is none."""
    if not is_local(path):
        info = _info(path)
        return info["size"] if info and info["type"] == "file" else None
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if stat.S_ISDIR(status.st_mode) else status.st_size


def modified_ns(path: str) -> int:
    """Return when an object was last written, by its store's clock, in nanoseconds since 1970."""
    return _modified_ns(_info(path) or {})


def open_file(path: str, mode: str = "rb", *, read_ahead: int = READ_AHEAD) -> BinaryIO:
    """Open a file for reading, from any position.

    Args:
        path: a file.
        mode: "rb"; the parameter lets callers take tf.io.gfile.GFile instead.
        read_ahead: smallest request in bytes, of remote paths: large for a file that is read from
            end to end, small for photos here and there in a tar.
    """
    if is_local(path):
        return open(path, mode)
    length = size(path)
    if length is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return io.BufferedReader(_RangeReader(path, length), read_ahead)


def folders(parent: str) -> list[str]:
    """Return the names of the visible folders (no "." in front) in `parent`, sorted."""
    if is_local(parent):
        with os.scandir(parent) as entries:
            return sorted(e.name for e in entries if _is_visible(e.name) and e.is_dir())
    listed = _call(parent, "ls", detail=True)
    names = {os.path.basename(e["name"].rstrip("/")) for e in listed if e["type"] == "directory"}
    return sorted(filter(_is_visible, names))


def files(parent: str, depth: int) -> Iterator[FileStat]:
    """Find the visible files exactly `depth` levels below `parent`, in any order.

    Depth 1 is "x.jpg", 3 is "train/cat/x.jpg". Names with a component that begins with "." are
    skipped, and so are sockets and devices. A link counts as its target; one in the place of a
    file that leads nowhere is an OSError.
    """
    if is_local(parent):
        return _local_files(parent, "", depth)
    return _remote_files(parent, depth)


def _local_files(folder: str, prefix: str, depth: int) -> Iterator[FileStat]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _is_visible(entry.name):
                continue
            name = prefix + entry.name
            if depth > 1:
                if entry.is_dir():
                    yield from _local_files(entry.path, name + "/", depth - 1)
            elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                # A photo that is missing must not go unnoticed: stat() raises an error.
                status = entry.stat()
                yield FileStat(name, status.st_size, status.st_mtime_ns)


def _remote_files(parent: str, depth: int) -> Iterator[FileStat]:
    if depth == 1:
        listed = {entry["name"]: entry for entry in _call(parent, "ls", detail=True)}
    else:
        listed = _find(parent)
        if not listed:
            raise FileNotFoundError(errno.ENOENT, "no such folder, or nothing in it", parent)
    start = _name(parent) + "/"
    for name, entry in listed.items():
        # An object named "train/", which consoles make to show a folder, has no visible name.
        components = name.removeprefix(start).split("/")
        is_below = name.startswith(start) and len(components) == depth and entry["type"] == "file"
        if is_below and all(map(_is_visible, components)):
            yield FileStat("/".join(components), entry["size"], _modified_ns(entry))


def _is_visible(name: str) -> bool:
    return bool(name) and not name.startswith(".")


def write_file(path: str, content: bytes | str) -> None:
    """Write `content` to `path`, as a whole or not at all; replace what was there.

    Text is written as UTF-8. A local folder must exist.
    """
    if is_local(path):
        whole_files.write_file(path, content)
        return
    # Not the process id: other machines write to the same place.
    with create(path, f"{path}.{uuid.uuid4().hex}.tmp") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def create(path: str, aside: str) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, as a whole, when the `with` block ends well.

    An error in the block, or a kill, leaves `path` as it was. A local file is written to `aside`,
    which is renamed to `path`. An object is written to a local temporary file and put as a whole.
    On hdfs://, which never replaces, an old `path` is removed just before `aside` is renamed; for
    that moment there is neither. Missing folders are made.

    Args:
        path: of the file; an existing one is replaced.
        aside: a path on the same file system that no other writer uses.
    """
    if is_local(path):
        with whole_files.create(path, aside) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile() as file:
        yield file
        file.flush()
        seconds = _DEADLINE + os.path.getsize(file.name) / _SLOWEST
        if not path.startswith("hdfs://"):
            _call(path, "put_file", file.name, seconds=seconds)
            return
        _call(os.path.dirname(aside), "makedirs", exist_ok=True)
        _call(aside, "put_file", file.name, seconds=seconds)
        _call(os.path.dirname(path), "makedirs", exist_ok=True)
        remove(path)
        _call(aside, "mv", _name(path))


def create_new(path: str, content: bytes) -> bool:
    """Put an object where there is none yet: of several writers at once, one gets True.

    Each writer's content must be unique. On hdfs://, which has no such put, two writers within
    milliseconds may both get True.
    """
    if path.startswith("hdfs://"):
        if exists(path):
            return False
        write_file(path, content)
        return True
    try:
        _call(path, "pipe_file", content, mode="create")
    except OSError as error:
        # MinIO's answer is errno 22. Where the answer to a put is lost, the client puts again
        # and hears that there is an object: its own.
        if not isinstance(error, FileExistsError) and error.errno != errno.EINVAL:
            raise
        return _call(path, "cat_file") == content
    return True


def remove(path: str) -> None:
    """Remove the file `path`, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        if is_local(path):
            os.unlink(path)
        elif size(path) is not None:  # not a folder
            _call(path, "rm_file")


def remove_folder(path: str) -> None:
    """Remove the folder `path` and its contents, if there is one."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
        return
    scheme = path.partition("://")[0]

    def remove_object(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            _call(f"{scheme}://{name}", "rm_file")  # rm() would take * ? [ for a pattern

    names = [name for name in _find(path) if name.startswith(_name(path) + "/")]
    with concurrent.futures.ThreadPoolExecutor(_DELETIONS_AT_ONCE) as executor:
        list(executor.map(remove_object, names))
    if scheme in ("hdfs", "memory") and is_folder(path):  # it stays behind its files
        _call(path, "rm", recursive=True)


class _RangeReader(io.RawIOBase):
    """A remote file, each read of which is one request; see io.RawIOBase."""

    def __init__(self, path: str, length: int) -> None:
        self._path, self._length, self._position = path, length, 0

    def readable(self) -> bool:
        """See io.IOBase."""
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See io.IOBase; tell() is a seek by 0."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer) -> int:
        """See io.RawIOBase; OSError if the store fails."""
        end = min(self._position + len(buffer), self._length)
        count = end - self._position
        if count <= 0:
            return 0
        seconds = _DEADLINE + count / _SLOWEST
        data = _call(self._path, "cat_file", start=self._position, end=end, seconds=seconds)
        if len(data) != count:
            raise OSError(errno.EIO, "the file has changed while it was read", self._path)
        buffer[:count] = data
        self._position = end
        return count


def _info(path: str) -> dict[str, Any] | None:
    try:
        return _call(path, "info")
    except FileNotFoundError:
        return None


def _find(path: str) -> dict[str, dict[str, Any]]:
    # A million objects are a thousand requests.
    return _call(path, "find", detail=True, seconds=3600)


def _modified_ns(info: dict[str, Any]) -> int:
    when = info.get("LastModified") or info.get("mtime") or info.get("created")
    return int(when.timestamp() * 1e9) if hasattr(when, "timestamp") else 0  # memory:// has none


def _name(path: str) -> str:
    """Return a path as its store has it: for an object store, BUCKET/KEY."""
    return _store(path)._strip_protocol(path).rstrip("/")


def _call(path: str, method: str, *args: object, seconds: float = _DEADLINE, **kwargs: object):
    """Call a method of fsspec on a path; any exception becomes an OSError with the path.

    Without the deadline, the clients wait for ever for a server that hangs.
    """
    try:
        store, name = _store(path), _name(path)
        if store.async_impl:
            kwargs["timeout"] = seconds
        names = (*args, name) if method == "put_file" else (name, *args)
        return getattr(store, method)(*names, **kwargs)
    except Exception as error:
        raise _os_error(path, error, seconds) from error


def _os_error(path: str, error: Exception, seconds: float) -> OSError:
    """Return an OSError of one line for an exception of a store's client."""
    if isinstance(error, OSError) and error.filename == path:
        return error
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or repr(error)
    code = getattr(error, "errno", None) or errno.EIO
    if isinstance(error, TimeoutError):
        text, code = f"no answer in {seconds:.0f} seconds; is the endpoint right?", errno.ETIMEDOUT
    elif isinstance(error, FileNotFoundError):
        text, code = os.strerror(errno.ENOENT), errno.ENOENT
    elif isinstance(error, FileExistsError):
        code = errno.EEXIST
    elif isinstance(error, PermissionError) or "credentials" in text.lower():
        scheme = path.partition("://")[0]
        text, code = f"{text}; credentials come from {_CLIENTS[scheme][2]}", errno.EACCES
    return OSError(code, text, path)


def _store(path: str) -> Any:
    scheme, _, rest = path.partition("://")
    if scheme not in _CLIENTS:
        known = ", ".join(f"{name}://" for name in list(_CLIENTS)[:3])
        text = f"a local path or one of {known} is needed. Received: {scheme}://"
        raise OSError(errno.EINVAL, text, path)
    with _lock:
        # A fork keeps the instance, but not the thread that answers it.
        return _new_store(scheme, rest.partition("/")[0] if scheme == "hdfs" else "", os.getpid())


@functools.cache
def _new_store(scheme: str, host: str, process_id: int) -> Any:
    del process_id  # part of the key
    import fsspec  # here: local paths do without

    for name in _LOG_NAMES:  # tracebacks of retries; the last error is raised
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # Otherwise each bucket is asked for its type, by gRPC, for a minute where there is an emulator.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    options: dict[str, object] = {}
    if scheme == "gs" and "STORAGE_EMULATOR_HOST" in os.environ:
        options["token"] = "anon"
    if scheme == "hdfs" and host:
        options["host"], _, port = host.partition(":")
        options["port"] = int(port or 8020)
    package, installed_by, _ = _CLIENTS[scheme]
    try:
        return fsspec.filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, **options
        )
    except ImportError as error:
        text = f"{scheme}:// needs {package}: pip install {installed_by}"
        raise OSError(errno.ENOPKG, text, f"{scheme}://{host}") from error

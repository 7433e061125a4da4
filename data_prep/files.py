"""Files that are either whole or not there: write aside, fsync, rename.

Local paths only; storage.py does the same for gs://, s3:// and hdfs://.
"""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import BinaryIO


def write_file(path: str, content: bytes | str) -> None:
    """Writes `content` to `path` so that no reader, and no crash, ever sees a part of it.

    Args:
        path: local path; its folder must exist. An existing file is replaced.
        content: bytes, or text that is written as UTF-8.

    Raises:
        OSError: the folder is missing, read-only or full; `path` is then as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    # Hosts that share the folder may have processes of the same number.
    with _whole(path, f"{path}.{socket.gethostname()}.{os.getpid()}.tmp") as file:
        file.write(data)


@contextlib.contextmanager
def create(path: str, aside: str) -> Iterator[BinaryIO]:
    """Opens `path` for writing; it appears, as a whole, when the `with` block ends well.

    Args:
        path: local path; its folder is made if missing. An existing file is replaced.
        aside: where the bytes go until then: on the same disk; its folder is made if missing.

    Yields:
        The file to write to.

    Raises:
        OSError: a folder is read-only or full. As after any error in the block, `path` is then
            as it was and `aside` is gone.
    """
    for name in (path, aside):
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with _whole(path, aside) as file:
        yield file


@contextlib.contextmanager
def _whole(path: str, aside: str) -> Iterator[BinaryIO]:
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    sync_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Gives a folder beside `path` to fill, and renames it to `path` when all went well.

    Args:
        path: local path that must not exist yet; its parent is made.

    Yields:
        The folder to fill: hidden, so that TF Serving and people do not take it for finished.

    Raises:
        OSError: `path` exists and is not empty, or the disk is full; nothing is left behind.
    """
    parent = os.path.dirname(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    aside = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", suffix=".tmp", dir=parent)
    try:
        yield aside
        os.chmod(aside, 0o755)  # mkdtemp's 0700 would lock TF Serving's own user out
        for folder, _, names in os.walk(aside):
            for name in names:
                _sync(os.path.join(folder, name), os.O_RDONLY)
            sync_folder(folder)
        os.rename(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(parent)


def sync_folder(path: str) -> None:
    """Makes a rename inside `path` survive a power cut."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: str, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

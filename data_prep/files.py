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
    """Write `content` to `path` so that no reader, and no crash, ever sees a part of it.

    Args:
        path: in a folder that exists; an existing file is replaced. After an OSError (read-only,
            full) it is as it was.
        content: bytes, or text that is written as UTF-8.
    """
    data = content.encode() if isinstance(content, str) else content
    # Hosts that share the folder may have processes of the same number.
    with _whole(path, f"{path}.{socket.gethostname()}.{os.getpid()}.tmp") as file:
        file.write(data)


@contextlib.contextmanager
def create(path: str, aside: str) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, as a whole, when the `with` block ends well.

    After any error in the block, `path` is as it was and `aside` is gone.

    Args:
        path: of the file; an existing one is replaced, a missing folder is made.
        aside: path of the unfinished file, on the same disk; a missing folder is made.
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
    """Make a folder beside `path` to fill, and rename it to `path` when the block ends well.

    Args:
        path: of the folder; it must not exist, or be empty. Its parent is made.

    Yields:
        The folder to fill: hidden, so that TF Serving and people do not take it for finished. After
        an error nothing is left of it.
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
    """Make a rename inside `path` survive a power cut."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: str, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

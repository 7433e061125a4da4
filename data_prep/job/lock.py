"""One job at a time in an output folder, also where there are no locks: on an object store.

On a local disk the lock is flock's, and ends with the process. On an object store it is an object
that only one of several jobs can create, and that its job writes again every BEAT seconds. A lock
that has not been written for STALE seconds, or whose process is dead, may be taken over by
creating the lock of the next number. That needs no conditional delete, which not every store has.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator

import psutil

from data_prep import storage

BEAT = 20
STALE = 90


@contextlib.contextmanager
def hold(folder: str) -> Iterator[None]:
    """Hold a folder while the block runs.

    Args:
        folder: hidden folder of the output folder; made if missing.

    Raises:
        BlockingIOError: another job holds it.
        OSError: the store cannot be reached, or another job has taken the folder over because
            this one was stopped for more than STALE seconds.
    """
    if not storage.is_local(folder):
        with _hold_object(storage.join(folder, ".locks")):
            yield
        return
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextlib.contextmanager
def _hold_object(folder: str) -> Iterator[None]:
    owner = {"token": uuid.uuid4().hex, "namespace": _namespace(), "pid": os.getpid()}
    content = json.dumps(owner).encode()
    found = _locks(folder)
    if found and not _is_stale(folder, found[-1]):
        raise _held(folder)
    path = storage.join(folder, f"{found[-1] + 1 if found else 1:06d}")
    if not storage.create_new(path, content):
        raise _held(folder)
    stop, lost = threading.Event(), threading.Event()
    try:
        # A job that was not dead may have released its lock, and another begun anew at 1.
        if set(_locks(folder)) - set(found) != {int(os.path.basename(path))}:
            raise _held(folder)
        for number in found:
            storage.remove(storage.join(folder, f"{number:06d}"))
        beat = threading.Thread(target=_beat, args=(path, content, stop, lost), daemon=True)
        beat.start()
        try:
            yield
        except KeyboardInterrupt:
            if not lost.is_set():
                raise
        finally:
            stop.set()
            beat.join()
        if lost.is_set():
            raise OSError(errno.ESTALE, "another job has taken over; run the command again", folder)
    finally:
        if not lost.is_set():
            storage.remove(path)


def _beat(path: str, content: bytes, stop: threading.Event, lost: threading.Event) -> None:
    """Write the lock again and again; interrupt the main thread if it is no longer ours."""
    written = time.monotonic()
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):  # the store may come back in time
            if storage.exists(path):
                storage.write_file(path, content)
                written = time.monotonic()
            else:
                written = float("-inf")
        if time.monotonic() - written > STALE:
            lost.set()
            os.kill(os.getpid(), signal.SIGINT)
            return


def _locks(folder: str) -> list[int]:
    """Return the numbers of the locks that there are, sorted."""
    try:
        return sorted(int(found.name) for found in storage.files(folder, 1) if found.name.isdigit())
    except FileNotFoundError:
        return []


def _is_stale(folder: str, number: int) -> bool:
    path = storage.join(folder, f"{number:06d}")
    try:
        with storage.open_file(path) as file:
            owner = json.load(file)
    except FileNotFoundError:
        return False  # released a moment ago
    if (
        owner["namespace"]
        and owner["namespace"] == _namespace()
        and not psutil.pid_exists(owner["pid"])
    ):
        return True
    # Both times are the store's: the clocks of two machines may differ.
    probe = storage.join(folder, f"{uuid.uuid4().hex}.now")
    storage.write_file(probe, b"")
    try:
        age = storage.modified_ns(probe) - storage.modified_ns(path)
    finally:
        storage.remove(probe)
    return age > STALE * 1e9


def _namespace() -> str:
    """Return the scope of process numbers, this machine since its start; "" if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _held(folder: str) -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "held by another job", folder)

"""Finds files, sends them in batches over parallel connections, and keeps the results in order."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import queue
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeVar

from keras_alexnet.serving.client.connection import Answer, CallFailed, Connection, Result, Retries

# What the name of a photo in a folder ends in, in small or capital letters. A file that was named
# itself is sent whatever its name is.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")


@dataclasses.dataclass(frozen=True)
class PhotoFile:
    """A file to send.

    Attributes:
        path: of the file.
        size: bytes; 0 where that is known only after it was read, as of a pipe.
    """

    path: str
    size: int = 0


def find(paths: Sequence[str], skip: Callable[[str], None]) -> Iterator[PhotoFile]:
    """Return an iterator over the named files, and the photos in the named folders.

    A folder is walked by name, with all folders in it; hidden files and folders are left out. A
    folder that links lead to again is walked once. Of what cannot be looked at, `read` gives the
    reason.

    Args:
        paths: of files and folders.
        skip: called with the path of each file in a folder that is no photo by its name, or no
            file that holds anything (a socket, say).

    Raises:
        ValueError: one of `paths` is not there; before the first file is given.
    """
    found: list[Iterable[PhotoFile]] = []
    for path in paths:
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"{path!r} cannot be read ({reason}); nothing was sent; check the path"
            ) from error
        is_folder = stat.S_ISDIR(status.st_mode)
        found.append(_walk(path, skip) if is_folder else [PhotoFile(path, status.st_size)])
    return itertools.chain.from_iterable(found)


def _walk(folder: str, skip: Callable[[str], None]) -> Iterator[PhotoFile]:
    """Depth first. A stack instead of recursion: folders may be nested deeper than calls."""
    seen: set[tuple[int, int]] = set()  # folders: (device, inode)
    stack = [folder]
    while stack:
        path = stack.pop()
        is_sent = path.lower().endswith(SUFFIXES)
        size = 0
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                is_sent = True  # if it cannot be listed
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    names = sorted(os.listdir(path), reverse=True)
                    stack += [os.path.join(path, name) for name in names if name[0] != "."]
                continue
            is_sent = is_sent and stat.S_ISREG(status.st_mode)
            size = status.st_size
        except OSError:  # a broken link, say
            pass
        if is_sent:
            yield PhotoFile(path, size)
        else:
            skip(path)


def read(photo: PhotoFile, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes.

    Raises:
        ValueError: it cannot be read, or is larger; the text says which.
    """
    try:
        with open(photo.path, "rb") as file:
            content = file.read(limit + 1) if photo.size <= limit else None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    if content is None or len(content) > limit:
        raise ValueError(
            f"has more than the {limit} bytes that a request may have; raise request_mb if the "
            f"server reads more, or send a smaller photo"
        )
    return content


Item = TypeVar("Item")

# So many requests may fail in a row; then it is not their photos that are at fault.
_FAILURES = 3
# Batches that may be done, or wait for a connection, while the first one is under way: of each,
# the paths or the answers are in memory, never the photos.
_WINDOW_PER_CONNECTION = 4
_WAIT_SECONDS = 0.2


@dataclasses.dataclass
class Outcome:
    """The answer for a photo, or the reason why there is none.

    Attributes:
        path: of its file.
        answer: the server's; None if there is none.
        error: why there is none; else empty.
        seconds: that its request took, all tries together.
    """

    path: str
    answer: Answer | None = None
    error: str = ""
    seconds: float = 0.0


@dataclasses.dataclass
class BatchResult:
    """The outcomes of a batch.

    Attributes:
        outcomes: one a photo.
        retries: how many requests were sent again.
        failure: of the first request that got no answer for another reason than its size.
    """

    outcomes: list[Outcome]
    retries: int = 0
    failure: CallFailed | None = None


def ask_all(
    photos: Iterable[PhotoFile],
    connect: Callable[[], Connection],
    retries: Retries,
    *,
    batch_size: int,
    request_bytes: int,
    parallel: int,
) -> Generator[BatchResult, None, None]:
    """Ask for the classes of many photos and yield the results in their order; to be closed.

    Args:
        photos: their files; read when their turn comes.
        connect: makes a connection; called once for each request under way.
        retries: the rule for a request that failed; its `sleep` is replaced.
        batch_size: photos in a request, at most.
        request_bytes: of a request, as it is sent, at most.
        parallel: requests under way at a time.

    Raises:
        CallFailed: the first request failed, or several in a row; the results before it came.
    """
    stop = threading.Event()
    retries = dataclasses.replace(retries, sleep=stop.wait)
    connections = [connect() for _ in range(parallel)]
    ask = functools.partial(_ask_batch, retries, request_bytes)
    workers = [functools.partial(ask, connection) for connection in connections]
    cut = batches(photos, batch_size, request_bytes)
    allowed = 0  # failures, before one request is answered
    try:
        with contextlib.closing(in_order(cut, workers)) as results:
            for result in results:
                if result.failure is None:
                    is_answered = any(outcome.answer for outcome in result.outcomes)
                    allowed = _FAILURES - 1 if is_answered else allowed
                elif allowed == 0:
                    raise result.failure
                else:
                    allowed -= 1
                yield result
    finally:
        stop.set()
        for connection in connections:
            connection.close()


def batches(
    photos: Iterable[PhotoFile], batch_size: int, request_bytes: int
) -> Iterator[list[PhotoFile]]:
    """Yield neighbours, as many as fit into a request; at least one.

    Base64, in which REST sends a photo, makes four bytes of three.
    """
    batch: list[PhotoFile] = []
    size = 0
    for photo in photos:
        is_full = len(batch) == batch_size or 4 * (size + photo.size) > 3 * request_bytes
        if batch and is_full:
            yield batch
            batch, size = [], 0
        batch.append(photo)
        size += photo.size
    if batch:
        yield batch


def _ask_batch(
    retries: Retries, request_bytes: int, connection: Connection, batch: Sequence[PhotoFile]
) -> BatchResult:
    """Read and ask for the photos of a batch; what cannot be read does not hold up the others."""
    result = BatchResult([Outcome(photo.path) for photo in batch])
    asked: list[tuple[Outcome, bytes]] = []
    for outcome, photo in zip(result.outcomes, batch, strict=True):
        try:
            asked.append((outcome, read(photo, request_bytes)))
        except ValueError as error:
            outcome.error = str(error)
    todo = [asked] if asked else []
    while todo:
        part = todo.pop()
        started = retries.clock()
        try:
            contents = [content for _, content in part]
            answers, repeated = connection.ask(contents, retries, request_bytes)
        except CallFailed as failure:
            if failure.is_too_large and len(part) > 1:
                half = len(part) // 2
                todo += [part[half:], part[:half]]
                continue
            result.retries += failure.tries - 1
            if not failure.is_too_large:
                result.failure = result.failure or failure
            for outcome, _ in part:
                outcome.error, outcome.seconds = str(failure), failure.seconds
        else:
            result.retries += repeated
            seconds = retries.clock() - started
            for (outcome, _), answer in zip(part, answers, strict=True):
                outcome.answer, outcome.seconds = answer, seconds
    return result


def in_order(
    items: Iterable[Item], workers: Sequence[Callable[[Item], Result]]
) -> Iterator[Result]:
    """Run each worker in a thread and yield the results in the order of the items.

    Items are taken as they are needed, a few ahead. The threads do not outlive the process (those
    of concurrent.futures would, after Ctrl-C, until the last answer came).
    """
    todo: queue.SimpleQueue = queue.SimpleQueue()
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()

    def work(worker: Callable[[Item], Result]) -> None:
        for item, future in iter(todo.get, None):
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(worker(item))
                except Exception as error:  # it is raised where the result is needed
                    future.set_exception(error)

    for worker in workers:
        threading.Thread(target=work, args=(worker,), daemon=True).start()
    try:
        for item in items:
            future: concurrent.futures.Future = concurrent.futures.Future()
            waiting.append(future)
            todo.put((item, future))
            if len(waiting) >= _WINDOW_PER_CONNECTION * len(workers) or waiting[0].done():
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        for future in waiting:
            future.cancel()
        for _ in workers:
            todo.put(None)


def _result(future: concurrent.futures.Future) -> object:
    """Wait in short steps: Python sees a Ctrl-C that comes just before a wait only after it."""
    while not concurrent.futures.wait([future], _WAIT_SECONDS).done:
        pass
    return future.result()

"""Which files the client sends: those that were named, and the photos in folders."""

import dataclasses
import os
import stat
from collections.abc import Callable, Iterator, Sequence

# What the name of a photo in a folder ends in, in small or capital letters. A file that was named
# itself is sent whatever its name is.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")


@dataclasses.dataclass(frozen=True)
class PhotoFile:
    """A file to send.

    Attributes:
        path: of the file.
        size: bytes; 0 where that is known only after it was read, as of a pipe.
        fault: why it cannot be read, as far as that is known already; else empty.
    """

    path: str
    size: int = 0
    fault: str = ""


def find(paths: Sequence[str], skip: Callable[[str], None]) -> Iterator[PhotoFile]:
    """The files that are named, and the photos in the folders that are.

    A folder is walked by name, with all folders in it; hidden files and folders are left out. A
    folder that links lead to again is walked once.

    Args:
        paths: of files and folders.
        skip: called with the path of each file in a folder that is no photo by its name, or no
            file that holds anything (a socket, say).

    Raises:
        ValueError: one of `paths` is not there; before the first file is given.
    """
    named = [(path, _status(path)) for path in paths]

    def files() -> Iterator[PhotoFile]:
        for path, status in named:
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(path, skip)
            else:
                yield PhotoFile(path, status.st_size)

    return files()


def read(photo: PhotoFile, limit: int) -> bytes:
    """The content of a file.

    Args:
        photo: the file.
        limit: bytes; a larger one is not read to its end.

    Raises:
        ValueError: it cannot be read, or is larger; the text says which.
    """
    if photo.fault:
        raise ValueError(photo.fault)
    try:
        with open(photo.path, "rb") as file:
            content = file.read(limit + 1) if photo.size <= limit else None
    except OSError as error:
        raise ValueError(_fault(error)) from error
    if content is None or len(content) > limit:
        raise ValueError(
            f"has more than the {limit} bytes that a request may have; raise request_mb if the "
            f"server reads more, or send a smaller photo"
        )
    return content


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"{path!r} cannot be read ({reason}); nothing was sent; check the path"
        ) from error


def _walk(folder: str, skip: Callable[[str], None]) -> Iterator[PhotoFile]:
    """Depth first. A stack instead of recursion: folders may be nested deeper than calls."""
    seen: set[tuple[int, int]] = set()  # folders: (device, inode)
    stack = [iter([folder])]
    while stack:
        path = next(stack[-1], None)
        if path is None:
            stack.pop()
            continue
        is_photo = path.lower().endswith(SUFFIXES)
        is_folder = False
        try:
            status = os.stat(path)
            is_folder = stat.S_ISDIR(status.st_mode)
            if is_folder and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                stack.append(iter(_visible(path)))
        except OSError as error:
            if is_folder or is_photo:
                yield PhotoFile(path, fault=_fault(error))
            else:
                skip(path)  # a broken link, say
            continue
        if is_photo and stat.S_ISREG(status.st_mode):
            yield PhotoFile(path, status.st_size)
        elif not is_folder:
            skip(path)


def _visible(folder: str) -> list[str]:
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return [os.path.join(folder, name) for name in names]


def _fault(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"

"""Splits photos into train and validation by a hash of their bytes.

So a photo stays where it is when others come or go or when it is renamed, and exact duplicates
are never on both sides.
"""

import collections
import concurrent.futures
import hashlib
import itertools
from collections.abc import Iterable, Iterator

from data_prep import storage
from data_prep.command_line import UserError
from data_prep.references import Reference

# Reading waits for disks and networks, and hashing lets go of Python's lock.
_THREADS = 8
_LOOK_AHEAD = 4 * _THREADS
_SALT = b"validation split"  # no other hash of the same bytes must tell the split


def split(photos: Iterable[Reference], validation_fraction: float) -> Iterator[Reference]:
    """Reads each photo, and gives it back with its split; in the order in which they came.

    Args:
        photos: whole files, whatever their split.
        validation_fraction: the share that validates, about: each photo is a draw of its own.

    Raises:
        UserError: a photo cannot be read.
    """
    # An integer of 64 bits and a float compare exactly; so does a float times a power of 2.
    limit = validation_fraction * 2.0**64
    for photo, place in _places(photos):
        yield photo._replace(split="validation" if place < limit else "train")


def place_of(path: str) -> int:
    """Where in 0 to 2**64 - 1 the bytes of a file put it.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with storage.open_file(path) as file:
            digest = hashlib.file_digest(file, _salted)
    except OSError as error:
        raise UserError(
            f"each photo is read to split them, but {path} cannot be ({error.strerror or error}); "
            "remove it, or make it readable"
        ) from error
    return int.from_bytes(digest.digest(), "big")


def _salted():
    return hashlib.blake2b(digest_size=8, salt=_SALT)


def _places(photos: Iterable[Reference]) -> Iterator[tuple[Reference, int]]:
    """Photos and their places; no more than `_LOOK_AHEAD` are in memory at once."""
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    try:
        waiting: collections.deque = collections.deque()
        photos = iter(photos)
        while True:
            for photo in itertools.islice(photos, _LOOK_AHEAD - len(waiting)):
                waiting.append((photo, pool.submit(place_of, photo.path)))
            if not waiting:
                return
            photo, place = waiting.popleft()
            yield photo, place.result()
    finally:
        pool.shutdown(cancel_futures=True)

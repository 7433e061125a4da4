"""The list of all photos, on disk while it is being shuffled: memory does not grow with it.

A source yields references in whatever order they lie on disk; the shards want them in the order of
a salted hash. Between the two stands a temporary database.

What that takes for the 14,197,122 photos of ImageNet-21k in their tars, planned from what 1,000,000
such references took (two cores of an AMD EPYC, shared with others):

    on disk      171 bytes a photo as rows, 165 more while SQLite sorts them: 2.4 GB + 2.3 GB
    as plans     40 bytes a photo, compressed: 0.6 GB in the output folder, until the job is done
    in memory    SQLite's cache, 8 MiB, twice, and one shard's plan: with 1,024 shards 14,000
                 photos, 15 MB; 10,000 references peak at 39 MB, 1,000,000 at 53 MB
    time         12 s to fill and 6 s to sort a million: four and a half minutes in all
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType

from data_prep import records
from data_prep.sources import temporary_database
from data_prep.sources.reference import Reference

_CACHE_KIB = 8 << 10
_MODULUS = 1 << 128


class Catalog:
    """References, to be put in once and taken out in the order of the data set."""

    def __init__(self, seed: int):
        """Makes an empty one.

        Args:
            seed: of the order, 0 to 2**64 - 1.
        """
        self._salt = seed.to_bytes(8, "little")
        self._counts: Counter[str] = Counter()
        self._content = self._state = 0
        self._database = temporary_database.connect(cache_kib=_CACHE_KIB)
        self._database.execute("CREATE TABLE photos (split TEXT, place BLOB, entry TEXT)")

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._database.close()

    def fill(self, photos: Iterable[Reference]) -> None:
        """Puts references in; whatever their iterator raises passes through.

        Raises:
            OSError: the disk is full.
        """
        with _needs_room():
            self._database.execute("BEGIN")
            rows = map(self._row, photos)
            self._database.executemany("INSERT INTO photos VALUES (?, ?, ?)", rows)
            self._database.execute("COMMIT")

    @property
    def counts(self) -> Mapping[str, int]:
        """How many photos each split has."""
        return {split: self._counts[split] for split in records.SPLITS}

    @property
    def fingerprint(self) -> str:
        """Tells two inputs apart by their keys, lengths, names and labels, not by their place.

        A sum of hashes, so that it does not depend on the order either.
        """
        return f"{self._content:032x}"

    @property
    def state(self) -> str:
        """Tells the same files apart that were written at other times."""
        return f"{self._state:032x}"

    def in_order(self, split: str) -> Iterator[Reference]:
        """The photos of a split, in an order that their keys, the split and the seed decide.

        Raises:
            ValueError: two photos have one key.
            OSError: the disk is full.
        """
        last = None
        with _needs_room():
            rows = self._database.execute(
                "SELECT entry FROM photos WHERE split = ? ORDER BY place", (split,)
            )
            for (entry,) in rows:
                reference = Reference(split, *json.loads(entry))
                if reference.key == last:  # equal keys have equal places, so they are neighbours
                    raise ValueError(f"each photo needs a name of its own. Received: {last} twice")
                last = reference.key
                yield reference

    def _row(self, photo: Reference) -> tuple[str, bytes, str]:
        self._counts[photo.split] += 1
        identity = (photo.split, photo.key, photo.length, photo.filename, photo.label)
        self._content = (self._content + _number(identity)) % _MODULUS
        self._state = (self._state + _number((*identity, photo.modified_ns))) % _MODULUS
        name = f"{photo.split}/{photo.key}".encode()
        place = hashlib.blake2b(name, digest_size=16, salt=self._salt).digest()
        return photo.split, place, json.dumps(photo[1:])


def _needs_room() -> contextlib.AbstractContextManager[None]:
    return temporary_database.needs_room("the list of photos", bytes_a_photo=340)


def _number(values: tuple[object, ...]) -> int:
    digest = hashlib.blake2b(repr(values).encode(), digest_size=16)
    return int.from_bytes(digest.digest(), "little")

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

from data_prep import records
from data_prep.sources.reference import Reference
from data_prep.sources.temporary_database import TemporaryTable

_MODULUS = 1 << 128


class Catalog(contextlib.AbstractContextManager):
    """References, to be put in once and taken out in the order of the data set.

    Where the disk is full, its methods raise OSError.
    """

    def __init__(self, seed: int):
        """Make an empty one.

        Args:
            seed: of the order, 0 to 2**64 - 1.
        """
        self._salt = seed.to_bytes(8, "little")
        self._counts: Counter[str] = Counter()
        self._content = self._state = 0
        self._table = TemporaryTable(
            "split TEXT, place BLOB, entry TEXT",
            purpose="the list of photos",
            bytes_a_photo=340,
            cache_kib=8 << 10,
        )

    def __exit__(self, *error: object) -> None:
        self._table.close()

    def fill(self, photos: Iterable[Reference]) -> None:
        """Put references in; whatever their iterator raises passes through."""
        self._table.append(map(self._row, photos))

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of photos in each split."""
        return {split: self._counts[split] for split in records.SPLITS}

    @property
    def fingerprint(self) -> str:
        """A hash of the photos' keys, lengths, names and labels, but not of where they are.

        A sum of hashes, so that it does not depend on the order either.
        """
        return f"{self._content:032x}"

    @property
    def state(self) -> str:
        """A hash that also changes when the same files are written again."""
        return f"{self._state:032x}"

    def in_order(self, split: str) -> Iterator[Reference]:
        """Return the photos of a split, ordered by a hash of their keys, the split and the seed.

        Raises:
            ValueError: two photos have one key.
        """
        last = None
        query = "SELECT entry FROM photos WHERE split = ? ORDER BY place"
        for (entry,) in self._table.select(query, split):
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


def _number(values: tuple[object, ...]) -> int:
    digest = hashlib.blake2b(repr(values).encode(), digest_size=16)
    return int.from_bytes(digest.digest(), "little")

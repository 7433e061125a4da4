"""A private SQLite table for lists that may not fit into memory.

It spills to a temporary file that nobody else sees and that the system removes, also after a kill.
SQLite puts it where SQLITE_TMPDIR or TMPDIR say, or into /var/tmp or /tmp.
"""

import contextlib
import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence


class TemporaryTable:
    """The table `photos` of a database of its own; closing it removes it.

    A full disk is an OSError that says what to do.
    """

    def __init__(self, columns: str, *, purpose: str, bytes_a_photo: int, cache_kib: int):
        """Make an empty one.

        Args:
            columns: as SQL declares them.
            purpose: what the table is for, such as "the audit", for errors.
            bytes_a_photo: what it takes on disk, sorting included, for errors.
            cache_kib: memory that it may take before it spills; as much again while it sorts.
        """
        # The empty name is SQLite's for a temporary file. Autocommit: nothing is ever rolled back.
        self._database = sqlite3.connect("", isolation_level=None)
        self._needed = f"{purpose} needs room for a temporary database, about {bytes_a_photo} bytes"
        self._values = ", ".join("?" for _ in columns.split(","))
        for statement in (
            f"PRAGMA cache_size = -{cache_kib}",
            "PRAGMA temp_store = FILE",  # what is sorted goes to disk, too
            "PRAGMA journal_mode = OFF",
            f"CREATE TABLE photos ({columns})",
        ):
            self._database.execute(statement)

    def close(self) -> None:
        """Remove it."""
        self._database.close()

    def append(self, rows: Iterable[Sequence[object]]) -> None:
        """Append rows; whatever their iterator raises passes through."""
        with self._needs_room():
            self._database.execute("BEGIN")
            self._database.executemany(f"INSERT INTO photos VALUES ({self._values})", rows)
            self._database.execute("COMMIT")

    def select(self, query: str, *values: object) -> Iterator[tuple]:
        """Return the rows of a query, one at a time."""
        with self._needs_room():
            yield from self._database.execute(query, values)

    @contextlib.contextmanager
    def _needs_room(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(
                errno.ENOSPC,
                f"{self._needed} a photo, but writing failed ({error}): make room, or let "
                "SQLITE_TMPDIR name a folder on a larger disk",
                os.environ.get("SQLITE_TMPDIR", tempfile.gettempdir()),
            ) from error

"""A private SQLite database for lists that may not fit into memory.

It spills to a temporary file that nobody else sees and that the system removes, also after a kill.
SQLite puts it where SQLITE_TMPDIR or TMPDIR say, or into /var/tmp or /tmp.
"""

import contextlib
import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator


def connect(*, cache_kib: int) -> sqlite3.Connection:
    """An empty database; closing it removes it.

    Args:
        cache_kib: memory that it may take before it spills; as much again while it sorts.
    """
    # The empty name is SQLite's for a temporary file. Autocommit: nothing is ever rolled back.
    database = sqlite3.connect("", isolation_level=None)
    database.execute(f"PRAGMA cache_size = -{cache_kib}")
    database.execute("PRAGMA temp_store = FILE")  # what is sorted goes to disk, too
    database.execute("PRAGMA journal_mode = OFF")
    return database


@contextlib.contextmanager
def needs_room(purpose: str, bytes_a_photo: int) -> Iterator[None]:
    """Turn a full disk within the block into an OSError that says what to do.

    Args:
        purpose: what the database is for, such as "the audit".
        bytes_a_photo: what it takes on disk, sorting included.

    Raises:
        OSError: the disk is full.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(
            errno.ENOSPC,
            f"{purpose} needs room for a temporary database, about {bytes_a_photo} bytes a photo, "
            f"but writing failed ({error}): make room, or let SQLITE_TMPDIR name a folder on a "
            "larger disk",
            os.environ.get("SQLITE_TMPDIR", tempfile.gettempdir()),
        ) from error

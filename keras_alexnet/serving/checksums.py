"""checksums.json: the size and the SHA-256 of every other file of a version.

A version is copied to where it is served, by hand or by a sync that may stop half-way; with this,
the copy can be proven there.
"""

import hashlib
import json
import os

from data_prep import files

FILE_NAME = "checksums.json"


class ChecksumError(ValueError):
    """A version's files are not those that were written."""


def write(folder: str) -> int:
    """Adds checksums.json to a folder whose other files are all there.

    Returns:
        How many files it tells of.

    Raises:
        OSError: a file cannot be read, or the folder cannot be written to.
    """
    found = _entries(folder)
    text = json.dumps({"files": found}, indent=1, sort_keys=True) + "\n"
    files.write_file(os.path.join(folder, FILE_NAME), text)
    return len(found)


def check(folder: str) -> int:
    """Compares the files of a folder with its checksums.json.

    Returns:
        How many files it told of.

    Raises:
        ChecksumError: there is no checksums.json, or a file is missing, is another, or was added.
            Names the first of them.
        OSError: a file cannot be read.
    """
    told = _read(folder)
    found = _entries(folder)
    for path in sorted({*told, *found}):
        if path not in found:
            raise ChecksumError(f"{path} is missing")
        if path not in told:
            raise ChecksumError(f"{path} is not in {FILE_NAME}, so it was added later")
        if told[path] != found[path]:
            raise ChecksumError(f"{path} is not the file that was written")
    return len(told)


def _read(folder: str) -> dict[str, object]:
    """What checksums.json tells. Its names are compared, and no file is opened by them."""
    try:
        with open(os.path.join(folder, FILE_NAME), "rb") as file:
            told = json.load(file)["files"]
    except FileNotFoundError as error:
        raise ChecksumError(f"{FILE_NAME} is missing") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ChecksumError(f"{FILE_NAME} is broken") from error
    if not isinstance(told, dict):
        raise ChecksumError(f"{FILE_NAME} is broken")
    return told


def _entries(folder: str) -> dict[str, dict[str, object]]:
    """Size and hash of every file but checksums.json, by its path in the folder."""
    entries = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(parent, name)
            path = os.path.relpath(full, folder).replace(os.sep, "/")
            if path != FILE_NAME:
                entries[path] = _entry(full)
    return entries


def _entry(path: str) -> dict[str, object]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}

"""The versions of a served model: folders named by whole numbers, as TF Serving wants them.

A version is copied to where it is served, by hand or by a sync that may stop half-way. Its
checksums.json, size and SHA-256 of every other file, proves that a copy is whole.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile

from data_prep import files

# As TF Serving reads it (file_system_storage_path_source.cc): an int64 and nothing else.
_VERSION = re.compile(r"[0-9]{1,18}")
# What was a version, until all of it is deleted.
_REMOVED = re.compile(r"\.[0-9]{1,18}\.\w+\.removed")


def is_version(name: str) -> bool:
    """Return whether a folder of this name is a version."""
    return _VERSION.fullmatch(name) is not None


def published(model_dir: str) -> dict[int, str]:
    """Return the versions in the folder of a model and their paths, ascending; {} without it.

    What is being written has another name until it is whole (see `data_prep.files.new_folder`).
    """
    try:
        with os.scandir(model_dir) as entries:
            found = {
                int(entry.name): entry.path
                for entry in entries
                if is_version(entry.name) and entry.is_dir()
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return dict(sorted(found.items()))


def remove_oldest(model_dir: str, keep: int) -> list[int]:
    """Delete the versions with the lowest numbers.

    Each is first renamed, to a name that is no version's, so that no server finds a part of one.
    What a removal that was cut short left of such folders is deleted too. A link to a folder
    counts as a version and stays.

    Args:
        model_dir: folder of the model.
        keep: how many to keep, at least 1: the one with the highest number is never deleted.

    Returns:
        The numbers of those that are gone, ascending.

    Raises:
        ValueError: `keep` is less than 1.
        OSError: one cannot be renamed.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1. Received: {keep}. The newest version stays.")
    with os.scandir(model_dir) as entries:
        left = [entry.path for entry in entries if _REMOVED.fullmatch(entry.name)]
    old = list(published(model_dir).items())[:-keep]
    removed = []
    for number, path in old:
        if os.path.islink(path):
            continue
        aside = tempfile.mkdtemp(prefix=f".{number}.", suffix=".removed", dir=model_dir)
        left.append(aside)
        with contextlib.suppress(FileNotFoundError):  # another export removed it
            os.rename(path, aside)
            removed.append(number)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return removed


FILE_NAME = "checksums.json"


def write(folder: str) -> int:
    """Add checksums.json to a folder whose other files are all there; return their number."""
    found = _entries(folder)
    text = json.dumps({"files": found}, indent=1, sort_keys=True) + "\n"
    files.write_file(os.path.join(folder, FILE_NAME), text)
    return len(found)


def check(folder: str) -> int:
    """Compare the files of a folder with its checksums.json; return their number.

    Raises:
        ValueError: there is no checksums.json, or a file is missing, is another, or was added.
            Names the first of them.
        OSError: a file cannot be read.
    """
    written = _read(folder)
    found = _entries(folder)
    for path in sorted({*written, *found}):
        if path not in found:
            raise _broken(folder, f"{path} is missing")
        if path not in written:
            raise _broken(folder, f"{path} is not in {FILE_NAME}, so it was added later")
        if written[path] != found[path]:
            raise _broken(folder, f"{path} is not the file that was written")
    return len(written)


def _read(folder: str) -> dict[str, object]:
    """Return the entries of checksums.json. No file is opened by their names."""
    try:
        with open(os.path.join(folder, FILE_NAME), "rb") as file:
            written = json.load(file)["files"]
    except FileNotFoundError as error:
        raise _broken(folder, f"{FILE_NAME} is missing") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(folder, f"{FILE_NAME} is broken") from error
    if not isinstance(written, dict):
        raise _broken(folder, f"{FILE_NAME} is broken")
    return written


def _broken(folder: str, problem: str) -> ValueError:
    return ValueError(
        f"{folder} is not as it was written: {problem}; copy the version again, or export again"
    )


def _entries(folder: str) -> dict[str, dict[str, object]]:
    """Return size and hash of every file but checksums.json, by its path in the folder."""
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

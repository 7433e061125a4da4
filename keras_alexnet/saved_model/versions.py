"""The versions of a served model: folders named by whole numbers, as TF Serving wants them."""

import contextlib
import os
import re
import shutil
import tempfile

# As TF Serving reads it (file_system_storage_path_source.cc): an int64 and nothing else.
_VERSION = re.compile(r"[0-9]{1,18}")
# What was a version, until all of it is deleted.
_REMOVED = re.compile(r"\.[0-9]{1,18}\.\w+\.removed")


def is_version(name: str) -> bool:
    """Whether a folder of this name is a version."""
    return _VERSION.fullmatch(name) is not None


def published(model_dir: str) -> dict[int, str]:
    """The versions in the folder of a model and their paths, ascending; none if it is not there.

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
    """Deletes the versions with the lowest numbers.

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

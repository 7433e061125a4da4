"""The versions of a served model: folders named by whole numbers, as TF Serving wants them."""

import os
import re

# As TF Serving reads it (file_system_storage_path_source.cc): an int64 and nothing else.
_VERSION = re.compile(r"[0-9]{1,18}")


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

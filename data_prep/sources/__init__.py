"""The sources of photos and labels: each ends as a `Source`, a stream of references.

No photo is unpacked or copied: one in a tar of tars is a range of bytes of the outer file. Names
in tars, folders and lists are only ever labels and keys, never paths.
"""

from collections.abc import Callable, Mapping

from data_prep import storage
from data_prep.sources import class_folders, ilsvrc2012
from data_prep.sources.reference import Source

SOURCES: Mapping[str, Callable[..., Source]] = {
    "ilsvrc2012": ilsvrc2012.open_release,
    "ilsvrc2012_folders": ilsvrc2012.open_folders,
    "class_folders": class_folders.open_folders,
}
"""What `--source` chooses from: input_dir -> Source.

ILSVRC2010 is not among them: nothing that this project goes by says how its files differ.
"""

_CAN_BE_SPLIT = "class_folders"


def open_source(name: str, input_dir: str, *, validation_fraction: float | None = None) -> Source:
    """Open a source; its photos are listed as they are asked for.

    Listing reads names and tar headers, no photo; with `validation_fraction`, each photo once.

    Args:
        name: one of `SOURCES`.
        input_dir: the folder that holds its files, on any of `storage`'s file systems.
        validation_fraction: for class folders that are not split yet, the share of photos that
            validates, between 0 and 1; the bytes of a photo decide. None: they are split.

    Raises:
        ValueError: something is missing, damaged, or does not fit together; also from the
            source's `photos`, up to the last: none is to be believed before the end.
        OSError: a file or folder cannot be read; also from `photos`.
    """
    if validation_fraction is not None and name != _CAN_BE_SPLIT:
        raise ValueError(
            f"validation_fraction is for the source {_CAN_BE_SPLIT}, not {name}, which "
            "comes with a validation split; leave it away"
        )
    if not storage.is_folder(input_dir):
        raise ValueError(f"input_dir must be a folder; there is none at {input_dir}")
    fraction = () if validation_fraction is None else (validation_fraction,)
    return SOURCES[name](input_dir, *fraction)

"""Where photos and labels come from: each source ends as a `Source`, a stream of references.

No photo is unpacked or copied: one in a tar of tars is a range of bytes of the outer file. Names
in tars, folders and lists are only ever labels and keys, never paths.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from data_prep import storage
from data_prep.sources import class_folders, ilsvrc2012, ilsvrc2012_folders
from data_prep.sources.reference import Reference, Source

SOURCES: Mapping[str, Callable[[str], Source]] = {
    "ilsvrc2012": ilsvrc2012.open_release,
    "ilsvrc2012_folders": ilsvrc2012_folders.open_folders,
    "class_folders": class_folders.open_split_folders,
}
"""What `--source` chooses from: input_dir -> Source.

ILSVRC2010 is not among them: nothing that this project goes by says how its files differ.
"""

# Those that can be split here: (input_dir, validation_fraction) -> Source.
_UNSPLIT: Mapping[str, Callable[[str, float], Source]] = {
    "class_folders": class_folders.open_one_folder,
}


def open_source(name: str, input_dir: str, *, validation_fraction: float | None = None) -> Source:
    """Opens a source; its photos are listed as they are asked for.

    Listing reads names and tar headers, no photo; with `validation_fraction`, each photo once.

    Args:
        name: one of `SOURCES`.
        input_dir: the folder that holds its files, on any of `storage`'s file systems.
        validation_fraction: for class folders that are not split yet, the share of photos that
            validates, between 0 and 1; the bytes of a photo decide. None: they are split.

    Raises:
        ValueError: something is missing, damaged, cannot be read, or does not fit together; also
            from the source's `photos`, up to the last: none is to be believed before the end.
    """
    if validation_fraction is not None and name not in _UNSPLIT:
        raise ValueError(
            f"validation_fraction is for the source {' or '.join(_UNSPLIT)}, not {name}, which "
            "comes with a validation split; leave it away"
        )
    try:
        if not storage.is_folder(input_dir):
            raise ValueError(f"input_dir must be a folder; there is none at {input_dir}")
        if validation_fraction is None:
            source = SOURCES[name](input_dir)
        else:
            source = _UNSPLIT[name](input_dir, validation_fraction)
    except OSError as error:
        raise _unreadable(input_dir, error) from error
    return dataclasses.replace(source, photos=_readable(source.photos, input_dir))


def _readable(photos: Iterator[Reference], input_dir: str) -> Iterator[Reference]:
    try:
        yield from photos
    except OSError as error:
        raise _unreadable(input_dir, error) from error


def _unreadable(input_dir: str, error: OSError) -> ValueError:
    return ValueError(f"input_dir {input_dir} cannot be read: {error}; check it, then start again")

"""References to photos: byte ranges with labels."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data_prep import records

# The label of a photo whose place does not tell its class.
UNLABELLED = -1


class Reference(NamedTuple):
    """One photo: where its bytes are and what it shows."""

    split: str  # one of `records.SPLITS`
    key: str  # unique within the split, the same wherever the data lie
    path: str
    offset: int
    length: int
    filename: str
    label: int  # place of its class, from 0
    modified_ns: int  # when its file was last written: tells a replaced photo from an old one


@dataclasses.dataclass(frozen=True)
class Source:
    """Classes and photos to prepare.

    Attributes:
        classes: sorted by wnid; the place of a class is its label.
        photos: in any order, once: an ImageNet-21k of references does not fit into memory. What
            is wrong with the input may also be found on the way: then it raises ValueError.
    """

    classes: tuple[records.ClassName, ...]
    photos: Iterator[Reference]


def photo(
    split: str,
    name: str,
    path: str,
    length: int,
    modified_ns: int,
    *,
    offset: int = 0,
    folder: str = "",
    label: int = UNLABELLED,
) -> Reference:
    """Return the reference of a photo; `folder`, if any, and the last part of `name` are its key.

    The other arguments are fields of `Reference`.
    """
    filename = printable(os.path.basename(name))
    key = f"{folder}/{filename}" if folder else filename
    return Reference(split, key, path, offset, length, filename, label, modified_ns)


def unnamed(wnids: Iterable[str]) -> tuple[records.ClassName, ...]:
    """Return classes that are called by their wnids."""
    return tuple(records.ClassName(wnid, wnid) for wnid in wnids)


def labels_of(classes: Iterable[records.ClassName]) -> dict[str, int]:
    """Return the label of each wnid."""
    return {entry.wnid: label for label, entry in enumerate(classes)}


def printable(name: str) -> str:
    r"""Return a name as plain text; what cannot be printed as \x07, no UTF-8 as \udcff."""
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name
    )

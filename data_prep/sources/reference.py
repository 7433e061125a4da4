"""What a source of photos yields: references, which are byte ranges with labels."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from data_prep import records


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
    """What there is to prepare.

    Attributes:
        classes: sorted by wnid; the place of a class is its label.
        photos: in any order, once: an ImageNet-21k of references does not fit into memory. What
            is wrong with the input may also be found on the way: then it raises ValueError.
    """

    classes: tuple[records.ClassName, ...]
    photos: Iterator[Reference]


def printable(name: str) -> str:
    r"""A name as plain text; what cannot be printed as \x07, bytes that are no UTF-8 as \udcff."""
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name
    )

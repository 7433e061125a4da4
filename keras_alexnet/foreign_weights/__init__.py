"""Weights of other systems' AlexNets: a reader for each format, and the way to our layout.

A reader returns a `layouts.ForeignNetwork`; it believes nothing that the file says, and raises
`UserError` for everything that it cannot read. `fitting` compares with a profile, `layouts` moves
axes, `parity` computes the file's logits in another way.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping

from keras_alexnet.foreign_weights import caffemodel, npy_dictionary, torch_checkpoint
from keras_alexnet.foreign_weights.layouts import ForeignNetwork

__all__ = ["FORMATS", "LARGEST_FILE", "ForeignNetwork", "Format"]

LARGEST_FILE = 2**31 - 1  # bytes; protobuf's own limit, and eight times an AlexNet of full width


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        beginnings: the bytes that such a file may begin with; none where that says nothing.
        endings: of such a file's name.
        colour_order: of the maps that conv1 sees in a network of this format, "RGB" or "BGR".
        read: path -> what the file holds.
    """

    beginnings: tuple[bytes, ...]
    endings: tuple[str, ...]
    colour_order: str
    read: Callable[[str], ForeignNetwork]


FORMATS: Mapping[str, Format] = types.MappingProxyType(
    {
        "caffemodel": Format((), (".caffemodel",), "BGR", caffemodel.read),
        "torch": Format(
            (torch_checkpoint.ZIP_MAGIC, torch_checkpoint.LEGACY_MAGIC),
            (".pth", ".pt"),
            "RGB",
            torch_checkpoint.read,
        ),
        "npy": Format((npy_dictionary.MAGIC,), (".npy",), "BGR", npy_dictionary.read),
    }
)

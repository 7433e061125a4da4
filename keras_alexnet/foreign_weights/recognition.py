"""Finds out what a file is: its format, and the profile whose network its tensors are."""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from keras_alexnet.foreign_weights import caffemodel, fitting, npy_dictionary, torch_checkpoint
from keras_alexnet.foreign_weights.layouts import ForeignNetwork
from keras_alexnet.network.profile import Profile
from keras_alexnet.network.profiles import PROFILES, get_profile

LARGEST_FILE = 2**31 - 1  # bytes; protobuf's own limit, and eight times an AlexNet of full width


class Format(NamedTuple):
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


_TORCH = (torch_checkpoint.ZIP_MAGIC, torch_checkpoint.LEGACY_MAGIC)
FORMATS: Mapping[str, Format] = {
    "caffemodel": Format((), (".caffemodel",), "BGR", caffemodel.read),
    "torch": Format(_TORCH, (".pth", ".pt"), "RGB", torch_checkpoint.read),
    "npy": Format((npy_dictionary.MAGIC,), (".npy",), "BGR", npy_dictionary.read),
}

AUTO = "auto"
_LONGEST_BEGINNING = 16  # bytes


def recognize(path: str, file_format: str) -> tuple[str, str]:
    """Return the file's format, and the sha256 of its bytes.

    Args:
        path: of the file.
        file_format: a name in `FORMATS`, which is believed, or "auto": by the first bytes of the
            file or else the end of its name.

    Raises:
        ValueError: there is no such file, it is too large, or nothing says its format.
    """
    if not os.path.isfile(path):
        raise ValueError(f"a file of weights is needed; {path} is none")
    size = os.path.getsize(path)
    if size > LARGEST_FILE:
        raise ValueError(
            f"a file of at most {LARGEST_FILE} bytes is needed; {path} has {size}, eight times an "
            "AlexNet of full width; is this the right file?"
        )
    with open(path, "rb") as file:
        beginning = file.read(_LONGEST_BEGINNING)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if file_format != AUTO:
        return file_format, sha256
    for name, known in FORMATS.items():
        if known.beginnings and beginning.startswith(known.beginnings):
            return name, sha256
    for name, known in FORMATS.items():
        if path.lower().endswith(known.endings):
            return name, sha256
    raise ValueError(
        f"a file of a known format is needed; neither the name nor the first bytes of {path} say "
        f"which it is; state the format: {', '.join(FORMATS)}"
    )


def choose_profile(
    network: ForeignNetwork,
    profile: str | Profile,
    file_format: str,
    width: float,
    classes: int,
    path: str,
) -> Profile:
    """Return the requested profile, or else the only one that fits.

    Args:
        network: what the file holds.
        profile: a name in `PROFILES`, a `Profile`, or "auto".
        file_format: of the file; says which colours its conv1 sees.
        width: as of `Profile.scaled`.
        classes: number of classes.
        path: of the file, for error messages.

    Returns:
        The profile, of that width; the file's tensors are those of its network.

    Raises:
        ValueError: the file is not of that network, or more than one of the profiles fits.
    """
    colour_order = FORMATS[file_format].colour_order
    differences = {
        candidate: fitting.count_differences(network, candidate, classes)
        for candidate in (_scaled(known, width) for known in PROFILES.values())
        if candidate.colour_order == colour_order
    }
    names = [candidate.name for candidate, count in differences.items() if not count]
    hint = f"at width {width:g} its layers fit {', '.join(names) or 'no profile'}"
    if profile == AUTO:
        if len(names) > 1:
            raise ValueError(f"{path} does not say which network it is of; {hint}; say which")
        # Where none fits, the closest serves to name a tensor that differs.
        chosen = min(differences, key=differences.get)
    else:
        chosen = _scaled(get_profile(profile), width)
        if chosen.colour_order != colour_order:
            raise ValueError(
                f"{path}: conv1 sees {colour_order} in files of this format, and the "
                f"profile {chosen.name} reads {chosen.colour_order}; {hint}"
            )
    fitting.require_fit(network, chosen, classes, path, hint)
    return chosen


def _scaled(profile: Profile, width: float) -> Profile:
    # `scaled` rounds to multiples of 8, and a profile of one's own may have other numbers.
    return profile if width == 1.0 else profile.scaled(width)

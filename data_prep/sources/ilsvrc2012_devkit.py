"""Reads the ILSVRC2012 devkit, packed or not: the classes and those of the validation photos.

Its ids, 1 to N, are in no order that anyone uses; everything here goes by wnid.

scipy reads meta.mat. The packed devkit is read to the end of its gzip stream before, whose CRC
shows a flipped byte. What is left: an unpacked devkit has no checksum, and a meta.mat made to
harm, of at most `tars.LARGEST_LIST` bytes, can crash scipy's reader or make it allocate much
memory; it ends this process then. Nothing in it is unpickled or run.
"""

import dataclasses
import io
import os
from collections import Counter
from collections.abc import Mapping

import numpy as np
import scipy.io

from data_prep import records, storage
from data_prep.sources import tars
from data_prep.sources.reference import printable

# The names of the 2012 release; other tools look for these.
TRAIN_TAR = "ILSVRC2012_img_train.tar"
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@dataclasses.dataclass(frozen=True)
class Devkit:
    """The content of a devkit.

    Attributes:
        classes: the synsets without children, sorted by wnid.
        truth: the wnid of each validation photo, by its number, from 1.
        train_images: how many train photos each wnid has; None where the devkit does not say.
    """

    classes: tuple[records.ClassName, ...]
    truth: Mapping[int, str]
    train_images: Mapping[str, int] | None


@dataclasses.dataclass(frozen=True)
class _Synset:
    id: int
    wnid: str
    words: str
    children: int
    train_images: int | None  # old files do not say


def read(path: str) -> Devkit:
    """Read the devkit.

    Args:
        path: of ILSVRC2012_devkit_t12.tar.gz, or of the folder that it unpacks to.

    Raises:
        ValueError: a file is missing or damaged, or what they say does not fit together.
        OSError: it cannot be opened.
    """
    contents = _unpacked(path) if storage.is_folder(path) else _packed(path)
    for name in (META, GROUND_TRUTH):
        if name not in contents:
            raise ValueError(f"{path} must hold data/{name}, but does not; fetch it again")
    synsets = _synsets(contents[META], path)
    leaves = _leaves(synsets, path)
    truth = _truth(contents[GROUND_TRUTH], leaves, path)
    counted = all(synset.train_images is not None for synset in synsets)
    names = sorted((leaf.wnid, leaf.words) for leaf in leaves.values())
    return Devkit(
        classes=tuple(records.ClassName(*name) for name in names),
        truth=truth,
        train_images={s.wnid: s.train_images for s in leaves.values()} if counted else None,
    )


def _packed(path: str) -> dict[str, bytes]:
    contents = {}
    with tars.open_tar(path, "r:*") as archive:
        for member in archive:
            name = os.path.basename(member.name)
            if member.isreg() and name in (META, GROUND_TRUTH):
                file = archive.extractfile(member)
                contents[name] = tars.read_list(file, f"{name} in {path}")
        # The tar ends before the compressed stream does, whose end holds the checksum.
        while archive.fileobj.read(1 << 20):
            pass
    return contents


def _unpacked(path: str) -> dict[str, bytes]:
    contents = {}
    for name in (META, GROUND_TRUTH):
        place = storage.join(path, "data", name)
        if storage.exists(place):
            with storage.open_file(place) as file:
                contents[name] = tars.read_list(file, place)
    return contents


def _synsets(meta: bytes, path: str) -> list[_Synset]:
    """Return the rows of the struct array `synsets` of meta.mat."""
    try:
        variables = scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])
        table = np.atleast_1d(variables["synsets"])
        counted = "num_train_images" in table.dtype.names
        return [
            _Synset(
                id=int(row["ILSVRC2012_ID"]),
                # labels.txt has a line a class and a tab between the two: neither may hold one.
                wnid=printable("".join(str(row["WNID"]).split())),
                words=printable(" ".join(str(row["words"]).split())),
                children=int(row["num_children"]),
                train_images=int(row["num_train_images"]) if counted else None,
            )
            for row in table
        ]
    except Exception as error:  # scipy's reader raises errors of many types
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        raise ValueError(
            f"{META} in {path} must hold the table of synsets, but cannot be read "
            f"({reason[:200]}); fetch it again"
        ) from error


def _leaves(synsets: list[_Synset], path: str) -> dict[int, _Synset]:
    """Return the classes, by their ids."""
    leaves = {synset.id: synset for synset in synsets if not synset.children}
    if not leaves or sorted(leaves) != list(range(1, len(leaves) + 1)):
        raise ValueError(f"the classes of {META} in {path} must have the ids 1 to N, but do not")
    for field in ("id", "wnid"):
        ((value, count),) = Counter(getattr(entry, field) for entry in synsets).most_common(1)
        if count > 1:
            raise ValueError(
                f"no two synsets of {META} in {path} may have the same {field}; {value} is there "
                f"{count} times; fetch it again"
            )
    return leaves


def _truth(ground_truth: bytes, leaves: Mapping[int, _Synset], path: str) -> dict[int, str]:
    """Return the wnid of each validation photo, by its number."""
    try:
        ids = [int(line) for line in ground_truth.split()]
    except ValueError as error:
        raise ValueError(f"{GROUND_TRUTH} in {path} must hold an id a line: {error}") from error
    if unknown := [number for number in ids if number not in leaves]:
        raise ValueError(
            f"each id in {GROUND_TRUTH} must be one of the {len(leaves)} classes of {META} in "
            f"{path}; {unknown[0]} is not"
        )
    # Each class has 50 photos in the real release, and as many as the others in any.
    found = Counter(ids)
    fewest, most = min(leaves, key=found.__getitem__), max(leaves, key=found.__getitem__)
    if found[fewest] != found[most] or not ids:
        raise ValueError(
            f"each class must have as many validation photos as any other in {GROUND_TRUTH} in "
            f"{path}, and at least one; {leaves[fewest].wnid} has {found[fewest]}, "
            f"{leaves[most].wnid} has {found[most]}; fetch it again"
        )
    return {number: leaves[class_id].wnid for number, class_id in enumerate(ids, start=1)}

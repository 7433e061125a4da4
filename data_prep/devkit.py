"""Writes the containers of an ILSVRC2012 release: tars and the devkit. `ilsvrc2012` reads them.

Everything that would differ from day to day or machine to machine (times, owners, the header
that names the platform) is fixed, so that equal content is equal bytes.
"""

import dataclasses
import gzip
import io
import tarfile
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.io

# The names of the 2012 release; other tools look for these.
TRAIN_TAR = "ILSVRC2012_img_train.tar"
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_DEVKIT_FOLDER = "ILSVRC2012_devkit_t12"

_MAT_HEADER_BYTES = 116  # descriptive text; the file's meaning begins after it
_README = """\
The devkit of a rehearsal release, in the shape of ILSVRC2012's own.

data/meta.mat: the struct array `synsets`; ILSVRC2012_ID 1 to the number of classes are the
classes, larger IDs are the inner nodes over them.
data/ILSVRC2012_validation_ground_truth.txt: the ILSVRC2012_ID of each validation photo, one a
line, in the order of the photos' names.
"""


@dataclasses.dataclass(frozen=True)
class Synset:
    """One row of meta.mat; the fields of the real file, and in its order but for their names.

    Attributes:
        id: ILSVRC2012_ID, from 1. Classes come first, inner nodes after them.
        wnid: "n" and eight digits.
        words: the names of the concept, separated by ", ".
        gloss: what it is.
        children: IDs of the synsets right under this one; empty for a class.
        height: the longest way down to a leaf; 0 for a class.
        train_images: 0 for an inner node.
    """

    id: int
    wnid: str
    words: str
    gloss: str
    children: tuple[int, ...]
    height: int
    train_images: int


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Appends a file to an open tar, with no time, owner or machine in its header."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))  # TarInfo's defaults: time 0, owner 0, mode 0644


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A whole tar of (name, content) in memory, for a tar inside a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            add_member(tar, name, content)
    return buffer.getvalue()


def devkit_bytes(synsets: Sequence[Synset], ground_truth: Sequence[int]) -> bytes:
    """ILSVRC2012_devkit_t12.tar.gz.

    Args:
        synsets: in the order of their IDs.
        ground_truth: the ILSVRC2012_ID of each validation photo, in order of file name.
    """
    lines = "".join(f"{class_id}\n" for class_id in ground_truth)
    tar = tar_bytes(
        [
            (f"{_DEVKIT_FOLDER}/readme.txt", _README.encode()),
            (
                f"{_DEVKIT_FOLDER}/data/ILSVRC2012_validation_ground_truth.txt",
                lines.encode(),
            ),
            (f"{_DEVKIT_FOLDER}/data/meta.mat", _meta_mat(synsets)),
        ]
    )
    return gzip.compress(tar, mtime=0)


def _meta_mat(synsets: Sequence[Synset]) -> bytes:
    """A MATLAB 5 file with the struct array `synsets` [N, 1], fields as in the real one."""
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    structs = np.empty((len(synsets), 1), dtype=[(name, object) for name in names])
    for row, synset in enumerate(synsets):
        structs[row, 0] = (
            float(synset.id),  # MATLAB's numbers are doubles
            synset.wnid,
            synset.words,
            synset.gloss,
            float(len(synset.children)),
            np.array([synset.children], np.float64),  # [1, number of children]
            float(synset.height),
            float(synset.train_images),
        )
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": structs})
    content = bytearray(buffer.getvalue())
    # scipy writes the platform and the time of day here.
    content[:_MAT_HEADER_BYTES] = b"MATLAB 5.0 MAT-file, rehearsal release".ljust(_MAT_HEADER_BYTES)
    return bytes(content)

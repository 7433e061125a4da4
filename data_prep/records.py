"""The contract of a data set on disk: features, file names, manifest, labels, statistics.

    train-00000-of-01024 ... validation-00000-of-00128   TFRecords of tf.train.Example
    manifest.json      written last; a folder without it is not a data set
    labels.txt         line number = place of the class, from 0: wnid <tab> name
    rejected.jsonl     every photo that became no record: {"split", "key", "reason"}
    statistics/        mean_image.npy, mean_image.binaryproto, statistics.json
    audit.json         findings on the photos; audit.html shows them
    index/             with --index: the byte ranges of each shard's records

Written by data_prep.prepare, checked by data_prep.verify, read by keras_alexnet. This module
imports neither Beam nor, until `parse` is called, TensorFlow.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import IO, TYPE_CHECKING

import numpy as np

from data_prep import storage, tfrecord
from data_prep.conversion_rule import Rule

if TYPE_CHECKING:
    import tensorflow as tf

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
LABELS = "labels.txt"
REJECTED = "rejected.jsonl"
STATISTICS = "statistics/statistics.json"
MEAN_IMAGE = "statistics/mean_image.npy"
MEAN_IMAGE_CAFFE = "statistics/mean_image.binaryproto"
AUDIT = "audit.json"
AUDIT_PAGE = "audit.html"
# A folder of its own, so that the glob train-* finds shards and nothing else.
INDEX_FOLDER = "index"
SPLITS = ("train", "validation")
# image/format of the photos, by the recipe's "storage".
IMAGE_FORMATS = {"jpeg": "JPEG", "raw": "RAW"}

# Options of a recipe that a reader has to know.
_STORED = ("short_side", "storage", "crop")
# How to open a file: storage.open_file, or tf.io.gfile.GFile.
OpenFile = Callable[[str, str], IO]


# Name -> type. The names are those that slim, the TPU tools, TFDS' importers and DALI's users know.
FEATURES = {
    "image/encoded": "bytes",  # a baseline RGB JPEG, or the RGB bytes of the pixels, row by row
    "image/format": "bytes",  # of image/encoded: JPEG or RAW
    "image/colorspace": "bytes",  # RGB
    "image/channels": "int64",  # 3
    "image/height": "int64",  # pixels
    "image/width": "int64",
    "image/filename": "bytes",  # the original's, such as n01440764_10026.JPEG
    "image/class/label": "int64",  # place by sorted wnid + the manifest's label_offset
    "image/class/synset": "bytes",  # wnid, or the class folder's name
    "image/class/text": "bytes",  # the class in words: tench, Tinca tinca
}


def encode(
    *,
    image: bytes,
    image_format: str = "JPEG",
    height: int,
    width: int,
    filename: str,
    label: int,
    wnid: str,
    text: str,
) -> bytes:
    """Return a serialized tf.train.Example with the features of `FEATURES`, which explains them."""
    return tfrecord.encode_example(
        {
            "image/encoded": image,
            "image/format": image_format,
            "image/colorspace": "RGB",
            "image/channels": 3,
            "image/height": height,
            "image/width": width,
            "image/filename": filename,
            "image/class/label": label,
            "image/class/synset": wnid,
            "image/class/text": text,
        }
    )


def parse(serialized: "tf.Tensor") -> dict[str, "tf.Tensor"]:
    """Return the features of `FEATURES`, from one (scalar) or a batch ([N]) of serialized Examples.

    Returns:
        A tensor a feature, of the shape of `serialized`: tf.string for "bytes", tf.int64 else.
    """
    import tensorflow as tf  # here, so that Beam workers do without

    spec = {
        name: tf.io.FixedLenFeature([], tf.string if dtype == "bytes" else tf.int64)
        for name, dtype in FEATURES.items()
    }
    return tf.io.parse_example(serialized, spec)


def shard_name(split: str, index: int, count: int) -> str:
    """Return the file name of a shard, from 0: train-00000-of-01024."""
    return f"{split}-{index:05d}-of-{count:05d}"


def index_name(shard: str) -> str:
    """Return the path of a shard's index in the data set: index/train-00000-of-01024.index."""
    return f"{INDEX_FOLDER}/{shard}.index"


def index_text(record_bytes: Iterable[int]) -> str:
    """Return a shard's index: a line a record, its offset and its length in bytes.

    The `tfrecord` package for PyTorch and NVIDIA DALI write it with tfrecord2idx.

    Args:
        record_bytes: lengths of the records, their framing included.
    """
    lengths = list(record_bytes)
    offsets = itertools.accumulate(lengths, initial=0)
    return "".join(f"{offset} {n}\n" for offset, n in zip(offsets, lengths, strict=False))


@dataclasses.dataclass(frozen=True)
class ClassName:
    """A class; its label is its place in `Manifest.classes` plus the manifest's label_offset."""

    wnid: str
    name: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished file of records."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """A split; records + rejected is the number of photos of the source."""

    shards: tuple[Shard, ...]
    rejected: int

    @property
    def records(self) -> int:
        """The sum over all shards."""
        return sum(shard.records for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Contents of a data set, and the recipe that it was made by.

    Attributes:
        recipe: every option that decides a byte of the output (see `job.recipe.Options`), and the
            versions of the libraries.
        classes: in the order of their labels.
        splits: by name, one of `SPLITS`.
        repairs: number of photos by the name of a repair.
        files: sha256 of every file that is not a shard, by its path in the folder.
        notes: number of photos by the name of a note, such as on a color profile.
        label_offset: of the labels: 0, or 1 for readers of the slim convention, where label 0 is
            the background.
        schema_version: of this description.
    """

    recipe: Mapping[str, object]
    classes: tuple[ClassName, ...]
    splits: Mapping[str, Split]
    repairs: Mapping[str, int]
    files: Mapping[str, str]
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    label_offset: int = 0
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self):
        if self.label_offset not in (0, 1):
            raise ValueError(f"a label_offset of 0 or 1 is required. Received: {self.label_offset}")

    @functools.cached_property
    def photo_format(self) -> Rule:
        """The short_side, storage and crop of the recipe; what else a rule has is the default.

        Where crop is "none", a reader takes the square in the middle of each photo, whose
        statistics are those of the data set.

        Raises:
            ValueError: the recipe lacks the short side, or has a value that is unknown here.
        """
        recipe = {"short_side": None} | dict(self.recipe)
        try:
            return Rule(**{name: recipe[name] for name in _STORED if name in recipe})
        except ValueError as error:
            raise ValueError(
                f"the manifest's recipe must name how the photos are stored: {error}; "
                "run data_prep.prepare again"
            ) from error

    def to_json(self) -> str:
        """Return the text of manifest.json: keys sorted, so that equal manifests are equal bytes.

        The value of "sha256" is the hash of the text without that key.
        """
        fields = dataclasses.asdict(self)
        digest = hashlib.sha256(_json_text(fields).encode()).hexdigest()
        return _json_text({**fields, "sha256": digest})

    @staticmethod
    def from_json(text: str) -> "Manifest":
        """Return the manifest that `to_json` wrote.

        Raises:
            ValueError: the text is no manifest, has another schema version, or was changed.
        """
        try:
            fields = json.loads(text)
            version = fields["schema_version"]
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema version {SCHEMA_VERSION} is needed, this is {version}")
            del fields["sha256"]  # compared below, with everything else
            fields["classes"] = tuple(ClassName(**entry) for entry in fields["classes"])
            fields["splits"] = {
                name: Split(
                    shards=tuple(Shard(**shard) for shard in split["shards"]),
                    rejected=split["rejected"],
                )
                for name, split in fields["splits"].items()
            }
            manifest = Manifest(**fields)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error
        if manifest.to_json() != text:
            raise ValueError("its text was changed: it is not what its own SHA-256 is of")
        return manifest


def _json_text(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def read_manifest(data_dir: str, open_file: OpenFile = storage.open_file) -> Manifest:
    """Return the manifest of a finished data set.

    Args:
        data_dir: the folder that `data_prep.prepare` wrote.
        open_file: opens a file; such as `tf.io.gfile.GFile` for gs:// paths.

    Raises:
        ValueError: the manifest is missing, so the data set is not finished, or damaged.
    """
    path = storage.join(os.fspath(data_dir), MANIFEST)
    try:
        # As bytes: a text file's reader takes "\r" for "\n", and a changed byte for none.
        with open_file(path, "rb") as file:
            return Manifest.from_json(file.read().decode())
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}; run data_prep.prepare again") from error
    except Exception as error:  # each file system has its own "not found"
        raise ValueError(
            f"a data set made by data_prep.prepare is needed, but {path} cannot be read "
            f"({type(error).__name__}); finish it by running prepare again, or check data_dir"
        ) from error


def labels_text(classes: tuple[ClassName, ...]) -> str:
    """Return the text of labels.txt: a line a class, wnid and name, tab separated."""
    return "".join(f"{entry.wnid}\t{entry.name}\n" for entry in classes)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of all pixels of the train split's records, RGB, 0 to 255.

    Photos that are not square count with the square in their middle.

    Attributes:
        count: photos.
        mean_image: [size, size, 3] float32.
        channel_mean: [3] float64.
        channel_std: [3] float64.
        covariance: [3, 3] float64, of the pixels.
        pca_eigenvalues: [3] float64, ascending; their roots are the standard deviations.
        pca_eigenvectors: [3, 3] float64, one a column, the largest component positive.
    """

    count: int
    mean_image: np.ndarray
    channel_mean: np.ndarray
    channel_std: np.ndarray
    covariance: np.ndarray
    pca_eigenvalues: np.ndarray
    pca_eigenvectors: np.ndarray


def read_statistics(data_dir: str, open_file: OpenFile = storage.open_file) -> Statistics:
    """Return the statistics of a finished data set.

    Args:
        data_dir: the folder that `data_prep.prepare` wrote.
        open_file: opens a file, as for `read_manifest`.

    Raises:
        ValueError: a file is missing or damaged.
    """
    folder = os.fspath(data_dir)
    try:
        with open_file(storage.join(folder, STATISTICS), "rb") as file:
            numbers = json.loads(file.read())
        with open_file(storage.join(folder, MEAN_IMAGE), "rb") as file:
            mean_image = np.load(io.BytesIO(file.read()), allow_pickle=False)
        count = numbers.pop("count")
        arrays = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
        return Statistics(count=count, mean_image=mean_image, **arrays)
    except Exception as error:  # each file system has its own "not found"
        raise ValueError(
            f"the statistics of a finished data set are needed in {data_dir}/statistics, but they "
            f"cannot be read ({error!r}); run data_prep.verify, then data_prep.prepare again"
        ) from error

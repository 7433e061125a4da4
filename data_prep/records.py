"""The contract of a data set on disk: features, file names, manifest, labels, statistics.

    train-00000-of-01024 ... validation-00000-of-00128   TFRecords of tf.train.Example
    manifest.json      written last; a folder without it is not a data set
    labels.txt         line number = place of the class, from 0: wnid <tab> name
    rejected.jsonl     every input that became no record: {"split", "key", "reason"}
    statistics/        mean_image.npy, mean_image.binaryproto, statistics.json
    audit.json         what a person should know of the photos; audit.html shows it
    index/             where asked for: the byte ranges of each shard's records

Written by data_prep.prepare, proven by data_prep.verify, read by keras_alexnet. This module is
the only one of the two sides' common knowledge, and imports neither Beam nor, until `parse` is
called, TensorFlow.
"""

import dataclasses
import functools
import hashlib
import io
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


@dataclasses.dataclass(frozen=True)
class Feature:
    """One column of a record."""

    name: str
    dtype: str  # "bytes" or "int64"
    meaning: str
    example: object


# The names that slim, the TPU tools, TFDS' importers and DALI's users know.
FEATURES = (
    Feature("image/encoded", "bytes", "a baseline RGB JPEG, or pixels by row", b"\xff\xd8..."),
    Feature("image/format", "bytes", "of image/encoded: JPEG or RAW", "JPEG"),
    Feature("image/colorspace", "bytes", "of image/encoded", "RGB"),
    Feature("image/channels", "int64", "of image/encoded", 3),
    Feature("image/height", "int64", "of image/encoded, pixels", 256),
    Feature("image/width", "int64", "of image/encoded, pixels", 256),
    Feature("image/filename", "bytes", "name of the original", "n01440764_10026.JPEG"),
    Feature("image/class/label", "int64", "place by sorted wnid + the manifest's offset", 0),
    Feature("image/class/synset", "bytes", "wnid, or the class folder's name", "n01440764"),
    Feature("image/class/text", "bytes", "the class' name in words", "tench, Tinca tinca"),
)


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
    """A serialized tf.train.Example with the features of `FEATURES`.

    Args:
        image: of `height` x `width` pixels.
        image_format: of `image`: "JPEG", a baseline RGB one, or "RAW", the RGB bytes of the pixels
            from left to right and from top to bottom.
        height: pixels.
        width: pixels.
        filename: the original's name, without folders.
        label: place of the class, from 0, plus the data set's label_offset.
        wnid: WordNet id, or the class folder's name.
        text: the class in words.
    """
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
    """The features of `FEATURES`, from one (scalar) or a batch ([N]) of serialized Examples.

    Returns:
        A tensor a feature, of the shape of `serialized`: tf.string for "bytes", tf.int64 else.
    """
    import tensorflow as tf  # here, so that Beam workers do without

    spec = {
        feature.name: tf.io.FixedLenFeature([], tf.string if feature.dtype == "bytes" else tf.int64)
        for feature in FEATURES
    }
    return tf.io.parse_example(serialized, spec)


def shard_name(split: str, index: int, count: int) -> str:
    """The file name of a shard, from 0: train-00000-of-01024."""
    return f"{split}-{index:05d}-of-{count:05d}"


def index_name(shard: str) -> str:
    """The path in the data set of a shard's index: index/train-00000-of-01024.index."""
    return f"{INDEX_FOLDER}/{shard}.index"


def index_text(record_bytes: Iterable[int]) -> str:
    """The text of a shard's index: a line a record, its offset and its length in bytes.

    The format is that of the programs called tfrecord2idx, of the `tfrecord` package for PyTorch
    and of NVIDIA DALI.

    Args:
        record_bytes: the lengths of the records in the file, their framing included.
    """
    lines, offset = [], 0
    for length in record_bytes:
        lines.append(f"{offset} {length}\n")
        offset += length
    return "".join(lines)


@dataclasses.dataclass(frozen=True)
class ClassName:
    """A class: its place in `Manifest.classes` is its label, less the manifest's label_offset."""

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
    """What a split holds; records + rejected is the number of photos that went in."""

    shards: tuple[Shard, ...]
    rejected: int

    @property
    def records(self) -> int:
        """The number of records in all shards."""
        return sum(shard.records for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a data set is and how it was made.

    Attributes:
        recipe: every option that decides a byte of the output, and the versions of the libraries.
            Of use to a reader are: short_side (pixels), crop ("center" or "none"), fit
            ("short_side", or "warp" to a square as Caffe does), storage ("jpeg" or "raw"), quality
            (of the JPEGs), truncated ("reject" or "accept") and pass_through (whether originals
            that were right already were kept byte for byte), index (whether there are index
            files), label_offset, and icc_profiles (what was done about color profiles, in words).
        classes: in the order of their labels.
        splits: by name, one of `SPLITS`.
        repairs: how many photos each repair was done to, by its name.
        files: sha256 of every file that is not a shard, by its path in the folder.
        notes: how many photos each note is on, by its name: what is worth knowing, but no repair.
        label_offset: what was added to a class' place to make its label: 0, or 1 for readers of the
            slim convention, where label 0 is the background.
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
        """The text of manifest.json: keys sorted, so that equal manifests are equal bytes.

        Its key "sha256" is the hash of the text that it would be without that key and its value, so
        that the file proves itself, as it proves all others.
        """
        fields = dataclasses.asdict(self)
        digest = hashlib.sha256(_json_text(fields).encode()).hexdigest()
        return _json_text({**fields, "sha256": digest})

    @staticmethod
    def from_json(text: str) -> "Manifest":
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is no manifest, one of another schema version, or not to the last
                byte what `to_json` wrote.
        """
        try:
            fields = json.loads(text)
            version = fields["schema_version"]
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema version {SCHEMA_VERSION} is needed, this is {version}")
            del fields["sha256"]  # compared below, with all else
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
    """The manifest of a finished data set.

    Args:
        data_dir: the folder that `data_prep.prepare` wrote.
        open_file: how to open a file, such as `tf.io.gfile.GFile` for gs:// paths.

    Raises:
        ValueError: there is none, so the folder is no (finished) data set, or it is broken.
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
    """The text of labels.txt: a line a class, wnid and name, tab separated."""
    return "".join(f"{entry.wnid}\t{entry.name}\n" for entry in classes)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Over all pixels of the train split's records, RGB, 0 to 255.

    Of photos that are not square, the square in their middle counts.

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
    """The statistics of a finished data set.

    Args:
        data_dir: the folder that `data_prep.prepare` wrote.
        open_file: how to open a file, as for `read_manifest`.

    Raises:
        ValueError: a file is missing or broken.
    """
    try:
        with open_file(storage.join(os.fspath(data_dir), STATISTICS), "rb") as file:
            numbers = json.loads(file.read())
        with open_file(storage.join(os.fspath(data_dir), MEAN_IMAGE), "rb") as file:
            mean_image = np.load(io.BytesIO(file.read()), allow_pickle=False)
        count = numbers.pop("count")
        arrays = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
        return Statistics(count=count, mean_image=mean_image, **arrays)
    except Exception as error:  # each file system has its own "not found"
        raise ValueError(
            f"the statistics of a finished data set are needed in {data_dir}/statistics, but they "
            f"cannot be read ({error!r}); run data_prep.verify, then data_prep.prepare again"
        ) from error

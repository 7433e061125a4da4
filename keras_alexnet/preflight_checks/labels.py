"""Checks of a data set's labels: in range, of the right classes, and about the photos."""

import dataclasses
import math
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from data_prep import records
from keras_alexnet.inputs import stored_photos

THUMBNAIL = 64  # side in pixels: enough for texture and coarse shape, and quick to look at
_SHARDS = 16  # read in turn; photos are spread over the shards by chance
# A class is missing, not rare, if so many photos were looked at for each class.
_PHOTOS_A_CLASS = 10
_FILTERS, _FILTER_SIZE, _STRIDE, _REGIONS = 128, 6, 2, 3
_RIDGE = 100.0  # in standard deviations squared, summed over the photos
_HELD_OUT = 1 / 3
# Of fewer photos not even labels that fit perfectly would stand out from chance.
_FEWEST_TO_ASK = 100


@dataclasses.dataclass(frozen=True)
class Sample:
    """Records of a split."""

    labels: np.ndarray  # int64 [N], as stored, less the manifest's label_offset
    synsets: list[str]
    thumbnails: np.ndarray  # uint8 [N, 64, 64, 3] RGB


def read(data_dir: str, manifest: records.Manifest, split: str, count: int) -> Sample:
    """Read the first records of up to 16 shards.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of that folder.
        split: "train" or "validation".
        count: largest number of records.

    Raises:
        tf.errors.OpError: a record cannot be read.
    """
    photo_format = manifest.photo_format

    def to_thumbnail(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        features = records.parse(serialized)
        photo = stored_photos.decode(features, photo_format)
        # "area" in whole steps is a mean of blocks; nearest neighbours would alias textures.
        small = tf.image.resize(photo, [THUMBNAIL, THUMBNAIL], method="area")
        label = features["image/class/label"] - manifest.label_offset
        return label, features["image/class/synset"], tf.cast(tf.round(small), tf.uint8)

    paths = [os.path.join(data_dir, shard.name) for shard in manifest.splits[split].shards]
    dataset = (
        tf.data.Dataset.from_tensor_slices(paths)
        .interleave(tf.data.TFRecordDataset, cycle_length=_SHARDS)
        .take(count)
        .map(to_thumbnail, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(count)
    )
    for labels, synsets, thumbnails in dataset:
        names = [synset.decode(errors="replace") for synset in synsets.numpy()]
        return Sample(labels.numpy(), names, thumbnails.numpy())
    # All shards are empty files.
    return Sample(np.zeros([0], np.int64), [], np.zeros([0, THUMBNAIL, THUMBNAIL, 3], np.uint8))


def check(
    train: Sample, validation: Sample, manifest: records.Manifest, labels_file: str
) -> dict[str, float]:
    """Compare the labels with the manifest, labels.txt and the photos.

    Args:
        train: records of the train split.
        validation: records of the validation split.
        manifest: of the data set.
        labels_file: the text of labels.txt.

    Returns:
        labels_out_of_range: share of records whose label is not a class.
        labels_of_other_synsets: share of records whose synset is not that of their label's class.
        labels_file_differs: 1 where labels.txt is not the manifest's classes, else 0.
        classes_missing: share of classes without a train record; 0 if few records were read.
        labels_read: number of records.
        class_entropy: of the train labels, in nats: the loss of a network that knows their
            frequencies and nothing of the photos.
        label_information: z-score of `probe` within the train split.
        validation_label_information: the same, learned from train, applied to validation. Both
            are missing where there are too few photos to tell.
    """
    classes = manifest.classes
    labels = np.concatenate([train.labels, validation.labels])
    synsets = [*train.synsets, *validation.synsets]
    in_range = (labels >= 0) & (labels < len(classes))
    other = [
        classes[label].wnid != synset
        for label, synset, valid in zip(labels, synsets, in_range, strict=True)
        if valid
    ]
    valid_train = train.labels[(train.labels >= 0) & (train.labels < len(classes))]
    counts = np.bincount(valid_train, minlength=len(classes))
    enough = len(train.labels) >= _PHOTOS_A_CLASS * len(classes)
    return {
        "labels_out_of_range": float(1 - in_range.mean()),
        "labels_of_other_synsets": float(np.mean(other)) if other else 0.0,
        "labels_file_differs": float(labels_file != records.labels_text(classes)),
        "classes_missing": float(np.mean(counts == 0)) if enough else 0.0,
        "labels_read": float(len(labels)),
        "class_entropy": entropy(counts),
        **_information(train, validation, len(classes)),
    }


def entropy(counts: np.ndarray) -> float:
    """Return the entropy of classes that occur so often, in nats."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum())


def _information(train: Sample, validation: Sample, classes: int) -> Mapping[str, float]:
    count = len(train.labels)
    learned = count - int(count * _HELD_OUT)
    if count - learned < _FEWEST_TO_ASK:
        return {}
    features = photo_features(np.concatenate([train.thumbnails, validation.thumbnails]))

    def score(end: int, labels: np.ndarray, asked: np.ndarray) -> float:
        """Learn the photos before `end`, and ask for the labels of those after it."""
        return probe(features[:end], labels, features[end : end + len(asked)], asked, classes)

    figures = {"label_information": score(learned, train.labels[:learned], train.labels[learned:])}
    if len(validation.labels) >= _FEWEST_TO_ASK:
        figures["validation_label_information"] = score(count, train.labels, validation.labels)
    return figures


def photo_features(photos: np.ndarray) -> np.ndarray:
    """Describe the colours and small patterns of each photo, and roughly where they are.

    The responses to 128 patches that are drawn from the photos themselves, rectified and averaged
    over 3x3 regions (Coates, Lee, Ng: An Analysis of Single-Layer Networks in Unsupervised Feature
    Learning, 2011, with random patches), and the regions' mean colours.

    Args:
        photos: uint8 [N, side, side, 3].

    Returns:
        float32 [N, 1179], each column of mean 0 and standard deviation 1.
    """
    random = np.random.default_rng(0)
    side = photos.shape[1]
    scaled = photos.astype(np.float32) / 127.5 - 1
    corners = random.integers(0, side - _FILTER_SIZE, [_FILTERS, 2])
    owners = random.integers(0, len(photos), _FILTERS)
    windows = np.lib.stride_tricks.sliding_window_view(scaled, [_FILTER_SIZE] * 2, axis=(1, 2))
    patches = np.moveaxis(windows[owners, corners[:, 0], corners[:, 1]], 1, -1).copy()
    # Without their means, patches are patterns, not brightness; of one length, none drowns others.
    patches -= patches.mean(axis=(1, 2, 3), keepdims=True)
    patches /= np.sqrt((patches**2).sum(axis=(1, 2, 3), keepdims=True)) + 1e-3
    filters = np.moveaxis(patches, 0, -1)
    chunks = (scaled[start : start + 256] for start in range(0, len(photos), 256))
    columns = np.concatenate([_region_means(chunk, filters).numpy() for chunk in chunks])
    return (columns - columns.mean(axis=0)) / (columns.std(axis=0) + 1e-6)


@tf.function(reduce_retracing=True)
def _region_means(photos: tf.Tensor, filters: tf.Tensor) -> tf.Tensor:
    responses = tf.nn.conv2d(photos, filters, _STRIDE, "VALID")
    # A threshold keeps the strong responses: what is everywhere says little of a photo.
    strong = tf.nn.relu(
        tf.abs(responses) - tf.reduce_mean(tf.abs(responses), [1, 2], keepdims=True)
    )
    maps = tf.image.resize(strong, [_REGIONS, _REGIONS], method="area")
    colours = tf.image.resize(photos, [_REGIONS, _REGIONS], method="area")
    count = tf.shape(photos)[0]
    return tf.concat([tf.reshape(maps, [count, -1]), tf.reshape(colours, [count, -1])], axis=1)


def probe(
    features: np.ndarray,
    labels: np.ndarray,
    asked_features: np.ndarray,
    asked_labels: np.ndarray,
    classes: int,
) -> float:
    """Return how surely a linear classifier is better than guessing, as a z-score.

    The classifier is ridge regression of the labels on the features. It ranks the classes of other
    photos; the mean place of the right class is compared with chance, so that a few photos a class
    are enough even with a thousand classes.

    Args:
        features: float32 [N, F], to learn from.
        labels: int64 [N]; labels that are out of range are left out.
        asked_features: float32 [M, F].
        asked_labels: int64 [M].
        classes: number of classes.

    Returns:
        The z-score: about normal, of mean 0 and deviation 1, where the labels are random. 0.0
        where there is nothing to compare.
    """
    learn = (labels >= 0) & (labels < classes)
    ask = (asked_labels >= 0) & (asked_labels < classes)
    if classes < 2 or learn.sum() < 2 or not ask.any():
        return 0.0
    x, answers = features[learn].astype(np.float64), np.eye(classes)[labels[learn]]
    answers = answers - answers.mean(axis=0)
    gram = x @ x.T
    gram[np.diag_indices_from(gram)] += _RIDGE * math.sqrt(x.shape[1])
    scores = asked_features[ask] @ (x.T @ np.linalg.solve(gram, answers))
    right = scores[np.arange(len(scores)), asked_labels[ask]][:, None]
    place = (np.mean(scores < right, axis=1) + np.mean(scores <= right, axis=1)) / 2
    # Places (2 i + 1) / (2 classes), each as likely: a variance of (1 - 1 / classes^2) / 12.
    deviation = math.sqrt((1 - classes**-2.0) / 12 / len(scores))
    return float((place.mean() - 0.5) / deviation)

"""A few thousand records of a data set, read for the preflight: labels, classes, thumbnails."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from data_prep import records
from keras_alexnet import stored_photos

THUMBNAIL = 64  # side in pixels: enough for texture and coarse shape, and quick to look at
_SHARDS = 16  # read in turn; photos are spread over the shards by chance


@dataclasses.dataclass(frozen=True)
class Sample:
    """Records of a split.

    Attributes:
        labels: int64 [N], as stored, less the manifest's label_offset.
        synsets: of the same records, [N] text.
        thumbnails: uint8 [N, 64, 64, 3] RGB.
    """

    labels: np.ndarray
    synsets: list[str]
    thumbnails: np.ndarray


def read(data_dir: str, manifest: records.Manifest, split: str, count: int) -> Sample:
    """The first records of up to 16 shards.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of that folder.
        split: "train" or "validation".
        count: how many records at most.

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
    return Sample(np.zeros([0], np.int64), [], np.zeros([0, THUMBNAIL, THUMBNAIL, 3], np.uint8))

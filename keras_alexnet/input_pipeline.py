"""TFRecords -> uint8 batches.

What leaves here is uint8 (a quarter of float32's bytes to copy to the device) and the draws that
decide a photo's view; the arithmetic happens in batch on the device, in preprocessing.py.

Order and augmentation of the training photos are functions of (seed, epoch, position) alone:
whatever the number of threads, and from whichever epoch a run is started.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from data_prep import records
from data_prep.command_line import UserError
from keras_alexnet import stored_photos, views
from keras_alexnet.profiles import Profile

# Shards read at once. With the shuffled blocks this decides how well an epoch is mixed.
_INTERLEAVED_SHARDS = 16
SHUFFLE_BLOCK = 8192

# Tells the draws of order and of augmentation apart, which both start from (seed, epoch).
_ORDER, _VIEWS = 1, 2


def train_dataset(
    data_dir: str,
    manifest: records.Manifest,
    *,
    profile: Profile,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    epochs: int = 1,
    shuffle_block: int = SHUFFLE_BLOCK,
) -> tf.data.Dataset:
    """Crops of the train split as the profile draws them, epoch after epoch.

    Shards are permuted anew each epoch, 16 of them read in turn, and what comes out is cut into
    blocks of `shuffle_block` records that are shuffled each by itself: within its epoch's order of
    shards, a record travels less than `shuffle_block` places. (Its shard was filled in random
    order by data_prep.prepare.) A data set of one block is shuffled perfectly. Epochs are not
    blended, and an epoch's last partial batch is dropped, since its mean gradient would weigh
    its few photos more than others.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of that folder.
        profile: decides the size of the crop, and what is random (see `views.random_view`).
        batch_size: global, over all replicas.
        seed: of order and augmentation.
        first_epoch: 0, or the number of epochs that were done before.
        epochs: the number of the last epoch, exclusive; `first_epoch` counts from the same 0.
        shuffle_block: records of about 40 kB each; up to three blocks are in memory.

    Yields:
        ({"image": uint8 [B, S, S, 3], "offset": int32 [B, 2], "flip": uint8 [B],
        "noise": float32 [B, 3]}, label int64 [B], from 0), `train_steps(...)` times an epoch.

    Raises:
        UserError: the split has fewer records than a batch, or the manifest lacks what is needed.
    """
    batches = train_steps(manifest, batch_size) * (epochs - first_epoch)
    files = _shard_paths(data_dir, manifest, "train")
    photo_format, label_offset = manifest.photo_format, manifest.label_offset

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order_seed = tf.stack([tf.constant(seed * 4 + _ORDER, tf.int64), epoch])
        view_seed = tf.stack([tf.constant(seed * 4 + _VIEWS, tf.int64), epoch])

        # Dataset.shuffle cannot take the epoch, a tensor here, for its seed; these can.
        def shuffle(index: int | tf.Tensor, values: tf.Tensor) -> tf.Tensor:
            seed = tf.random.experimental.stateless_fold_in(order_seed, index)
            return tf.random.experimental.stateless_shuffle(values, seed)

        def to_example(position: tf.Tensor, serialized: tf.Tensor) -> tuple[dict, tf.Tensor]:
            photo_seed = tf.random.experimental.stateless_fold_in(view_seed, position)
            features = records.parse(serialized)
            view = _random_view(features, photo_seed, profile, photo_format)
            return view, features["image/class/label"] - label_offset

        return (
            tf.data.Dataset.from_tensor_slices(shuffle(-1, tf.constant(files)))
            .interleave(
                tf.data.TFRecordDataset,
                cycle_length=_INTERLEAVED_SHARDS,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(shuffle_block)
            .enumerate()
            .map(shuffle)
            .prefetch(1)  # the next block is read while this one is used up
            .unbatch()
            .enumerate()
            .map(to_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(batch_size, drop_remainder=True)
        )

    dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)
    return _finish(dataset, batches)


def train_steps(manifest: records.Manifest, batch_size: int) -> int:
    """Whole batches in an epoch.

    Raises:
        UserError: there is none.
    """
    photos = manifest.splits["train"].records
    if photos < batch_size:
        raise UserError(
            f"a train split of at least one batch is needed: --batch_size={batch_size}, but the "
            f"data set has {photos} photos; lower --batch_size or prepare more"
        )
    return photos // batch_size


def check_stored_size(manifest: records.Manifest, profile: Profile) -> None:
    """Refuses a data set whose photos are smaller than the network's input.

    Raises:
        UserError: they are, or the manifest does not tell.
    """
    side = manifest.photo_format.short_side
    if side < profile.input_size:
        raise UserError(
            f"photos of at least {profile.input_size} pixels are needed by the profile "
            f"{profile.name}, but the data set stores {side}; "
            f"prepare it with a larger --short_side"
        )


def eval_dataset(
    data_dir: str,
    manifest: records.Manifest,
    *,
    batch_size: int,
    split: str = "validation",
) -> tf.data.Dataset:
    """Every photo of a split once, whole, in the order of the files.

    The last batch is filled up with black photos of weight 0, so that every batch divides among
    the replicas and the weights sum to the number of records.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of that folder.
        batch_size: global, over all replicas.
        split: "validation" or "train".

    Yields:
        (image uint8 [B, stored, stored, 3], label int64 [B], from 0, weight float32 [B]).

    Raises:
        UserError: the split is empty or absent, or the manifest lacks what is needed.
    """
    photos = manifest.splits[split].records if split in manifest.splits else 0
    if not photos:
        raise UserError(f"photos in the split {split!r} are needed, but {data_dir} has none there")
    photo_format = manifest.photo_format

    def to_example(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        features = records.parse(serialized)
        image = stored_photos.decode(features, photo_format)
        return image, features["image/class/label"] - manifest.label_offset, tf.constant(1.0)

    padding = -photos % batch_size
    fill = (
        tf.zeros([photo_format.short_side, photo_format.short_side, 3], tf.uint8),
        tf.zeros([], tf.int64),
        tf.zeros([], tf.float32),
    )
    dataset = (
        tf.data.Dataset.from_tensor_slices(_shard_paths(data_dir, manifest, split))
        .interleave(
            tf.data.TFRecordDataset,
            cycle_length=1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .map(to_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .concatenate(tf.data.Dataset.from_tensors(fill).repeat(padding))
        .batch(batch_size, drop_remainder=True)
    )
    return _finish(dataset, (photos + padding) // batch_size)


def central_views(dataset: tf.data.Dataset, profile: Profile) -> tf.data.Dataset:
    """The central crop of each photo of an `eval_dataset`, in the form of a `train_dataset`.

    Yields:
        ({"image", "offset", "flip", "noise"}, label, weight), with no flip. The noise, which only
        training looks at, is of zeros: Keras wants one structure of both datasets.
    """

    def to_view(image: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tuple:
        view = views.central_view(profile, stored=image.shape[1])
        batch = tf.shape(image)[0]
        features = {
            "image": views.crop(image, view, profile.input_size),
            "offset": tf.tile(tf.constant([[view.y, view.x]], tf.int32), [batch, 1]),
            "flip": tf.fill([batch], tf.constant(view.flip, tf.uint8)),
            "noise": tf.zeros([batch, 3]),
        }
        return features, label, weight

    return dataset.map(to_view, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


@contextlib.contextmanager
def broken_data_is_a_user_error(data_dir: str) -> Iterator[None]:
    """Turns what TensorFlow raises over a broken or missing record into one line.

    Args:
        data_dir: what the datasets used inside were made of.

    Raises:
        UserError: in place of TensorFlow's error.
    """
    try:
        yield
    except (
        tf.errors.DataLossError,  # a checksum
        tf.errors.NotFoundError,  # a shard
        tf.errors.InvalidArgumentError,  # a photo or an Example
    ) as error:
        reason = str(error.message).strip().splitlines()[0]
        raise UserError(
            f"{data_dir} cannot be read to its end ({reason}); run data_prep.verify, which "
            f"names what is broken, and prepare again"
        ) from error


def _random_view(
    features: Mapping[str, tf.Tensor],
    seed: tf.Tensor,
    profile: Profile,
    photo_format: records.PhotoFormat,
) -> dict[str, tf.Tensor]:
    offset, flip, noise = views.random_view(seed, profile, stored=photo_format.short_side)
    image = stored_photos.decode_part(features, photo_format, offset, profile.input_size)
    return {"image": image, "offset": offset, "flip": tf.cast(flip, tf.uint8), "noise": noise}


def _shard_paths(data_dir: str, manifest: records.Manifest, split: str) -> Sequence[str]:
    return [os.path.join(data_dir, shard.name) for shard in manifest.splits[split].shards]


def _finish(dataset: tf.data.Dataset, batches: int) -> tf.data.Dataset:
    """Order kept, length known (Keras asks), and the next batch made while this one is used."""
    options = tf.data.Options()
    options.deterministic = True
    # One folder of shards, read by one process: batches are split among replicas, not files.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)

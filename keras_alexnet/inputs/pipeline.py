"""TFRecords -> uint8 batches (a quarter of float32's bytes to copy to the device) and draws.

The arithmetic happens in batch on the device, in preprocessing.py. Order and augmentation of the
training photos are functions of (seed, epoch, position) alone, whatever the number of threads and
of processes, and from whichever step a run is started.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from data_prep import broken_records, records
from keras_alexnet.inputs import augmentations, record_order, stored_photos, views
from keras_alexnet.inputs.record_order import Share
from keras_alexnet.network.profile import Profile

SHUFFLE_BLOCK = 8192

_PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
_WHOLE = Share()
_NOWHERE_ELSE: Mapping[str, str] = {}

# Tells the draws of order and of augmentation apart, which both start from (seed, epoch).
_ORDER, _VIEWS = 1, 2


@dataclasses.dataclass(frozen=True)
class Feed:
    """Settings of the training photos' order, extent and random draws.

    Attributes:
        batch_size: global, over all replicas.
        seed: of order and augmentation.
        epochs: number of the last epoch, exclusive; `first_epoch` counts from the same 0.
        first_epoch: number of epochs that are done already.
        first_step: steps of the first epoch that are done already. Their records are read, but not
            decoded.
        shuffle_block: size of the shuffle buffer, records: about 40 kB each, or 197 kB if raw.
        quiet_steps: ranges (from, to) of steps without colour noise, counted from the first step of
            epoch 0; `to` is exclusive, None for no end.
        augment: augmentations that the device applies; their random numbers are drawn here.
    """

    batch_size: int
    seed: int
    epochs: int = 1
    first_epoch: int = 0
    first_step: int = 0
    shuffle_block: int = SHUFFLE_BLOCK
    quiet_steps: Sequence[tuple[int, int | None]] = ()
    augment: Sequence[augmentations.Augmentation] = ()


def train_dataset(
    data_dir: str,
    manifest: records.Manifest,
    profile: Profile,
    feed: Feed,
    share: Share = _WHOLE,
    shard_paths: Mapping[str, str] = _NOWHERE_ELSE,
) -> tf.data.Dataset:
    """Return crops of the train split as the profile draws them, epoch after epoch.

    Shards are permuted anew each epoch, 16 of them read in turn, and the next photo is drawn from a
    buffer of `shuffle_block` records. (A shard was filled in random order by data_prep.prepare.) A
    data set that fits in the buffer is shuffled perfectly. Of ILSVRC2012 in 1,024 shards of 1,251
    records, with a buffer of 8,192:

    - within an epoch a record comes at most 8,191 places before its turn to be read, and 99 of 100
      at most 8,192 * (ln 100 - 1) = 29,500 places after it; 98 of 100 records of a shard lie within
      47,000 places, 4% of the epoch;
    - from one epoch to the next a record travels anywhere, 0.33 epochs in the mean as in a perfect
      shuffle. Of the 8,128 pairs of photos in a batch of 128, 2.3 are together again in the next
      epoch, where a perfect shuffle has 0.8.

    Epochs are not blended, and an epoch's last partial batch is dropped, since its mean gradient
    would weigh its few photos more than others.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of that folder.
        profile: its `input_size` is the side of the crop; see `views.random_views`.
        feed: order, extent and random draws.
        share: part of each global batch to return, and in how many batches.
        shard_paths: paths of shards that are not to be read from `data_dir`, by name.

    Yields:
        ({"image": uint8 [B, S, S, 3], "offset": int32 [B, 2], "flip": uint8 [B],
        "noise": float32 [B, 3]}, label int64 [B], from 0), `share.batches` times a step,
        `train_steps(...)` steps an epoch. B is `share.of_replica(batch_size)`. With K
        augmentations the features also have "augment": float32 [B, K, 4].

    Raises:
        ValueError: the split has fewer records than a batch, the batch does not divide among the
            replicas, or the manifest lacks what is needed.
    """
    photo_format, batch_size, seed = manifest.photo_format, feed.batch_size, feed.seed
    steps = train_steps(manifest, batch_size)
    own, of_replica = share.of_worker(batch_size), share.of_replica(batch_size)
    paths = _paths(data_dir, manifest, "train", shard_paths)
    names = tf.constant(paths)

    def read(shard: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(tf.gather(names, shard))

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        view_seed = tf.stack([tf.constant(seed * 4 + _VIEWS, tf.int64), epoch])

        def add_draws(step: tf.Tensor, serialized: tf.Tensor) -> tuple:
            first = step * batch_size + share.worker * own
            offsets, flips, noise = views.random_views(
                view_seed, first, own, profile, photo_format.short_side
            )
            if feed.quiet_steps:
                is_quiet = _is_within(epoch * steps + step, feed.quiet_steps)
                noise = tf.where(is_quiet, tf.zeros_like(noise), noise)
            drawn = {"offset": offsets, "flip": tf.cast(flips, tf.uint8), "noise": noise}
            if feed.augment:
                drawn["augment"] = augmentations.draws(view_seed, first, own, feed.augment)
            return serialized, drawn

        def to_example(serialized: tf.Tensor, drawn: dict[str, tf.Tensor]) -> tuple:
            features = stored_photos.parse(serialized, photo_format)
            image = stored_photos.decode_part(
                features, photo_format, drawn["offset"], profile.input_size
            )
            label = features["image/class/label"] - manifest.label_offset
            return {"image": image, **drawn}, label

        serialized = record_order.epoch_of_records(
            len(paths), read, seed * 4 + _ORDER, epoch, feed.shuffle_block
        ).take(steps * batch_size)
        return (
            record_order.slices_of_worker(serialized, batch_size, share)
            .enumerate()
            .skip(tf.where(epoch == feed.first_epoch, tf.constant(feed.first_step, tf.int64), 0))
            .map(add_draws)
            .unbatch()
            .map(to_example, **_PARALLEL)
            .batch(of_replica, drop_remainder=True)
        )

    dataset = tf.data.Dataset.range(feed.first_epoch, feed.epochs).flat_map(one_epoch)
    left = steps * (feed.epochs - feed.first_epoch) - feed.first_step
    return _finish(dataset, left * share.batches)


def train_steps(manifest: records.Manifest, batch_size: int) -> int:
    """Return the number of whole batches in an epoch; ValueError if there is none."""
    photos = manifest.splits["train"].records
    if photos < batch_size:
        raise ValueError(
            f"batch_size {batch_size} is more than the {photos} photos of the train split; lower "
            "it, or prepare more photos"
        )
    return photos // batch_size


def check_stored_size(manifest: records.Manifest, profile: Profile) -> None:
    """Raise ValueError if stored photos are smaller than the network's input."""
    side = manifest.photo_format.short_side
    if side < profile.input_size:
        raise ValueError(
            f"the profile {profile.name} needs photos of at least {profile.input_size} pixels, but "
            f"the data set stores {side}; prepare it with a larger short_side"
        )


def eval_dataset(
    data_dir: str,
    manifest: records.Manifest,
    *,
    batch_size: int,
    split: str = "validation",
    share: Share = _WHOLE,
) -> tf.data.Dataset:
    """Return every photo of a split once, whole, in the order of the files.

    The last global batch is filled up with black photos of weight 0, so that every batch divides
    among the replicas and the weights of all shares sum to the number of records.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of that folder.
        batch_size: global, over all replicas.
        split: "validation" or "train".
        share: part of each global batch to return, and in how many batches.

    Yields:
        (image uint8 [B, stored, stored, 3], label int64 [B], from 0, weight float32 [B]),
        `share.batches` times a global batch. B is `share.of_replica(batch_size)`.

    Raises:
        ValueError: the split is empty or absent, the batch does not divide among the replicas, or
            the manifest lacks what is needed.
    """
    photos = manifest.splits[split].records if split in manifest.splits else 0
    if not photos:
        raise ValueError(f"{data_dir} has no photos in the split {split!r}; choose another split")
    photo_format = manifest.photo_format

    def to_example(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        features = stored_photos.parse(serialized, photo_format)
        image = stored_photos.decode(features, photo_format)
        return image, features["image/class/label"] - manifest.label_offset, tf.constant(1.0)

    fill = (
        tf.zeros([photo_format.short_side, photo_format.short_side, 3], tf.uint8),
        tf.zeros([], tf.int64),
        tf.zeros([], tf.float32),
    )
    own, steps = share.of_worker(batch_size), -(-photos // batch_size)
    whole, rest = divmod(photos, batch_size)
    own_photos = whole * own + min(max(rest - share.worker * own, 0), own)
    serialized = tf.data.Dataset.from_tensor_slices(_paths(data_dir, manifest, split)).interleave(
        tf.data.TFRecordDataset, cycle_length=1, **_PARALLEL
    )
    dataset = (
        record_order.slices_of_worker(serialized, batch_size, share)
        .unbatch()
        .map(to_example, **_PARALLEL)
        .concatenate(tf.data.Dataset.from_tensors(fill).repeat(steps * own - own_photos))
        .batch(share.of_replica(batch_size), drop_remainder=True)
    )
    return _finish(dataset, steps * share.batches)


def central_views(
    dataset: tf.data.Dataset,
    profile: Profile,
    augment: Sequence[augmentations.Augmentation] = (),
) -> tf.data.Dataset:
    """Return the central crop of each photo of an `eval_dataset`, as a `train_dataset` has it.

    It yields ({"image", "offset", "flip", "noise"}, label, weight), with no flip. The noise, and
    with the augmentations of a `Feed` the draws "augment", are zeros, which the model ignores
    outside of training: it takes one structure of both datasets.
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
        if augment:
            features["augment"] = tf.zeros(tf.stack([batch, *augmentations.shape(augment)]))
        return features, label, weight

    return dataset.map(to_view, **_PARALLEL)


@contextlib.contextmanager
def broken_data_is_one_line(
    data_dir: str,
    manifest: records.Manifest,
    split: str | None = None,
    shard_paths: Mapping[str, str] = _NOWHERE_ELSE,
) -> Iterator[None]:
    """Turn TensorFlow's error over a broken or missing record into one line that names it.

    TensorFlow says neither shard nor record, so the split, or with None each, is then looked
    through, up to the first record that is broken. The arguments are those of the datasets inside.

    Raises:
        ValueError: in place of TensorFlow's error.
    """
    try:
        yield
    except (
        tf.errors.DataLossError,  # a checksum
        tf.errors.NotFoundError,  # a shard
        tf.errors.InvalidArgumentError,  # a photo or an Example
    ) as error:
        reason = str(error.message).strip().splitlines()[0]
        where = f"{data_dir} cannot be read to its end ({reason})"
        for name in manifest.splits if split is None else [split]:
            if broken := broken_records.find(data_dir, manifest, name, 0, shard_paths):
                where = f"{data_dir} has a broken record: {broken[0]}"
                break
        raise ValueError(
            f"{where}; run data_prep.verify, which names all that is broken, and prepare again"
        ) from error


def _is_within(step: tf.Tensor, ranges: Sequence[tuple[int, int | None]]) -> tf.Tensor:
    """Return whether a step is in one of the ranges, bool scalar."""
    starts = tf.constant([start for start, _ in ranges], tf.int64)
    ends = tf.constant([tf.int64.max if end is None else end for _, end in ranges], tf.int64)
    return tf.reduce_any((starts <= step) & (step < ends))


def _paths(
    data_dir: str,
    manifest: records.Manifest,
    split: str,
    shard_paths: Mapping[str, str] = _NOWHERE_ELSE,
) -> Sequence[str]:
    """Return the paths of a split's shards, in the manifest's order."""
    names = [shard.name for shard in manifest.splits[split].shards]
    return [shard_paths.get(name, os.path.join(data_dir, name)) for name in names]


def _finish(dataset: tf.data.Dataset, batches: int) -> tf.data.Dataset:
    """Return the dataset, its order kept, its length known, and its next batch prefetched."""
    options = tf.data.Options()
    options.deterministic = True
    # One folder of shards, read by one process: batches are split among replicas, not files.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)

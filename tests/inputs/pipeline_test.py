import dataclasses
import io
import shutil

import damaged_shards
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_prep import records, tfrecord
from keras_alexnet.inputs import augmentations, pipeline
from keras_alexnet.inputs.record_order import Share
from keras_alexnet.network.profiles import PROFILES

PROFILE = PROFILES["paper"]
AUGMENT = augmentations.parse(["translate", "hsv_in_yiq"])


def read_photos(data_dir, split):
    """{pixels of a stored photo: label}, decoded by Pillow."""
    photos = []
    for path in sorted(data_dir.glob(f"{split}-*")):
        with open(path, "rb") as file:
            for payload in tfrecord.read_records(file):
                example = tfrecord.decode_example(payload)
                image = Image.open(io.BytesIO(example["image/encoded"]))
                photos.append((np.asarray(image), example["image/class/label"]))
    return photos


def take_epochs(data_dir, epochs=2, batch_size=8, **options):
    """Return the batches of some epochs, four steps each."""
    manifest = records.read_manifest(data_dir)
    profile, share = options.pop("profile", PROFILE), options.pop("share", Share())
    paths = options.pop("shard_paths", {})
    feed = pipeline.Feed(batch_size=batch_size, epochs=epochs, **{"seed": 3, **options})
    dataset = pipeline.train_dataset(str(data_dir), manifest, profile, feed, share, paths)
    batches = [(features, labels.numpy()) for features, labels in dataset]
    steps = pipeline.train_steps(manifest, batch_size)
    left = steps * (epochs - feed.first_epoch) - feed.first_step
    assert len(batches) == dataset.cardinality() == left * share.batches
    return batches, steps


def assert_equal_batches(batches, expected):
    for (features, labels), (other, other_labels) in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        assert features.keys() == other.keys()
        for name in features:
            np.testing.assert_array_equal(features[name], other[name], err_msg=name)


def joined(batches):
    """Return one batch of several: features by name, and "label"."""
    names = batches[0][0]
    columns = {name: np.concatenate([batch[name] for batch, _ in batches]) for name in names}
    return columns | {"label": np.concatenate([labels for _, labels in batches])}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_batches_and_another_seed_others(data_dir):
    first, _ = take_epochs(data_dir)
    second, _ = take_epochs(data_dir)
    other, _ = take_epochs(data_dir, seed=4)
    assert_equal_batches(first, second)
    assert any(
        not np.array_equal(a[0]["image"], b[0]["image"]) for a, b in zip(first, other, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", [(0, 0), (0, 3), (1, 0), (1, 2), (2, 3)])
def test_a_run_started_from_any_step_sees_what_the_whole_run_saw_there(data_dir, place):
    epoch, step = place
    options = {"epochs": 3, "augment": AUGMENT}
    whole, steps = take_epochs(data_dir, **options)
    resumed, _ = take_epochs(data_dir, first_epoch=epoch, first_step=step, **options)
    assert_equal_batches(resumed, whole[epoch * steps + step :])


@pytest.mark.slow
def test_augmentations_add_draws_and_change_nothing_else(data_dir):
    plain, _ = take_epochs(data_dir)
    augmented, _ = take_epochs(data_dir, augment=AUGMENT)
    assert {features.pop("augment").shape for features, _ in augmented} == {(8, 2, 4)}
    assert_equal_batches(augmented, plain)


@pytest.fixture
def one_undecodable(data_dir, tmp_path):
    """Return a copy with a photo that is none, under good checksums, and the step that meets it."""
    damaged = shutil.copytree(data_dir, tmp_path / "damaged")
    damaged_shards.replace_photo(damaged / "train-00001-of-00003", 3)
    dataset = pipeline.train_dataset(
        str(damaged), records.read_manifest(damaged), PROFILE, pipeline.Feed(batch_size=1, seed=3)
    )
    batches = iter(dataset)
    for place in range(38):
        try:
            next(batches)
        except tf.errors.InvalidArgumentError:
            return damaged, place
    raise AssertionError("the photo was decoded")


@pytest.mark.slow
def test_photos_of_steps_that_are_skipped_are_not_decoded(one_undecodable):
    damaged, place = one_undecodable
    with pytest.raises(tf.errors.InvalidArgumentError):
        take_epochs(damaged, epochs=1, batch_size=1, first_step=place)
    take_epochs(damaged, epochs=1, batch_size=1, first_step=place + 1)


@pytest.mark.slow
def test_photos_of_other_workers_are_not_decoded(one_undecodable):
    damaged, place = one_undecodable
    for worker in range(2):
        options = {"epochs": 1, "batch_size": 38, "share": Share(2, worker, 2)}
        if worker == place // 19:
            with pytest.raises(tf.errors.InvalidArgumentError):
                take_epochs(damaged, **options)
        else:
            take_epochs(damaged, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "workers"), [(2, 1), (2, 2), (4, 2), (8, 2)])
def test_the_shares_of_a_step_are_the_global_batch(data_dir, replicas, workers):
    options = {"first_step": 1, "profile": PROFILES["krizhevsky2012"], "augment": AUGMENT}
    whole, _ = take_epochs(data_dir, **options)
    parts = []
    for worker in range(workers):
        share = Share(replicas, worker, workers)
        parts.append(take_epochs(data_dir, share=share, **options)[0])
        assert all(len(labels) == 8 // replicas for _, labels in parts[-1])
    of_step = replicas // workers
    for step, batch in enumerate(whole):
        mine = slice(step * of_step, (step + 1) * of_step)
        together = joined([replica for part in parts for replica in part[mine]])
        assert_equal_batches([(together, together.pop("label"))], [batch])


@pytest.mark.slow
def test_quiet_steps_counted_from_epoch_0_have_no_noise_and_all_else_as_ever(data_dir):
    options = {"epochs": 3, "first_step": 1}  # steps 1 ... 11
    loud, _ = take_epochs(data_dir, **options)
    quiet, _ = take_epochs(data_dir, quiet_steps=[(1, 3), (6, 7), (10, None)], **options)
    noises = [features.pop("noise").numpy() for features, _ in quiet]
    expected = [features.pop("noise").numpy() for features, _ in loud]
    assert all(noise.any(axis=1).all() for noise in expected)
    for step in (1, 2, 6, 10, 11):
        expected[step - 1][:] = 0
    np.testing.assert_array_equal(noises, expected)
    assert_equal_batches(quiet, loud)


@pytest.mark.slow
def test_a_chunk_of_photos_shares_crop_and_flip_across_batches(data_dir):
    chunked = dataclasses.replace(PROFILE, crop_chunk=3)
    columns = joined(take_epochs(data_dir, epochs=1, profile=chunked)[0])
    views = np.column_stack([columns["offset"], columns["flip"]])
    for chunk in range(0, 32, 3):
        assert len(np.unique(views[chunk : chunk + 3], axis=0)) == 1
    assert len(np.unique(views, axis=0)) > 8  # of 11 chunks
    alone = joined(take_epochs(data_dir, epochs=1)[0])
    np.testing.assert_array_equal(columns["noise"], alone["noise"])
    np.testing.assert_array_equal(columns["label"], alone["label"])


@pytest.mark.slow
def test_a_shard_may_be_elsewhere(data_dir, tmp_path):
    expected, _ = take_epochs(data_dir)
    copy = shutil.copytree(data_dir, tmp_path / "copy")
    name = "train-00002-of-00003"
    (copy / name).rename(tmp_path / "elsewhere")
    batches, _ = take_epochs(copy, shard_paths={name: str(tmp_path / "elsewhere")})
    assert_equal_batches(batches, expected)


def number_of(crop, offset, label, photos):
    """Return the number of the photo that a crop is of."""
    (y, x), size = offset, len(crop)
    differences = [
        np.abs(photo[y : y + size, x : x + size].astype(int) - crop).mean() for photo, _ in photos
    ]
    number = int(np.argmin(differences))
    # Two JPEG decoders, and chroma at the crop's edge: a grey level at most.
    assert differences[number] < 1.0
    assert label == photos[number][1]
    return number


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "seed"])  # "seed" draws nothing
def test_an_epoch_sees_each_photo_at_most_once_and_epochs_differ_in_order(data_dir, name):
    photos = read_photos(data_dir, "train")
    batches, steps = take_epochs(data_dir, epochs=2, profile=PROFILES[name])
    orders = []
    for epoch in range(2):
        columns = joined(batches[epoch * steps : (epoch + 1) * steps])
        assert columns["image"].dtype == np.uint8
        if name == "seed":
            np.testing.assert_array_equal(columns["offset"], np.full([32, 2], 14))
            assert not columns["flip"].any()
        of_crops = (columns[key] for key in ("image", "offset", "label"))
        orders.append([number_of(*crop, photos) for crop in zip(*of_crops, strict=True)])
        assert len(set(orders[-1])) == steps * 8
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("batch_size", "replicas", "workers"),
    [(1, 1, 1), (4, 1, 1), (10, 1, 1), (16, 1, 1), (8, 4, 1), (8, 2, 2), (16, 4, 2), (8, 8, 4)],
)
def test_evaluation_counts_every_photo_once(data_dir, batch_size, replicas, workers):
    photos = read_photos(data_dir, "validation")
    manifest, seen = records.read_manifest(data_dir), []
    for worker in range(workers):
        share = Share(replicas, worker, workers)
        dataset = pipeline.eval_dataset(str(data_dir), manifest, batch_size=batch_size, share=share)
        batches = list(dataset)
        steps = -(-len(photos) // batch_size)
        assert len(batches) == dataset.cardinality() == steps * share.batches
        assert all(len(labels) == batch_size // replicas for _, labels, _ in batches)
        columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
        # [steps, photos of the worker, ...]
        seen.append([c.reshape(steps, batch_size // workers, *c.shape[1:]) for c in columns])
    images, labels, weights = (
        np.concatenate(parts, axis=1).reshape(-1, *parts[0].shape[2:])
        for parts in zip(*seen, strict=True)
    )
    np.testing.assert_array_equal(weights, np.arange(len(weights)) < len(photos))
    assert not images[len(photos) :].any()
    np.testing.assert_array_equal(labels[: len(photos)], [label for _, label in photos])
    for image, (photo, _) in zip(images, photos, strict=False):
        assert np.abs(image.astype(int) - photo).mean() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_validation_is_the_centre_in_the_structure_of_training(data_dir, name):
    manifest, profile = records.read_manifest(data_dir), PROFILES[name]
    train = pipeline.train_dataset(str(data_dir), manifest, profile, pipeline.Feed(5, seed=0))
    stored = pipeline.eval_dataset(str(data_dir), manifest, batch_size=5)
    validation = pipeline.central_views(stored, profile)
    specs, of_validation = (
        {key: (spec.shape[1:], spec.dtype) for key, spec in data.element_spec[0].items()}
        for data in (train, validation)
    )
    assert specs == of_validation
    size = profile.input_size
    margin = (256 - size) // 2
    centre = slice(margin, margin + size)
    assert specs["image"] == ([size, size, 3], tf.uint8)
    for (image, *_), (features, _, _) in zip(stored, validation, strict=True):
        np.testing.assert_array_equal(features["image"], image[:, centre, centre])
        np.testing.assert_array_equal(features["offset"], np.full([5, 2], margin))
        assert not features["flip"].numpy().any()
        assert not features["noise"].numpy().any()


def test_labels_are_counted_from_0_whatever_the_offset(data_dir):
    manifest = dataclasses.replace(records.read_manifest(data_dir), label_offset=1)
    batches = pipeline.eval_dataset(str(data_dir), manifest, batch_size=10)
    labels = np.concatenate([labels for _, labels, _ in batches])
    photos = read_photos(data_dir, "validation")
    np.testing.assert_array_equal(labels, [label - 1 for _, label in photos])


def test_what_cannot_be_read_is_refused(data_dir):
    manifest = records.read_manifest(data_dir)
    unknown = dataclasses.replace(manifest, recipe={})

    def evaluate(manifest=manifest, **options):
        return pipeline.eval_dataset(str(data_dir), manifest, **{"batch_size": 8, **options})

    for read, message in (
        (lambda: take_epochs(data_dir, batch_size=1000), "1000 is more than the 38 photos"),
        (lambda: take_epochs(data_dir, share=Share(3)), r"batch_size 8 .* 3 replicas"),
        (lambda: evaluate(share=Share(3)), r"batch_size 8 .* 3 replicas"),
        (lambda: evaluate(split="test"), "no photos in the split 'test'"),
        (lambda: evaluate(unknown), "how the photos are stored"),
        (lambda: pipeline.check_stored_size(unknown, PROFILE), "how the photos are stored"),
    ):
        with pytest.raises(ValueError, match=message):
            read()


@pytest.mark.slow
def test_a_broken_record_is_named(one_undecodable):
    damaged, _ = one_undecodable
    manifest = records.read_manifest(damaged)
    message = r"train-00001-of-00003, record 3 at byte \d+: a JPEG is required.*data_prep.verify"
    for split in ("train", None):
        with (
            pytest.raises(ValueError, match=message) as raised,
            pipeline.broken_data_is_one_line(str(damaged), manifest, split),
        ):
            take_epochs(damaged)
        assert "\n" not in str(raised.value)


def test_a_missing_shard_is_named(data_dir, tmp_path):
    damaged = shutil.copytree(data_dir, tmp_path / "damaged")
    (damaged / "validation-00001-of-00002").unlink()
    manifest = records.read_manifest(damaged)
    with (
        pytest.raises(ValueError, match=r"validation-00001-of-00002, record 0 .* whole shard is"),
        pipeline.broken_data_is_one_line(str(damaged), manifest, "validation"),
    ):
        list(pipeline.eval_dataset(str(damaged), manifest, batch_size=2))


def test_records_that_are_elsewhere_are_looked_for_there(one_undecodable, data_dir, tmp_path):
    damaged, _ = one_undecodable
    name = "train-00001-of-00003"
    paths = {name: str(data_dir / name)}
    with (
        pytest.raises(ValueError, match=r"cannot be read to its end \(not of the data\); run"),
        pipeline.broken_data_is_one_line(
            str(damaged), records.read_manifest(damaged), "train", paths
        ),
    ):
        raise tf.errors.DataLossError(None, None, "not of the data\nmore")

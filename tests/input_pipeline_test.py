import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from data_prep import records, tfrecord
from data_prep.command_line import UserError
from keras_alexnet import input_pipeline
from keras_alexnet.profiles import PROFILES

PROFILE = PROFILES["paper"]


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


def take_epochs(data_dir, first_epoch=0, epochs=2, seed=3, batch_size=8, profile=PROFILE):
    manifest = records.read_manifest(data_dir)
    dataset = input_pipeline.train_dataset(
        str(data_dir),
        manifest,
        profile=profile,
        batch_size=batch_size,
        seed=seed,
        first_epoch=first_epoch,
        epochs=epochs,
    )
    batches = [(features, labels.numpy()) for features, labels in dataset]
    steps = input_pipeline.train_steps(manifest, batch_size)
    assert len(batches) == steps * (epochs - first_epoch)
    return batches, steps


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(data_dir):
    first, _ = take_epochs(data_dir)
    second, _ = take_epochs(data_dir)
    other, _ = take_epochs(data_dir, seed=4)
    for (features, labels), (features2, labels2) in zip(first, second, strict=True):
        np.testing.assert_array_equal(labels, labels2)
        for name in features:
            np.testing.assert_array_equal(features[name], features2[name])
    assert any(
        not np.array_equal(a[0]["image"], b[0]["image"]) for a, b in zip(first, other, strict=True)
    )


def test_a_run_started_from_epoch_one_sees_what_the_whole_run_saw_there(data_dir):
    whole, steps = take_epochs(data_dir)
    resumed, _ = take_epochs(data_dir, first_epoch=1)
    for (features, labels), (features2, labels2) in zip(whole[steps:], resumed, strict=True):
        np.testing.assert_array_equal(labels, labels2)
        for name in features:
            np.testing.assert_array_equal(features[name], features2[name])


def test_every_crop_is_the_part_of_a_stored_photo_that_its_offset_says(data_dir):
    photos = read_photos(data_dir, "train")
    batches, _ = take_epochs(data_dir, epochs=1)
    for features, labels in batches:
        crops, offsets = features["image"].numpy(), features["offset"].numpy()
        assert crops.dtype == np.uint8
        for crop, (y, x), label in zip(crops, offsets, labels, strict=True):
            differences = [
                np.abs(photo[y : y + 224, x : x + 224].astype(int) - crop).mean()
                for photo, its_label in photos
                if its_label == label
            ]
            # Two JPEG decoders, and chroma at the crop's edge: a grey level at most.
            assert min(differences) < 1.0


def test_an_epoch_sees_each_photo_at_most_once_and_epochs_differ_in_order(data_dir):
    photos = read_photos(data_dir, "train")
    batches, steps = take_epochs(data_dir, epochs=2)
    orders = []
    for epoch in range(2):
        order = []
        for features, _ in batches[epoch * steps : (epoch + 1) * steps]:
            for crop, (y, x) in zip(
                features["image"].numpy(), features["offset"].numpy(), strict=True
            ):
                differences = [
                    np.abs(photo[y : y + 224, x : x + 224].astype(int) - crop).mean()
                    for photo, _ in photos
                ]
                order.append(int(np.argmin(differences)))
        assert len(set(order)) == len(order) == steps * 8
        orders.append(order)
    assert orders[0] != orders[1]


def test_a_profile_that_draws_nothing_sees_the_same_centre_every_epoch(data_dir):
    photos = read_photos(data_dir, "train")
    batches, steps = take_epochs(data_dir, epochs=2, profile=PROFILES["seed"])
    seen = [[], []]
    for number, (features, _) in enumerate(batches):
        np.testing.assert_array_equal(features["offset"], np.full([8, 2], 14))
        assert not features["flip"].numpy().any()
        seen[number // steps] += list(features["image"].numpy())
    for crops in seen:
        for crop in crops:
            differences = [
                np.abs(photo[14:241, 14:241].astype(int) - crop).mean() for photo, _ in photos
            ]
            assert min(differences) < 1.0
    # 32 of 38 photos an epoch: the same bytes for those that both epochs saw.
    first, second = ({crop.tobytes() for crop in crops} for crops in seen)
    assert len(first | second) <= len(photos)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 16])
def test_evaluation_counts_every_photo_once(data_dir, batch_size):
    photos = read_photos(data_dir, "validation")
    dataset = input_pipeline.eval_dataset(
        str(data_dir), records.read_manifest(data_dir), batch_size=batch_size
    )
    images, labels, weights = (np.concatenate(column) for column in zip(*dataset, strict=True))
    assert len(images) % batch_size == 0
    assert weights.sum() == len(photos)
    assert not images[weights == 0].any()
    for image, label, (photo, expected) in zip(images, labels, photos, strict=False):
        assert label == expected
        assert np.abs(image.astype(int) - photo).mean() < 0.5


@pytest.mark.parametrize("name", PROFILES)
def test_training_and_validation_have_one_structure_whatever_the_profile(data_dir, name):
    manifest, profile = records.read_manifest(data_dir), PROFILES[name]
    train = input_pipeline.train_dataset(
        str(data_dir), manifest, profile=profile, batch_size=5, seed=0
    )
    stored = input_pipeline.eval_dataset(str(data_dir), manifest, batch_size=5)
    validation = input_pipeline.central_views(stored, profile)
    shapes = {key: spec.shape[1:] for key, spec in train.element_spec[0].items()}
    assert shapes == {key: spec.shape[1:] for key, spec in validation.element_spec[0].items()}
    types = {key: spec.dtype for key, spec in train.element_spec[0].items()}
    assert types == {key: spec.dtype for key, spec in validation.element_spec[0].items()}
    size = profile.input_size
    assert shapes == {"image": [size, size, 3], "offset": [2], "flip": [], "noise": [3]}


def test_central_views_are_the_centre_without_flip_or_noise(data_dir):
    manifest = records.read_manifest(data_dir)
    stored = input_pipeline.eval_dataset(str(data_dir), manifest, batch_size=5)
    for (image, *_), (features, _, _) in zip(
        stored, input_pipeline.central_views(stored, PROFILE), strict=True
    ):
        np.testing.assert_array_equal(features["image"], image[:, 16:240, 16:240])
        np.testing.assert_array_equal(features["offset"], np.full([5, 2], 16))
        assert not features["flip"].numpy().any()
        assert not features["noise"].numpy().any()


def test_a_batch_larger_than_the_split_is_refused(data_dir):
    with pytest.raises(UserError, match="at least one batch is needed: --batch_size=1000"):
        take_epochs(data_dir, batch_size=1000)


def test_an_empty_split_is_refused(data_dir):
    manifest = records.read_manifest(data_dir)
    empty = dataclasses.replace(manifest, splits={})
    with pytest.raises(UserError, match="split 'validation' are needed"):
        input_pipeline.eval_dataset(str(data_dir), empty, batch_size=1)


def test_labels_are_counted_from_0_whatever_the_offset(data_dir):
    manifest = dataclasses.replace(records.read_manifest(data_dir), label_offset=1)
    batches = input_pipeline.eval_dataset(str(data_dir), manifest, batch_size=10)
    labels = np.concatenate([labels for _, labels, _ in batches])
    photos = read_photos(data_dir, "validation")
    np.testing.assert_array_equal(labels, [label - 1 for _, label in photos])


def test_a_manifest_that_does_not_tell_how_photos_are_stored_is_refused(data_dir):
    manifest = dataclasses.replace(records.read_manifest(data_dir), recipe={})
    for check in (
        lambda: input_pipeline.check_stored_size(manifest, PROFILE),
        lambda: input_pipeline.eval_dataset(str(data_dir), manifest, batch_size=1),
    ):
        with pytest.raises(UserError, match="must tell how the photos are stored"):
            check()

import dataclasses

import numpy as np
import pytest

from data_prep import records
from keras_alexnet.preflight_checks import labels

CLASSES = tuple(records.ClassName(f"n{place:02d}", f"class {place}") for place in range(4))
MANIFEST = records.Manifest(recipe={}, classes=CLASSES, splits={}, repairs={}, files={})
FILE = records.labels_text(CLASSES)


def striped_photos(places, seed):
    """Draw stripes as wide as the class' place + 2 pixels, in any colour, under noise."""
    random = np.random.default_rng(seed)
    along = np.arange(labels.THUMBNAIL)
    photos = []
    for place in places:
        width, phase = place + 2, random.integers(0, 20)
        stripes = ((along + phase) // width % 2)[:, None, None] * random.uniform(60, 120, 3)
        noise = random.normal(0, 20, [labels.THUMBNAIL, labels.THUMBNAIL, 3])
        photos.append(np.clip(60 + stripes + noise, 0, 255))
    return np.stack(photos).astype(np.uint8)


def a_sample(count, seed):
    places = np.random.default_rng(seed).integers(0, len(CLASSES), count)
    return labels.Sample(
        places.astype(np.int64), [CLASSES[p].wnid for p in places], striped_photos(places, seed)
    )


@pytest.fixture(scope="module")
def train():
    return a_sample(600, seed=1)


@pytest.fixture(scope="module")
def validation():
    return a_sample(200, seed=2)


def check(train, validation, file=FILE):
    return labels.check(train, validation, MANIFEST, file)


def with_labels(split, new_labels):
    return dataclasses.replace(split, labels=new_labels)


def test_right_labels(train, validation):
    figures = check(train, validation)
    assert figures["labels_read"] == 800
    for name in ("labels_out_of_range", "labels_of_other_synsets", "labels_file_differs"):
        assert figures[name] == 0, name
    assert figures["classes_missing"] == 0
    counts = np.bincount(train.labels) / 600
    assert figures["class_entropy"] == pytest.approx(-(counts * np.log(counts)).sum())
    assert figures["label_information"] > 8
    assert figures["validation_label_information"] > 8
    assert check(train, validation, FILE.replace("n00", "n99"))["labels_file_differs"] == 1


def test_labels_from_1(train, validation):
    figures = check(*(with_labels(split, split.labels + 1) for split in (train, validation)))
    last = np.mean(np.concatenate([train.labels, validation.labels]) == 3)
    assert figures["labels_out_of_range"] == pytest.approx(last)
    assert figures["labels_of_other_synsets"] == 1
    assert figures["classes_missing"] == 0.25  # label 0 is never seen


def test_labels_of_train_moved_by_one_class(train, validation):
    """The synsets tell; and the classifier that learned train fails on validation."""
    figures = check(with_labels(train, (train.labels + 1) % 4), validation)
    assert figures["labels_of_other_synsets"] == pytest.approx(0.75)
    assert figures["label_information"] > 8
    assert figures["validation_label_information"] < 2


def test_shuffled_labels(train, validation):
    order = np.random.default_rng(3).permutation(600)
    shuffled = labels.Sample(
        train.labels[order], [train.synsets[place] for place in order], train.thumbnails
    )
    figures = check(shuffled, validation)
    assert figures["labels_of_other_synsets"] == 0
    assert abs(figures["label_information"]) < 3
    assert abs(figures["validation_label_information"]) < 3


def test_a_few_photos_prove_nothing(train, validation):
    few = labels.Sample(train.labels[:30], train.synsets[:30], train.thumbnails[:30])
    figures = check(few, validation)
    assert "label_information" not in figures
    assert figures["classes_missing"] == 0  # 30 of 4 classes would not show it


@pytest.mark.parametrize("classes", [2, 7, 100])
def test_the_probe_of_random_labels_is_standard_normal(classes):
    random = np.random.default_rng(classes)
    x = random.normal(size=[160, 10]).astype(np.float32)
    drawn = random.integers(0, classes, [100, 160])
    scores = [labels.probe(x[:80], y[:80], x[80:], y[80:], classes) for y in drawn]
    assert abs(np.mean(scores)) < 0.4
    assert 0.75 < np.std(scores) < 1.25


def test_the_probe_of_labels_that_are_in_the_features():
    answers = np.random.default_rng(0).integers(0, 3, 200)
    features = np.eye(3, dtype=np.float32)[answers]
    score = labels.probe(features[:100], answers[:100], features[100:], answers[100:], 3)
    # Always the first of three: place 5/6, against 1/2 with a variance of (1 - 1/9) / 12.
    assert score == pytest.approx((5 / 6 - 1 / 2) / np.sqrt((1 - 1 / 9) / 12 / 100), rel=1e-6)


@pytest.mark.slow
def test_a_sample_is_the_records_own(data_dir):
    manifest = records.read_manifest(data_dir)
    read = labels.read(str(data_dir), manifest, "train", 1000)
    assert len(read.labels) == len(read.synsets) == manifest.splits["train"].records
    assert read.thumbnails.shape == (len(read.labels), 64, 64, 3)
    assert {manifest.classes[label].wnid for label in read.labels} == set(read.synsets)
    assert len(labels.read(str(data_dir), manifest, "validation", 4).labels) == 4

import re

import pytest

from data_prep import records
from data_prep.sources import ground_truth
from data_prep.sources.reference import Reference

CLASSES = tuple(records.ClassName(wnid, wnid) for wnid in ("n01", "n02"))
PLACES = {"train": "/in/train", "validation": "/in/val"}


def photos(train, validation):
    """References, by label."""
    return [
        Reference(split, f"{split}{n}", "/x", 0, 1, f"{n}", label, 0)
        for split, labels in (("train", train), ("validation", validation))
        for n, label in enumerate(labels)
    ]


@pytest.mark.parametrize("train_images", [None, {"n01": 2, "n02": 1}])
def test_photos_pass_as_they_are(train_images):
    given = photos([0, 1, 0], [1])
    passed = ground_truth.checked(given, CLASSES, places=PLACES, train_images=train_images)
    assert list(passed) == given


def test_photos_pass_one_at_a_time():
    def endless():
        while True:
            yield from photos([0], [])

    passed = ground_truth.checked(endless(), CLASSES, places=PLACES)
    assert [next(passed).label for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("train", "validation", "train_images", "text"),
    [
        (
            [0, 0],
            [1],
            None,
            "each of the 2 classes needs train photos in /in/train; n02 has none (1 in all); add "
            "some, or remove the class",
        ),
        ([], [1], None, "n01 has none (2 in all)"),
        ([0, 1], [], None, "validation photos are needed in /in/val; there are none"),
        (
            [0, 1, 1],
            [1],
            {"n01": 2, "n02": 2},
            "/in/train must hold as many photos of each class as the devkit counts; n01 has 1, "
            "not 2 (1 in all); fetch the release again, or prepare a part of it with "
            "the source class_folders",
        ),
        ([0, 1, 1], [1], {"n01": 2, "n02": 1}, "n01 has 1, not 2 (2 in all)"),
    ],
)
def test_too_few_photos_are_refused_at_the_end(train, validation, train_images, text):
    given = photos(train, validation)
    passed = ground_truth.checked(given, CLASSES, places=PLACES, train_images=train_images)
    assert [next(passed) for _ in given] == given
    with pytest.raises(ValueError, match=re.escape(text)):
        next(passed)


def test_no_classes_have_no_photos():
    with pytest.raises(ValueError, match="train photos are needed in /in/train; there are none"):
        list(ground_truth.checked([], (), places=PLACES))

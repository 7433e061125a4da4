import re

import pytest

from data_prep.sources import ground_truth
from data_prep.sources.ground_truth import UNLABELLED
from data_prep.sources.reference import Reference

TRUTH = {1: "n02", 2: "n01", 3: "n02"}
LABELS = {"n01": 0, "n02": 1}


def photo(number, label=UNLABELLED, folder=""):
    name = f"ILSVRC2012_val_{number:08d}.JPEG"
    return Reference("validation", folder + name, "/x", 0, 1, name, label, 0)


def labelled(photos):
    return list(ground_truth.labelled(photos, TRUTH, LABELS, "/in/val"))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ILSVRC2012_val_00048981.JPEG", 48981),
        ("ILSVRC2012_val_00048981", 48981),
        ("ILSVRC2012_val_00000007.tar.gz", 7),
        ("ILSVRC2012_val_7.JPEG", None),
        ("ILSVRC2012_val_000000071.JPEG", None),
        ("ILSVRC2012_val_0000000\u0661.JPEG", None),
        ("xILSVRC2012_val_00000001.JPEG", None),
        ("ILSVRC2012_test_00000001.JPEG", None),
        ("", None),
    ],
)
def test_the_number_is_in_the_name(name, number):
    assert ground_truth.photo_number(name) == number


def test_numbers_decide_and_order_does_not():
    forth = labelled([photo(1), photo(2), photo(3)])
    back = labelled([photo(3), photo(2), photo(1)])
    assert [p.label for p in forth] == [1, 0, 1]
    assert back == forth[::-1]
    assert forth[0] == photo(1)._replace(label=1)


def test_folders_that_agree_are_kept():
    photos = [photo(1, 1), photo(2, 0), photo(3, 1)]
    assert labelled(photos) == photos


@pytest.mark.parametrize(
    ("photos", "text"),
    [
        (
            [photo(1), photo(4)],
            "each photo in /in/val must be called ILSVRC2012_val_00000001.JPEG and so on, to one "
            "of the 3 lines of the ground truth; ILSVRC2012_val_00000004.JPEG has no line there; "
            "remove it, or fetch the ground truth again",
        ),
        ([photo(1)._replace(filename="valprep.sh")], "valprep.sh has no line there"),
        (
            [photo(1), photo(1)],
            "each photo in /in/val must be there once; ILSVRC2012_val_00000001.JPEG is there "
            "twice; remove one",
        ),
        (
            [photo(3), photo(1)],
            "/in/val must hold a photo for each line of the ground truth; there is no "
            "ILSVRC2012_val_00000002 (2 photos for 3 lines); fetch it again",
        ),
        (
            [photo(1, 0, "n01/")],
            "each photo in /in/val must lie in the folder of its class; "
            "n01/ILSVRC2012_val_00000001.JPEG is a n02 in the ground truth; move it there",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(photos, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        labelled(photos)


def test_one_ground_truth_is_believed_and_none_is_none():
    assert ground_truth.agreed({}) is None
    assert ground_truth.agreed({"/a": TRUTH}) == TRUTH
    assert ground_truth.agreed({"/a": TRUTH, "/b": dict(reversed(TRUTH.items()))}) == TRUTH


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            {1: "n02", 2: "n02", 3: "n01"},
            "/a and /b must say the same of each validation photo; of ILSVRC2012_val_00000002 "
            "they say n01 and n02 (2 such photos); remove the wrong one",
        ),
        ({1: "n02", 2: "n01"}, "of ILSVRC2012_val_00000003 they say n02 and nothing (1 such"),
        ({**TRUTH, 4: "n01"}, "of ILSVRC2012_val_00000004 they say nothing and n01 (1 such"),
    ],
)
def test_ground_truths_that_differ_are_refused(other, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        ground_truth.agreed({"/a": TRUTH, "/b": other})

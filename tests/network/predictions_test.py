import numpy as np
import pytest

from data_prep.records import ClassName
from keras_alexnet import decode_predictions

CLASSES = tuple(ClassName(wnid=f"n0000000{i}", name=name) for i, name in enumerate("abcd"))


def test_the_best_classes_come_first_with_name_and_score():
    scores = np.array([[0.1, 0.2, 0.4, 0.3], [0.7, 0.1, 0.0, 0.2]], np.float32)
    first, second = decode_predictions(scores, CLASSES, top=2)
    assert first == [
        ("n00000002", "c", pytest.approx(0.4)),
        ("n00000003", "d", pytest.approx(0.3)),
    ]
    assert [name for _, name, _ in second] == ["a", "d"]
    assert type(first[0][2]) is float, "a float of Python, which json knows"


def test_equal_scores_are_in_order_of_label():
    ((a, b, c),) = decode_predictions(np.array([[0.2, 0.3, 0.2, 0.3]]), CLASSES, top=3)
    assert [a[1], b[1], c[1]] == ["b", "d", "a"]
    many = [ClassName(wnid=str(i), name=str(i)) for i in range(1000)]
    (best,) = decode_predictions(np.tile([[0.0005, 0.0015]], 500), many)
    assert [wnid for wnid, _, _ in best] == ["1", "3", "5", "7", "9"]


def test_five_are_shown_or_all_of_fewer():
    assert [len(photo) for photo in decode_predictions(np.zeros([3, 4]), CLASSES)] == [4] * 3
    many = [ClassName(wnid=str(i), name=str(i)) for i in range(9)]
    assert len(decode_predictions(np.zeros([1, 9]), many)[0]) == 5
    assert decode_predictions(np.zeros([0, 4]), CLASSES) == []


@pytest.mark.parametrize("shape", [(4,), (1, 3), (1, 4, 1)])
def test_scores_that_do_not_fit_the_classes(shape):
    with pytest.raises(ValueError, match=r"must be of shape \[N, 4\].*Received: shape \("):
        decode_predictions(np.zeros(shape), CLASSES)


@pytest.mark.slow
def test_top_is_at_least_1():
    with pytest.raises(ValueError, match=r"top must be at least 1. Received: 0"):
        decode_predictions(np.zeros([1, 4]), CLASSES, top=0)

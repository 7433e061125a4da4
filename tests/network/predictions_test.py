import numpy as np
import pytest
import tensorflow as tf

from data_prep.records import ClassName
from keras_alexnet import decode_predictions
from keras_alexnet.network.predictions import NOT_A_NUMBER, label_ranks

CLASSES = tuple(ClassName(wnid=f"n0000000{i}", name=name) for i, name in enumerate("abcd"))


def sorted_ranks(scores, labels):
    """Return the place of the right class in NumPy's stable sort, best first."""
    order = np.argsort(-np.asarray(scores, np.float64), axis=1, kind="stable")
    ranks = np.argmax(order == labels[:, None], axis=1)
    is_nan = np.isnan(np.asarray(scores, np.float64)[np.arange(len(labels)), labels])
    return np.where(is_nan, NOT_A_NUMBER, ranks)


def drawn(count, classes, dtype):
    random = np.random.default_rng(0)
    scores = tf.cast(random.normal(0, 3, (count, classes)), dtype).numpy()
    return scores, random.integers(0, classes, count)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_ranks_are_those_of_a_stable_sort(dtype):
    scores, labels = drawn(300, 1000, dtype)
    if dtype == "bfloat16":
        assert all(len(np.unique(row)) < 990 for row in scores.astype(np.float32)), "no ties"
    any_size = [tf.TensorSpec([None, None], dtype), tf.TensorSpec([None], tf.int64)]
    for function in (label_ranks, tf.function(label_ranks, input_signature=any_size)):
        ranks = function(scores, labels)
        assert ranks.dtype == tf.int32
        np.testing.assert_array_equal(ranks, sorted_ranks(scores, labels))


def test_of_equal_scores_the_lower_label_comes_first():
    labels = np.arange(6)
    np.testing.assert_array_equal(label_ranks(np.zeros((6, 6), np.float32), labels), labels)
    scores = np.float32([[2, 3, 2, 3, 2, 1]] * 6)
    np.testing.assert_array_equal(label_ranks(scores, labels), [2, 0, 3, 1, 4, 5])


def test_a_score_that_is_not_a_number_is_never_right():
    scores, labels = drawn(200, 50, np.float32)
    random = np.random.default_rng(1)
    scores[random.random(scores.shape) < 0.2] = np.nan
    scores[random.random(scores.shape) < 0.1] = np.inf
    scores[random.random(scores.shape) < 0.1] = -np.inf
    scores[0] = np.nan
    ranks = label_ranks(scores, labels).numpy()
    np.testing.assert_array_equal(ranks, sorted_ranks(scores, labels))
    assert ranks[0] == NOT_A_NUMBER > 50
    assert (ranks >= 50).sum() == np.isnan(scores[np.arange(200), labels]).sum()


def test_the_best_classes_come_first_with_name_and_score():
    scores = np.array([[0.1, 0.2, 0.4, 0.3], [0.7, 0.1, 0.0, 0.2]], np.float32)
    first, second = decode_predictions(scores, CLASSES, top=2)
    assert first == [("n00000002", "c", scores[0, 2]), ("n00000003", "d", scores[0, 3])]
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
    with pytest.raises(ValueError, match=r"top must be at least 1. Received: 0"):
        decode_predictions(np.zeros([1, 4]), CLASSES, top=0)

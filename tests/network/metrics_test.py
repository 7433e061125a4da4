import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.network.predictions import NOT_A_NUMBER, label_ranks


def sorted_ranks(scores, labels):
    """Where NumPy's stable sort, best first, puts the right class."""
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
    ranks = label_ranks(scores, labels)
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


@pytest.mark.slow
def test_in_a_graph_of_unknown_batch_and_classes():
    scores, labels = drawn(20, 30, np.float32)
    signature = [tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int64)]
    compiled = tf.function(label_ranks, input_signature=signature)
    np.testing.assert_array_equal(compiled(scores, labels), sorted_ranks(scores, labels))

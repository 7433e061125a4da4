"""Class names and ranks of scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_prep.records import ClassName

if TYPE_CHECKING:
    import tensorflow as tf

# A rank larger than any k: never counted as a hit, even when there are fewer classes than k.
NOT_A_NUMBER = 2**31 - 1


def decode_predictions(
    predictions: np.ndarray, classes: Sequence[ClassName], top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """Return the best classes of each photo, as `keras.applications` does.

    Args:
        predictions: [N, classes], such as `model.predict` returns.
        classes: in the order of their labels (`data_prep.records.read_manifest(...).classes`).
        top: number of classes per photo, at least 1; all, if there are fewer.

    Returns:
        A list per photo of (wnid, name, score), the best first; of equal scores the lower label.

    Raises:
        ValueError: the shape does not fit the classes, or `top` is not above 0.
    """
    scores = np.asarray(predictions)
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise ValueError(
            f"predictions must be of shape [N, {len(classes)}], a score per class. "
            f"Received: shape {scores.shape}. Give the classes the network was trained with, and "
            "a batch, even of one photo."
        )
    if top < 1:
        raise ValueError(f"top must be at least 1. Received: {top!r}.")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(classes[label].wnid, classes[label].name, float(row[label])) for label in labels]
        for row, labels in zip(scores, best, strict=True)
    ]


def label_ranks(logits: "tf.Tensor", labels: "tf.Tensor") -> "tf.Tensor":
    """Return how many classes come before the right one: below k, it is among the first k.

    A class comes before another if its score is higher, or the same and its label lower: the order
    of `decode_predictions`, in which one class alone is at each rank. `tf.math.in_top_k` counts all
    of equal classes as hits, so that a dead network, equal scores for all, is always right there.

    Args:
        logits: [N, C] scores: logits or softmax, of any floating type.
        labels: int [N], from 0, each below C.

    Returns:
        int32 [N], from 0 to C - 1; `NOT_A_NUMBER` where the right class has NaN. The NaN of another
        class comes after all numbers.
    """
    import tensorflow as tf  # here: `decode_predictions` is for NumPy, and loads in no time

    classes = tf.shape(logits)[1]
    labels = tf.cast(labels, tf.int32)[:, None]
    right = tf.gather(logits, labels, batch_dims=1)  # [N, 1]
    is_before = (logits > right) | ((logits == right) & (tf.range(classes) < labels))
    ranks = tf.reduce_sum(tf.cast(is_before, tf.int32), axis=1)
    return tf.where(tf.math.is_nan(right[:, 0]), NOT_A_NUMBER, ranks)

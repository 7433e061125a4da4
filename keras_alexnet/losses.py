"""The loss of a run: cross-entropy, its labels smoothed if asked for."""

import keras
import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Cross-entropy of each photo, in nats.

    Args:
        labels: int [N], from 0.
        logits: float32 [N, classes].
        smoothing: the share of a label that all classes get alike (Szegedy et al., 2016), from 0
            to below 1.

    Returns:
        float32 [N].
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if not smoothing:
        return losses
    of_all = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
    return (1 - smoothing) * losses + smoothing * of_all


class CrossEntropy(keras.losses.Loss):
    """`cross_entropy` as a loss of Keras."""

    def __init__(self, smoothing: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of each photo."""
        return cross_entropy(tf.cast(tf.reshape(y_true, [-1]), tf.int64), y_pred, self.smoothing)

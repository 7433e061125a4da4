"""Metrics of training that Keras lacks."""

import keras
import tensorflow as tf


class ImageCount(keras.metrics.Metric):
    """How many images were counted: the sum of their weights, padding having weight 0."""

    def __init__(self, name: str = "images", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self._count = self.add_weight(name="count", initializer="zeros")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Adds the weights of a batch, or its size where it has none."""
        del y_pred
        weights = tf.ones(tf.shape(y_true)[:1]) if sample_weight is None else sample_weight
        self._count.assign_add(tf.reduce_sum(tf.cast(weights, self._count.dtype)))

    def result(self) -> tf.Tensor:
        """The count so far."""
        return tf.convert_to_tensor(self._count)

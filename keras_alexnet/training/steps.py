"""One step of training and one of validation, over whatever devices the strategy has.

Keras' own `fit` would do on one machine. It fails under MultiWorkerMirroredStrategy (Keras 3.15,
keras#20585: it reduces a PerReplica that has one local value, and takes the mean over axis 0 of
scalar logs), cannot begin inside an epoch, and looks at a loss after the weights have changed.

The loss is the cross-entropy, with label smoothing if the recipe has it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.network import keras_compat, predictions
from keras_alexnet.training import not_finite

# Sums over the photos of the global batch; "stop" over the processes.
SUMS = ("loss", "cross_entropy", "top1", "top5", "images", "stop")

Features = Mapping[str, tf.Tensor]


def means(totals: Sequence[float]) -> dict[str, float]:
    """Return means over the photos, by name, of sums as `SUMS`; `images` stays a sum."""
    named = dict(zip(SUMS, map(float, totals), strict=True))
    del named["stop"]
    images = named["images"]
    return {
        name: value if name == "images" else value / images if images else float("nan")
        for name, value in named.items()
    }


@dataclasses.dataclass(eq=False)
class TrainingSteps:
    """Steps of one model, each a TensorFlow function.

    Attributes:
        model: from the features of `inputs.pipeline.train_dataset` to logits, with its optimizer
            built: see `build.build`.
        strategy: in whose scope the model was made.
        batch_size: global, over all replicas.
        label_smoothing: of the training loss.
    """

    model: keras.Model
    strategy: tf.distribute.Strategy
    batch_size: int
    label_smoothing: float = 0.0

    @tf.function
    def train(self, batch: tuple, stop: tf.Tensor) -> tf.Tensor:
        """Update the weights once.

        Args:
            batch: (features, labels), of each replica.
            stop: 1.0 where this process was asked to end, else 0.0.

        Returns:
            float32 [6], the sums of `SUMS`. The same in all processes, so that all of them end
            after the same step.

        Raises:
            InvalidArgumentError: with `not_finite.MARK`, if the loss is not finite; the weights
                are then still those that it came from.
        """
        sums, _ = self.strategy.run(self._train_replica, args=(*batch, stop))
        return self._sum(sums)

    @tf.function
    def train_with_gradients(
        self, batch: tuple, stop: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Take the same step as `train`; also return the gradients, one a trainable variable."""
        sums, gradients = self.strategy.run(self._train_replica, args=(*batch, stop))
        return self._sum(sums), [self._sum(gradient) for gradient in gradients]

    @tf.function
    def validate(self, batch: tuple, stop: tf.Tensor) -> tf.Tensor:
        """Return the sums of a batch without an update.

        Args:
            batch: (features, labels, weights), of each replica; a weight of 0 is padding.
            stop: as of `train`.

        Returns:
            float32 [6], the sums of `SUMS`; the loss is without smoothing.
        """
        return self._sum(self.strategy.run(self._validate_replica, args=(*batch, stop)))

    def _train_replica(self, features: Features, labels: tf.Tensor, stop: tf.Tensor) -> tuple:
        variables = self.model.trainable_variables
        optimizer = self.model.optimizer
        with tf.GradientTape() as tape:
            logits = self.model(features, training=True)
            of_photos = cross_entropy(labels, logits, self.label_smoothing)
            # Each replica's share of the global mean, so that the gradients' sum is that of it.
            loss = tf.reduce_sum(of_photos) / self.batch_size
            scaled = keras_compat.scaled_loss(optimizer, loss)
        # The backward pass starts from a number that a loss which is not finite does not give:
        # nothing is updated then.
        start = 1.0 + 0.0 * not_finite.checked(loss)
        gradients = tape.gradient(scaled, variables, output_gradients=start)
        keras_compat.apply_gradients(optimizer, gradients, variables)
        return self._sums(of_photos, labels, logits, tf.ones_like(of_photos), stop), gradients

    def _validate_replica(
        self,
        features: Features,
        labels: tf.Tensor,
        weights: tf.Tensor,
        stop: tf.Tensor,
    ) -> tf.Tensor:
        logits = self.model(features, training=False)
        of_photos = cross_entropy(labels, logits)
        return self._sums(of_photos, labels, logits, weights, stop)

    def _sums(
        self,
        of_photos: tf.Tensor,
        labels: tf.Tensor,
        logits: tf.Tensor,
        weights: tf.Tensor,
        stop: tf.Tensor,
    ) -> tf.Tensor:
        ranks = predictions.label_ranks(logits, labels)
        columns = (
            of_photos,
            cross_entropy(labels, logits) if self.label_smoothing else of_photos,
            tf.cast(ranks < 1, tf.float32),
            tf.cast(ranks < 5, tf.float32),
            tf.ones_like(weights),
        )
        return tf.stack([*(tf.reduce_sum(column * weights) for column in columns), stop])

    def _sum(self, per_replica: tf.Tensor) -> tf.Tensor:
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)


class Totals:
    """Sums over steps, in float64 and one step behind: a device need not wait for their transfer.

    Args:
        values: earlier sums, as `SUMS`; their "stop" is ignored.
    """

    def __init__(self, values: Sequence[float] = ()) -> None:
        self._values = np.array(values or [0.0] * len(SUMS), np.float64)
        self._values[SUMS.index("stop")] = 0.0
        self._pending: tf.Tensor | None = None

    def add(self, sums: tf.Tensor) -> None:
        """Take the sums of a step, and add those of the step before."""
        self.settle()
        self._pending = sums

    def settle(self) -> None:
        """Add the sums of the latest step."""
        if self._pending is not None:
            self._values += self._pending.numpy()
            self._pending = None

    @property
    def values(self) -> list[float]:
        """The sums of all steps that were settled."""
        return self._values.tolist()

    @property
    def stop(self) -> bool:
        """True once a process was asked to end."""
        return self._values[SUMS.index("stop")] > 0


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Return the cross-entropy of each photo, in nats.

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

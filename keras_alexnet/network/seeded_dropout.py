"""Dropout that a resumed run repeats and that differs between replicas."""

import random

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_alexnet")
class SeededDropout(keras.layers.Layer):
    """Dropout whose masks are a function of (seed, step, replica), paper section 4.2.

    In training, each unit is set to zero with probability `rate`, and the others are divided by
    1 - rate, so that nothing is left to do at inference (Caffe does the same; the paper multiplies
    by 1 - rate at inference instead, which is the same network up to the scale of its weights).

    `step` counts the training calls of the layer. It is state but no weight: it is in `state`, not
    in `variables`, in no count of parameters and in no .weights.h5 file. A run that goes on after
    `n` steps, and has restored it or set `layer.step = n`, sees the masks that it would have seen
    without the interruption.
    `keras.layers.Dropout` draws equal masks on all replicas of a MirroredStrategy (Keras 3.15).

    Input and output shape: any, the same.

    Args:
        rate: the share of units set to zero, at least 0 and below 1.
        seed: an int of at least 0; None draws one from Python's `random`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(
                f"rate must be at least 0 and below 1. Received: {rate!r}. The paper's is 0.5."
            )
        if seed is not None and seed < 0:
            raise ValueError(
                f"seed must be None or at least 0. Received: {seed!r}. Choose another."
            )
        self.rate = rate
        self.seed = random.randrange(2**31) if seed is None else seed
        self._calls = _ReplicaCounter()

    @property
    def state(self) -> list[tf.Variable]:
        """What a checkpoint must keep besides the weights: the step."""
        return [self._calls.variable]

    @property
    def step(self) -> int:
        """How many training calls there were; the next one's masks are those of this step."""
        return int(self._calls.variable.numpy())

    @step.setter
    def step(self, step: int) -> None:
        self._calls.variable.assign(step)

    def call(self, inputs, training=False):
        """The inputs, in training with some of them zero and the others raised."""
        if not training or self.rate == 0:
            return inputs
        context = tf.distribute.get_replica_context()  # None while Keras only infers shapes
        replica = context.replica_id_in_sync_group if context else 0
        step = self._calls.next()
        seed = tf.random.experimental.stateless_fold_in(
            tf.stack([tf.constant(self.seed, tf.int64), step]), replica
        )
        uniform = tf.random.stateless_uniform(tf.shape(inputs), seed)
        kept = inputs / tf.constant(1 - self.rate, inputs.dtype)
        return tf.where(uniform >= self.rate, kept, tf.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


class _ReplicaCounter:
    """A number that each replica counts for itself, so that counting needs no communication.

    A plain object, because Keras would list a variable that it sees among a layer's weights.
    """

    def __init__(self):
        self.variable = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            name="step",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def next(self) -> tf.Tensor:
        """The number before it is raised by one, int64 scalar."""
        value = tf.identity(self.variable)
        self.variable.assign_add(1)
        return value

"""The layers of AlexNet that Keras lacks, or has slower, or does not repeat in a resumed run."""

import random
import types
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_alexnet.network.normalization import LocalResponseNormalization, SameMapNormalization

__all__ = [
    "GroupedConv2D",
    "LocalResponseNormalization",
    "SameMapNormalization",
    "SeededDropout",
]


@keras.saving.register_keras_serializable(package="keras_alexnet")
class GroupedConv2D(keras.layers.Conv2D):
    """A `keras.layers.Conv2D` whose groups are separate convolutions, as on the two GPUs of 2012.

    Arguments, weights (one kernel [height, width, in / groups, out], one bias [out]) and results
    are those of `keras.layers.Conv2D`, so `set_weights` takes the weights of either. On the CPU the
    gradient of TensorFlow's grouped convolution is slow (a training step at batch 64 did 9.7
    images/s with it and 37.8 with this, on two cores of an AMD EPYC), and without oneDNN the
    grouped one is not implemented. On a GPU this costs a split and a concatenation more than
    cuDNN's grouped one; it is used all the same: one graph for every device, exported on one and
    served on another.

    Input shape: [batch, height, width, channels]; output shape: [batch, height', width', filters].

    Raises:
        ValueError: the data format is not channels_last, or as `keras.layers.Conv2D` does.
    """

    def __init__(self, filters: int, kernel_size: int | Sequence[int], **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        if self.data_format != "channels_last":
            raise ValueError(
                f"data_format must be 'channels_last'. Received: {self.data_format!r}. "
                "Transpose the input, or use keras.layers.Conv2D(groups=...)."
            )

    def convolution_op(self, inputs, kernel):
        """Return the convolution without bias and activation; Keras adds these."""
        kernel = tf.convert_to_tensor(kernel)
        groups = [tf.split(whole, self.groups, axis=-1) for whole in (inputs, kernel)]
        padding = self.padding.upper()
        outputs = [
            tf.nn.conv2d(*group, self.strides, padding, dilations=self.dilation_rate)
            for group in zip(*groups, strict=True)
        ]
        return tf.concat(outputs, axis=-1)

    def _jit_compiled_convolution_op(self, inputs, kernel):
        """Replace the convolution that Keras 2 compiles with XLA where there are groups."""
        return self.convolution_op(inputs, kernel)


@keras.saving.register_keras_serializable(package="keras_alexnet")
class SeededDropout(keras.layers.Layer):
    """Dropout whose masks are a function of (seed, step, replica), paper section 4.2.

    In training, each unit is set to zero with probability `rate`, and the others are divided by
    1 - rate, so that nothing is left to do at inference (Caffe does the same; the paper multiplies
    by 1 - rate at inference instead, which is the same network up to the scale of its weights).

    `step` counts the training calls of the layer. It is state but no weight: it is in `state`, not
    in `variables`, in no count of parameters and in no .weights.h5 file. A run resumed after `n`
    steps restores it, or sets `layer.step = n`, and sees the masks of the uninterrupted run.
    `keras.layers.Dropout` draws equal masks on all replicas of a MirroredStrategy (Keras 3.15).

    Input and output shape: any, the same.

    Args:
        rate: share of units set to zero, at least 0 and below 1.
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
        step = tf.Variable(  # each replica counts for itself, without communication
            0,
            dtype=tf.int64,
            trainable=False,
            name="step",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        # In a plain object: Keras would list a variable that it sees among the layer's weights.
        self._calls = types.SimpleNamespace(step=step)

    @property
    def state(self) -> list[tf.Variable]:
        """State that a checkpoint keeps besides the weights: the step."""
        return [self._calls.step]

    @property
    def step(self) -> int:
        """The number of training calls so far, which decides the next call's masks."""
        return int(self._calls.step.numpy())

    @step.setter
    def step(self, step: int) -> None:
        self._calls.step.assign(step)

    def call(self, inputs, training=False):
        """Return the inputs, in training some of them zero and the others scaled up."""
        if not training or self.rate == 0:
            return inputs
        context = tf.distribute.get_replica_context()  # None while Keras only infers shapes
        replica = context.replica_id_in_sync_group if context else 0
        step = tf.identity(self._calls.step)
        self._calls.step.assign_add(1)
        seed = tf.random.experimental.stateless_fold_in(
            tf.stack([tf.constant(self.seed, tf.int64), step]), replica
        )
        uniform = tf.random.stateless_uniform(tf.shape(inputs), seed)
        kept = inputs / tf.constant(1 - self.rate, inputs.dtype)
        return tf.where(uniform >= self.rate, kept, tf.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}

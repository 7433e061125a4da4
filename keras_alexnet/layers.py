"""The layers of AlexNet that Keras lacks, or has but slow, or has but not repeatable."""

import random
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

_PACKAGE = "keras_alexnet"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class LocalResponseNormalization(keras.layers.Layer):
    """Divides each unit by what its neighbours across the channels amount to.

        y[c] = x[c] / (k + a * sum(x[j]^2 for |j - c| <= size // 2)) ^ beta

    with a = alpha in the paper (section 3.3) and a = alpha / size in the authors' program and in
    Caffe; channels that do not exist count as zeros. `tf.nn.local_response_normalization` has
    a = alpha, and is slower: here the sum is one product with a banded matrix, and the gradient
    is written by hand. Computes in float32 under every dtype policy.

    Input and output shape: [..., channels].

    Args:
        size: n, the number of channels in a full sum; odd.
        k: added to the sum, above 0.
        alpha: weight of the sum, at least 0.
        beta: exponent, above 0.
        alpha_divided_by_size: whether a is alpha / size.

    Raises:
        ValueError: an argument is out of its range, or the number of channels is unknown.
    """

    def __init__(
        self,
        size: int = 5,
        k: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        alpha_divided_by_size: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if size < 1 or size % 2 == 0:
            raise ValueError(
                f"size must be odd and above 0. Received: {size!r}. "
                "AlexNet's is 5: the channel itself and two on either side."
            )
        if not (k > 0 and alpha >= 0 and beta > 0):
            raise ValueError(
                "k and beta must be above 0, and alpha at least 0, or no root can be drawn. "
                f"Received: k={k!r}, alpha={alpha!r}, beta={beta!r}. "
                "The paper's are k=2, alpha=1e-4, beta=0.75."
            )
        self.size = size
        self.k = k
        self.alpha = alpha
        self.beta = beta
        self.alpha_divided_by_size = alpha_divided_by_size

    def build(self, input_shape):
        """Makes the band matrix of the number of channels."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The last dimension of the input, the channels, must be known. "
                f"Received: an input of shape {tuple(input_shape)}. Set it in keras.Input."
            )
        distance = np.abs(np.arange(channels)[:, None] - np.arange(channels)[None, :])
        weight = self.alpha / self.size if self.alpha_divided_by_size else self.alpha
        self._band = (weight * (distance <= self.size // 2)).astype(np.float32)
        super().build(input_shape)

    def call(self, inputs):
        """The normalized inputs, in their own dtype."""
        # A sum of squares outgrows float16, and loses neighbours 256 times smaller in bfloat16.
        flat = tf.reshape(tf.cast(inputs, tf.float32), [-1, inputs.shape[-1]])
        outputs = tf.reshape(self._normalize(flat), tf.shape(inputs))
        return tf.cast(outputs, inputs.dtype)

    def _normalize(self, x: tf.Tensor) -> tf.Tensor:
        """The formula of the class, on [N, channels] float32."""
        band = tf.constant(self._band)

        @tf.custom_gradient
        def normalize(x):
            # A bias instead of a plain sum lets TensorFlow add k inside the matrix product.
            k = tf.fill([band.shape[0]], tf.constant(self.k, tf.float32))
            sums = tf.nn.bias_add(tf.matmul(x * x, band), k)
            power = _negative_power(sums, self.beta)
            y = x * power

            def gradient(dy):
                # With s the sums and B the band, which is its own transpose:
                # dx = dy * s^-beta - 2 beta x * ((dy * x * s^(-beta - 1)) B)
                through_sums = tf.matmul(dy * y / sums, 2 * self.beta * band)
                return dy * power - x * through_sums

            return y, gradient

        return normalize(x)

    def get_config(self):
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "size": self.size,
            "k": self.k,
            "alpha": self.alpha,
            "beta": self.beta,
            "alpha_divided_by_size": self.alpha_divided_by_size,
        }


def _negative_power(x: tf.Tensor, exponent: float) -> tf.Tensor:
    """x^-exponent, elementwise."""
    if exponent == 0.75:
        root = tf.math.rsqrt(x)
        return root * root * tf.math.rsqrt(root)  # x^-1 * x^(1/4): several times faster than pow
    return tf.pow(x, -exponent)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class GroupedConv2D(keras.layers.Conv2D):
    """A `keras.layers.Conv2D` whose groups are separate convolutions, as on the two GPUs of 2012.

    Arguments, weights (one kernel [height, width, in / groups, out], one bias [out]) and results
    are those of `keras.layers.Conv2D`, so weights pass between the two. The computation is one
    convolution a group on its own slice of the channels. On the CPU the gradient of TensorFlow's
    grouped convolution is slow (a training step at batch 64 did 9.7 images/s with it and 37.8 with
    this, on two cores of an AMD EPYC), and a graph of plain convolutions
    also runs where the grouped one is not implemented (TensorFlow on CPUs without oneDNN). On a
    GPU it costs a split and a concatenation more than cuDNN's grouped convolution, and is used
    all the same: one graph for every device, and what is exported on one is served on another.

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
        """The convolution without bias and activation, which Keras calls and adds to."""
        kernel = tf.convert_to_tensor(kernel)
        outputs = [
            tf.nn.conv2d(
                group_inputs,
                group_kernel,
                strides=self.strides,
                padding=self.padding.upper(),
                dilations=self.dilation_rate,
            )
            for group_inputs, group_kernel in zip(
                tf.split(inputs, self.groups, axis=-1),
                tf.split(kernel, self.groups, axis=-1),
                strict=True,
            )
        ]
        return tf.concat(outputs, axis=-1)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class SeededDropout(keras.layers.Layer):
    """Dropout whose masks are a function of (seed, step, replica), paper section 4.2.

    In training, each unit is set to zero with probability `rate`, and the others are divided by
    1 - rate, so that nothing is left to do at inference (Caffe does the same; the paper multiplies
    by 1 - rate at inference instead, which is the same network up to the scale of its weights).

    `step` counts the training calls of the layer. It is state but no weight, like the seeds of
    `keras.layers.Dropout`: it is in `variables`, not in `weights`, in no count of parameters and
    in no .weights.h5 file. A run that goes on after `n` steps, and has restored it or set
    `layer.step = n`, sees the masks that it would have seen without the interruption.
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
        self._calls = _ReplicaCounter(f"{self.name}/step")

    @property
    def variables(self):
        """As of any layer, and the step."""
        return [*super().variables, self._calls.variable]

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

    def __init__(self, path: str):
        self.variable = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            name="step",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.variable.path = path  # what Keras 3 calls a variable by in get_state_tree

    def next(self) -> tf.Tensor:
        """The number before it is raised by one, int64 scalar."""
        value = tf.identity(self.variable)
        self.variable.assign_add(1)
        return value

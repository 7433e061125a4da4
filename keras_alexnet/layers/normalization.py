"""The two normalizations of the 2012 network: across maps, and within each map."""

import keras
import numpy as np
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_alexnet")
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
        columns: int = 1,
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
        self.columns = columns

    def build(self, input_shape):
        """Makes the band matrix of the number of channels."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The last dimension of the input, the channels, must be known. "
                f"Received: an input of shape {tuple(input_shape)}. Set it in keras.Input."
            )
        if channels % self.columns:
            raise ValueError(
                "The number of channels must be a multiple of columns, which are of equal size. "
                f"Received: {channels} channels, columns={self.columns}."
            )
        channel = np.arange(channels)
        is_near = np.abs(channel[:, None] - channel[None, :]) <= self.size // 2
        column = channel // (channels // self.columns)
        is_same_column = column[:, None] == column[None, :]
        weight = self.alpha / self.size if self.alpha_divided_by_size else self.alpha
        self._band = (weight * (is_near & is_same_column)).astype(np.float32)
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
            "columns": self.columns,
        }


def _negative_power(x: tf.Tensor, exponent: float) -> tf.Tensor:
    """x^-exponent, elementwise."""
    if exponent == 0.75:
        root = tf.math.rsqrt(x)
        return root * root * tf.math.rsqrt(root)  # x^-1 * x^(1/4): several times faster than pow
    return tf.pow(x, -exponent)


@keras.saving.register_keras_serializable(package="keras_alexnet")
class SameMapNormalization(keras.layers.Layer):
    """Divides each unit by what its neighbourhood in the same map amounts to."""

    def __init__(
        self, size: int = 5, k: float = 1.0, alpha: float = 1e-3, beta: float = 0.75, **kwargs
    ):
        super().__init__(**kwargs)
        self.size = size
        self.k = k
        self.alpha = alpha
        self.beta = beta

    def call(self, inputs):
        """The normalized inputs, in their own dtype."""
        x = tf.cast(inputs, tf.float32)
        window = tf.ones([self.size, self.size, inputs.shape[-1], 1])
        sums = tf.nn.depthwise_conv2d(x * x, window, [1, 1, 1, 1], "SAME")
        sums = self.k + self.alpha / self.size**2 * sums
        return tf.cast(x * _negative_power(sums, self.beta), inputs.dtype)

    def get_config(self):
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "size": self.size,
            "k": self.k,
            "alpha": self.alpha,
            "beta": self.beta,
        }

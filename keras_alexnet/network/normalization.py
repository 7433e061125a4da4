"""The two normalizations of the 2012 network: across maps, and within each map.

Both divide a unit by a power of the weighted sum of squares of its neighbours.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

# LocalResponseNormalization sums the neighbours of this many channels at a time, in columns of more
# than the second number. On two cores of an AMD EPYC the sums of [64, 27, 27, 256] then take 8 ms
# instead of 30 ms, those of [64, 55, 55, 96] 18 instead of 24; two columns of 48 are faster uncut.
_BLOCK = 8
_LARGEST_UNCUT = 64

# In a graph, the names of all operations of the normalizations' formula have this in them.
SCOPE = "divisive_normalization"

# (x, scale) -> `scale` times the weighted sums of x over the neighbours of each unit. Neighbours
# must be mutual, with equal weights in both directions: the gradient relies on it. `scale` belongs
# into a constant, so that it costs no pass over the units.
_WeightedSums = Callable[[tf.Tensor, float], tf.Tensor]


class _DivisiveNormalization(keras.layers.Layer):
    """y = x / s ^ beta, with s = k + the weighted sum of x^2 over the neighbours of a unit.

    Computes in float32 under every dtype policy but float64, which it keeps.

    Raises:
        ValueError: an argument is out of its range, or the number of channels is unknown.
    """

    def __init__(self, size: int, k: float, alpha: float, beta: float, **kwargs):
        super().__init__(**kwargs)
        if size < 1 or size % 2 == 0:
            raise ValueError(
                f"size must be odd and above 0. Received: {size!r}. "
                "AlexNet's is 5: the unit itself and two on either side."
            )
        if not (k > 0 and alpha >= 0 and beta > 0):
            raise ValueError(
                "k and beta must be above 0, and alpha at least 0, or no root can be drawn. "
                f"Received: k={k!r}, alpha={alpha!r}, beta={beta!r}. "
                "The paper's, between maps, are k=2, alpha=1e-4, beta=0.75."
            )
        self.size = size
        self.k = k
        self.alpha = alpha
        self.beta = beta

    def build(self, input_shape):
        """Check that the number of channels is known."""
        if input_shape[-1] is None:
            raise ValueError(
                "The last dimension of the input, the channels, must be known. "
                f"Received: an input of shape {tuple(input_shape)}. Set it in keras.Input."
            )
        super().build(input_shape)

    def call(self, inputs):
        """Return the normalized inputs, in their own dtype."""
        # A sum of squares outgrows float16, and loses neighbours 256 times smaller in bfloat16.
        x = tf.cast(inputs, tf.float64 if inputs.dtype == tf.float64 else tf.float32)
        return tf.cast(_divided(x, self.k, self.beta, self._weighted_sums()), inputs.dtype)

    def _weighted_sums(self) -> _WeightedSums:
        """Return a function that sums over each unit's neighbours; it must not capture `self`."""
        raise NotImplementedError

    def get_config(self):
        """Return the arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("size", "k", "alpha", "beta")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_alexnet")
class LocalResponseNormalization(_DivisiveNormalization):
    """Normalization of each unit by its neighbours across the channels.

        y[c] = x[c] / (k + a * sum(x[j]^2 for |j - c| <= size // 2)) ^ beta

    with a = alpha in the paper (section 3.3) and a = alpha / size in the authors' program and in
    Caffe; channels that do not exist count as zeros. The paper sums over all maps of a layer; in
    the authors' program a GPU knows its own maps only (`columns=2`).
    `tf.nn.local_response_normalization` has a = alpha and no columns, and is slower: here the sum
    is one convolution, and the gradient is written by hand. Where TensorFlow computes float32
    convolutions in TensorFloat-32, its default on a GPU, the sums have that precision.

    Input and output shape: [..., channels].

    Args:
        size: n, the number of channels in a full sum; odd.
        k: added to the sum, above 0.
        alpha: weight of the sum, at least 0.
        beta: exponent, above 0.
        alpha_divided_by_size: whether a is alpha / size.
        columns: how many equal parts the channels are in; no neighbour lies in another part.

    Raises:
        ValueError: an argument is out of its range, or the number of channels is unknown or no
            multiple of `columns`.
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
        super().__init__(size, k, alpha, beta, **kwargs)
        if columns < 1:
            raise ValueError(
                f"columns must be at least 1. Received: {columns!r}. "
                "1 lets all channels be neighbours; the 2012 program's two GPUs are 2."
            )
        self.alpha_divided_by_size = alpha_divided_by_size
        self.columns = columns

    def build(self, input_shape):
        """Make the kernel that sums over a column's neighbours."""
        super().build(input_shape)
        channels = input_shape[-1]
        if channels % self.columns:
            raise ValueError(
                "The number of channels must be a multiple of columns, which are of equal size. "
                f"Received: {channels} channels, columns={self.columns}. Change one of them."
            )
        self._kernel = self._band_kernel(channels // self.columns)

    def _band_kernel(self, channels: int) -> np.ndarray:
        """Return the sum over the neighbours in a column of `channels`, as a convolution's kernel.

        The sum is a product with a banded matrix [channels, channels], which is mostly zeros if
        there are many. Cut into square blocks no smaller than the band is wide, it has the same
        three in every row of blocks: those of the previous, the own and the next block of
        channels. So it is a convolution along the blocks, whose padding is the end of the column:
        float64 [1, 3, block, block] with blocks of `_BLOCK` channels, or one block of all channels.
        """
        radius = self.size // 2
        is_cut = channels > _LARGEST_UNCUT and channels % _BLOCK == 0 and radius <= _BLOCK
        block, positions = (_BLOCK, [-1, 0, 1]) if is_cut else (channels, [0])
        outputs = np.arange(block)
        inputs = np.add.outer(np.multiply(block, positions), outputs)[:, :, None]
        weight = self.alpha / self.size if self.alpha_divided_by_size else self.alpha
        return (weight * (np.abs(inputs - outputs) <= radius))[None]

    def call(self, inputs):
        """Return the normalized inputs, in their own dtype."""
        shape = tf.shape(inputs)
        block = self._kernel.shape[-1]
        blocks = inputs.shape[-1] // self.columns // block
        rows = self.columns * tf.reduce_prod(shape[1:-1])  # a row is one column of one pixel
        return tf.reshape(super().call(tf.reshape(inputs, [shape[0], rows, blocks, block])), shape)

    def _weighted_sums(self) -> _WeightedSums:
        kernel = self._kernel
        return lambda x, scale: tf.nn.conv2d(
            x, tf.constant(scale * kernel.astype(x.dtype.as_numpy_dtype)), 1, "SAME"
        )

    def get_config(self):
        """Return the arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("alpha_divided_by_size", "columns")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_alexnet")
class SameMapNormalization(_DivisiveNormalization):
    """Normalization of each unit by its neighbourhood in the same map.

        y[h, w] = x[h, w] / (k + alpha / size^2 * sum(x[i, j]^2)) ^ beta

    with the sum over |i - h| <= size // 2, |j - w| <= size // 2: a square of pixels around the
    unit. Pixels outside the map count as zeros, and the weight is alpha / size^2 there too. This
    is the layer type "rnorm" of the authors' program; its network 145 has one after the second
    response normalization ("cnorm2"), with the default arguments. The paper does not mention it.

    Input and output shape: [batch, height, width, channels].

    Args:
        size: side of the square, pixels; odd.
        k: added to the sum, above 0.
        alpha: size^2 times the weight of the sum, at least 0.
        beta: exponent, above 0.

    Raises:
        ValueError: an argument is out of its range, the number of channels is unknown, or the
            input has not four dimensions.
    """

    def __init__(
        self, size: int = 5, k: float = 1.0, alpha: float = 1e-3, beta: float = 0.75, **kwargs
    ):
        super().__init__(size, k, alpha, beta, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def _weighted_sums(self) -> _WeightedSums:
        size, weight = self.size, self.alpha / self.size**2

        def sums(x: tf.Tensor, scale: float) -> tf.Tensor:
            # Of the ways to sum over a window this is the fastest on a CPU: average pooling needs
            # two more passes (it leaves out the pixels beyond the edge, but also does not count
            # them), separate sums of rows and columns, shifted slices and band matrices are slower.
            value = tf.constant(scale * weight, x.dtype)
            window = tf.fill([size, size, x.shape[-1], 1], value)
            return tf.nn.depthwise_conv2d(x, window, strides=[1, 1, 1, 1], padding="SAME")

        return sums


def _divided(x: tf.Tensor, k: float, beta: float, weighted_sums: _WeightedSums) -> tf.Tensor:
    """Compute the formula of the layers, x / (k + sums of x^2)^beta, with its gradient."""

    @tf.custom_gradient
    def divided(x):
        with tf.name_scope(SCOPE):
            # A bias instead of a plain sum lets TensorFlow add k inside the kernel that sums.
            sums = tf.nn.bias_add(
                weighted_sums(x * x, 1.0), tf.fill([x.shape[-1]], tf.constant(k, x.dtype))
            )
            power = _negative_power(sums, beta)
            y = x * power

        def gradient(dy):
            # With s the sums and W the weighted sum, which is its own adjoint:
            # dx = dy * s^-beta - 2 beta x * W(dy * x * s^(-beta - 1))
            through_sums = weighted_sums(dy * y / sums, 2 * beta)
            return dy * power - x * through_sums

        return y, gradient

    if tf.executing_eagerly():
        return divided(x)
    # TensorFlow never forgets a custom gradient of a graph, nor the graph, nor what either of them
    # holds: in the network's own graph that would be all of its weights, in this one it is nothing.
    return tf.function(divided, autograph=False)(x)


def _negative_power(x: tf.Tensor, exponent: float) -> tf.Tensor:
    """Return x^-exponent, elementwise."""
    if exponent == 0.75:
        root = tf.math.rsqrt(x)
        return root * root * tf.math.rsqrt(root)  # x^-1 * x^(1/4): several times faster than pow
    return tf.pow(x, -exponent)

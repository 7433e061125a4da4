"""Grouped convolution with one kernel variable, fast on a CPU and right on a GPU."""

from collections.abc import Sequence

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_alexnet")
class GroupedConv2D(keras.layers.Conv2D):
    """A `keras.layers.Conv2D` whose groups are separate convolutions, as on the two GPUs of 2012.

    Arguments, weights (one kernel [height, width, in / groups, out], one bias [out]) and results
    are those of `keras.layers.Conv2D`, so `set_weights` takes the weights of either. The
    computation is one convolution a group on its own slice of the channels. On the CPU the
    gradient of TensorFlow's grouped convolution is slow (a training step at batch 64 did 9.7
    images/s with it and 37.8 with this, on two cores of an AMD EPYC), and a graph of plain
    convolutions also runs where the grouped one is not implemented (TensorFlow on CPUs without
    oneDNN). On a GPU these are cuDNN's ordinary convolutions, and cost a split and a concatenation
    more than its grouped one; they are used all the same: one graph for every device, and what is
    exported on one is served on another.

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

    def _jit_compiled_convolution_op(self, inputs, kernel):
        """What Keras 2 calls where there are groups: XLA, against the gradient that is not here."""
        return self.convolution_op(inputs, kernel)

"""Which maps a column keeps, and which it lets the other column have."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_alexnet")
class Maps(keras.layers.Layer):
    """Some adjacent maps of its input: `inputs[..., start : start + count]`.

    Input shape: [..., channels]; output shape: [..., count].

    Args:
        start: the first of them.
        count: how many.
    """

    def __init__(self, start: int, count: int, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.count = count

    def call(self, inputs):
        """The maps."""
        return inputs[..., self.start : self.start + self.count]

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "start": self.start, "count": self.count}


@keras.saving.register_keras_serializable(package="keras_alexnet")
class Share(Maps):
    """Its input for the column's own use, and some adjacent maps of it for the other column.

    A layer of its own so that the two gradients which come back are added here, on the column's
    device, and what the other column sends is the gradient of those maps alone.

    Input shape: [..., channels]; output shapes: the same, and [..., count].
    """

    def call(self, inputs):
        """All of it, and the maps."""
        return [tf.identity(inputs), super().call(inputs)]

"""Layers of the columns: one on a device of its own, and those that cut and share maps."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_alexnet")
class OnDevice(keras.layers.Wrapper):
    """Runs a layer, and the gradient through it, on one device, where its variables live too.

    `tf.device` around a layer places its forward operations alone: those of the gradient are made
    by `tf.GradientTape.gradient`, outside of it, and TensorFlow then puts them all on its first
    device. So the layer is differentiated in here, by a tape of its own and under the device.

    TensorFlow keeps the custom gradients of graphs for good, and with them the variables that they
    are of: a network of these layers is not forgotten before the process ends.

    Input and output: those of the layer, one tensor or a list of them; the inputs may come from any
    device.

    Args:
        layer: what to run.
        device: where: a name that `tf.device` takes, such as "GPU:1".
    """

    def __init__(self, layer: keras.layers.Layer, device: str, **kwargs):
        # Inputs come as they are: the layer's own policy says what they become.
        kwargs.setdefault("dtype", "float32")
        super().__init__(layer, autocast=False, **kwargs)
        self.device = device
        self.supports_jit = False  # XLA compiles for one device

    @property
    def state(self) -> list[tf.Variable]:
        """The state of the layer: the step of a dropout."""
        return getattr(self.layer, "state", [])

    def build(self, input_shape):
        """Make the layer's variables, on the device."""
        with tf.device(self.device):
            super().build(input_shape)

    def call(self, inputs):
        """Return the layer's outputs."""

        @tf.custom_gradient
        def run(*tensors):
            # Persistent, for a persistent tape outside may ask for the gradient more than once.
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(tensors)
                outputs = self.layer(list(tensors) if len(tensors) > 1 else tensors[0])
                results = tf.nest.flatten(outputs)

            def gradient(*upstream, variables=()):
                with tf.device(self.device):
                    of_tensors, of_variables = tape.gradient(
                        results, (list(tensors), list(variables)), list(upstream)
                    )
                return (of_tensors, of_variables) if variables else of_tensors

            return results, gradient

        # Around it all, because custom_gradient adds operations of its own on both sides.
        with tf.device(self.device):
            outputs = run(*tf.nest.flatten(inputs))
        return outputs[0] if len(outputs) == 1 else outputs

    def get_config(self):
        """Return the arguments of the constructor."""
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer, "device": self.device}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Return the layer of a config."""
        config = dict(config)
        # Models saved by earlier versions have these; the optimizer alone decays now.
        for name in ("kernel_regularizer", "bias_regularizer"):
            config.pop(name, None)
        with tf.device(config["device"]):  # Keras 3 makes the layer's variables here already
            layer = keras.saving.deserialize_keras_object(config.pop("layer"), custom_objects)
        return cls(layer, **config)


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
        """Return the maps."""
        return inputs[..., self.start : self.start + self.count]

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "start": self.start, "count": self.count}


@keras.saving.register_keras_serializable(package="keras_alexnet")
class Share(Maps):
    """Its input for the column's own use, and some adjacent maps of it for the other column.

    A layer of its own so that the two gradients which come back are added here, on the column's
    device, and what the other column sends is the gradient of those maps alone.

    Input shape: [..., channels]; output shapes: the same, and [..., count].
    """

    def call(self, inputs):
        """Return all of the input, and the maps."""
        return [tf.identity(inputs), super().call(inputs)]

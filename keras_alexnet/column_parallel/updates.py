"""Optimizers whose state and arithmetic stay on the device of the variable that they update."""

import contextlib
from collections.abc import Iterable

import tensorflow as tf

from keras_alexnet.keras_generations import UpdateRule, tf_variable


class UpdatesInPlace(UpdateRule):
    """A Keras optimizer to which this is mixed in updates each variable on its own device.

    Keras leaves the place of momentum, of gradients and of the update to TensorFlow, which takes
    its first device for all of them, and adds an operation through which all the gradients go
    together. Where all variables are on one device, this changes nothing; under a
    `tf.distribute.Strategy` that has its own rules, neither.

    To be named before the optimizer's class: `class SGD(UpdatesInPlace, keras.optimizers.SGD)`.
    """

    def add_variable_from_reference(self, *args, **kwargs):
        """Makes a variable of the optimizer, beside the one it belongs to."""
        # Keras 3 gives that one first, Keras 2 by this name.
        with beside(args[0] if args else kwargs["model_variable"]):
            return super().add_variable_from_reference(*args, **kwargs)

    def update_step(self, gradient, variable, *args, **kwargs):
        """Updates a variable, where it is."""
        with beside(variable):
            return super().update_step(gradient, variable, *args, **kwargs)

    def summed_over_replicas(self, pairs: Iterable[tuple]) -> Iterable[tuple]:
        """The sum over replicas; of one replica it would be one operation on all gradients."""
        return super().summed_over_replicas(pairs) if tf.distribute.has_strategy() else pairs


def beside(variable) -> contextlib.AbstractContextManager:
    """Places what is computed in it on the device of a variable, but not under a strategy.

    Args:
        variable: of Keras or of TensorFlow.
    """
    if tf.distribute.has_strategy():
        return contextlib.nullcontext()
    return tf.device(tf_variable(variable).device)

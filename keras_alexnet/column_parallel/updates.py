"""Optimizers whose state and arithmetic stay on the device of the variable that they update."""

import contextlib
from collections.abc import Iterable

import tensorflow as tf


class UpdatesInPlace:
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

    def _all_reduce_sum_gradients(self, grads_and_vars: Iterable[tuple]) -> Iterable[tuple]:
        """Keras 3's sum over replicas; of one replica it is one operation on all gradients."""
        if tf.distribute.has_strategy():
            return super()._all_reduce_sum_gradients(grads_and_vars)
        return grads_and_vars

    def aggregate_gradients(self, grads_and_vars: Iterable[tuple]) -> Iterable[tuple]:
        """The same under Keras 2."""
        if tf.distribute.has_strategy():
            return super().aggregate_gradients(grads_and_vars)
        return grads_and_vars


def beside(variable) -> contextlib.AbstractContextManager:
    """Places what is computed in it on the device of a variable, but not under a strategy.

    Args:
        variable: of Keras or of TensorFlow.
    """
    if tf.distribute.has_strategy():
        return contextlib.nullcontext()
    if not isinstance(variable, tf.Variable):  # Keras 3 has variables of its own around them
        variable = variable.value
    return tf.device(variable.device)

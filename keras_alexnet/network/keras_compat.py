"""The differences between Keras 3 and the addons stack's Keras 2.15, each under one name.

Everything else in this project is written for both.
"""

from collections.abc import Iterable, Sequence

import keras
import tensorflow as tf

from keras_alexnet.network.variables import path_of

IS_KERAS_2 = keras.__version__.startswith("2.")


def tf_variable(variable) -> tf.Variable:
    """Return TensorFlow's own variable, around which Keras 3 has one of its own."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def scaled_loss(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Return the scalar loss to differentiate: times the loss scale, where float16 needs one."""
    if not IS_KERAS_2:
        return optimizer.scale_loss(loss)
    return optimizer.get_scaled_loss(loss) if _has_loss_scale(optimizer) else loss


def apply_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor], variables: Sequence
) -> None:
    """Update the variables once.

    Args:
        optimizer: built for the variables.
        gradients: of `scaled_loss` over this replica's photos, one per variable.
        variables: the variables.
    """
    if IS_KERAS_2 and _has_loss_scale(optimizer):
        gradients = optimizer.get_unscaled_gradients(gradients)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


def optimizer_state(optimizer: keras.optimizers.Optimizer) -> list:
    """Return the variables of a built optimizer, in the same order in both generations.

    With a loss scale its counter and the scale; the number of steps; the learning rate, unless a
    schedule computes it; and the variables of each weight, in the order of the weights.
    """
    inner = inner_optimizer(optimizer)
    if not IS_KERAS_2:
        scale = [optimizer.step_counter, optimizer.dynamic_scale] if inner is not optimizer else []
        return [*scale, *inner.variables]
    scale = []
    if inner is not optimizer:
        state = optimizer._loss_scale
        scale = [state.counter, state.current_loss_scale]
    if _is_older(inner):
        of_weights = [slot for slots in inner._slots.values() for slot in slots.values()]
        steps, rate = inner.iterations, inner._hyper["learning_rate"]
    else:
        steps, *of_weights = inner.variables
        rate = inner._learning_rate
    return [*scale, steps, *([rate] if isinstance(rate, tf.Variable) else []), *of_weights]


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return the optimizer without the loss scale that Keras puts around it for float16."""
    return optimizer.inner_optimizer if _has_loss_scale(optimizer) else optimizer


def build_optimizer(optimizer: keras.optimizers.Optimizer, variables: Sequence) -> None:
    """Make an optimizer's variables for those that it will update, before its first step."""
    if _is_older(inner_optimizer(optimizer)):
        optimizer._create_all_weights(variables)
    else:
        optimizer.build(variables)


def learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the learning rate of a built optimizer's next step."""
    inner = inner_optimizer(optimizer)
    rate = inner._hyper["learning_rate"] if _is_older(inner) else inner.learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(inner.iterations)
    return float(rate.numpy())


def _is_older(optimizer: keras.optimizers.Optimizer) -> bool:
    """Return whether it is of Keras 2's older kind, as those of TensorFlow Addons are."""
    return IS_KERAS_2 and isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def _has_loss_scale(optimizer: keras.optimizers.Optimizer) -> bool:
    return hasattr(optimizer, "inner_optimizer")


class _Keras3Rule:
    """`UpdateRule` above an optimizer of Keras 3."""

    def index_of(self, variable: tf.Variable) -> int:
        return self._get_variable_index(variable)

    def path_of(self, variable: tf.Variable) -> str:
        return path_of(self._trainable_variables[self.index_of(variable)])

    def summed_over_replicas(self, pairs: Iterable[tuple]) -> Iterable[tuple]:
        return super()._all_reduce_sum_gradients(pairs)

    def _all_reduce_sum_gradients(self, grads_and_vars: Iterable[tuple]) -> Iterable[tuple]:
        return self.summed_over_replicas(grads_and_vars)


class _Keras2Rule:
    """`UpdateRule` above an optimizer of Keras 2, whose own step looks its learning rate up."""

    _paths: tuple[str, ...] = ()
    _rate_of_step = None  # while a step is being made

    def __init__(self, *args, **kwargs) -> None:
        # XLA would compile each variable's step on a GPU, and knows nothing of places.
        super().__init__(*args, **{**kwargs, "jit_compile": False})

    def build(self, variables: Sequence) -> None:
        self._paths = tuple(map(path_of, variables))
        super().build(variables)

    def index_of(self, variable: tf.Variable) -> int:
        return self._index_dict[self._var_key(variable)]

    def path_of(self, variable: tf.Variable) -> str:
        return self._paths[self.index_of(variable)]

    def summed_over_replicas(self, pairs: Iterable[tuple]) -> Iterable[tuple]:
        return super().aggregate_gradients(pairs)

    def aggregate_gradients(self, grads_and_vars: Iterable[tuple]) -> Iterable[tuple]:
        return self.summed_over_replicas(grads_and_vars)

    def _update_step(self, gradient, variable) -> None:
        with tf.name_scope("learning_rate"):
            learning_rate = tf.convert_to_tensor(super().learning_rate)
        self.update_step(gradient, variable, learning_rate)

    def update_step(self, gradient, variable, learning_rate) -> None:
        self._rate_of_step = learning_rate
        try:
            super().update_step(gradient, variable)
        finally:
            self._rate_of_step = None

    @property
    def learning_rate(self):
        """Return the learning rate of the current step, or of the next one."""
        if self._rate_of_step is not None:
            return self._rate_of_step
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value) -> None:
        keras.optimizers.Optimizer.learning_rate.fset(self, value)


class UpdateRule(_Keras2Rule if IS_KERAS_2 else _Keras3Rule):
    """The base of mixins for Keras' optimizers, the same above both generations.

    Name it before the optimizer: `class SGD(Rule, keras.optimizers.SGD)`. A mixin may override,
    calling `super()`:

    - `build(variables)`: makes the optimizer's variables;
    - `summed_over_replicas(pairs)`: (gradient, variable) pairs of this replica to those of all;
    - `update_step(gradient, variable, learning_rate)`: updates one variable, TensorFlow's own.

    `index_of(variable)` and `path_of(variable)` identify a variable, or one replica's copy of it;
    `add_variable_from_reference(variable, name)` makes one of its shape, zeros.
    """

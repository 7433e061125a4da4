"""Optimizers with the update rule and the per-bias rates of the paper, its program and Caffe."""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from keras_alexnet.network.choices import addons_name
from keras_alexnet.network.keras_compat import UpdateRule, tf_variable
from keras_alexnet.training import addons
from keras_alexnet.training.schedules import Rate
from keras_alexnet.training.update_rules import (
    AveragedWeights,
    AverageRule,
    ClippedGradients,
    LayerRate,
    LayerRates,
    beside,
)


class DecayInGradient(UpdateRule):
    """A Keras optimizer to which this is mixed in adds decay * w to the gradient of each w.

    That is the weight decay of the paper, of Caffe and of PyTorch's optimizers: of the same effect
    as a penalty decay / 2 * w^2 in the loss, which would take four more passes over all weights.
    Keras' own `weight_decay=` is another one: it is subtracted from w besides the update, and is
    ten times weaker at momentum 0.9.

    Args:
        decay: of kernels.
        bias_decay: of biases.
    """

    def __init__(self, *args, decay: float = 0.0, bias_decay: float = 0.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.decay = decay
        self.bias_decay = bias_decay

    def update_step(self, gradient, variable, *args, **kwargs):
        """Updates a variable, its decay added to its gradient."""
        decay = self.bias_decay if _is_bias(self.path_of(variable)) else self.decay
        if decay:
            with beside(variable):
                gradient = gradient + decay * tf.convert_to_tensor(variable)
        return super().update_step(gradient, variable, *args, **kwargs)

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {**super().get_config(), "decay": self.decay, "bias_decay": self.bias_decay}


class _SGD(keras.optimizers.SGD):
    """Keras' SGD, in Keras 2 too without velocities where there is no momentum."""

    def build(self, variables):
        if self.momentum:
            super().build(variables)
        else:
            super(keras.optimizers.SGD, self).build(variables)  # what every optimizer has


class _OnePassSGD(UpdateRule, _SGD):
    """Keras' SGD in one pass over a variable instead of five; `MomentumSGD` says what it does."""

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        momentum: float = 0.9,
        bias_multiplier: float = 1.0,
        bias_learning_rate: float | None = None,
        name: str = "momentum_sgd",
        **kwargs,
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, name=name, **kwargs)
        self.bias_multiplier = bias_multiplier
        self.bias_learning_rate = bias_learning_rate

    def update_step(self, gradient, variable, learning_rate):
        """Updates a variable, at its own rate."""
        is_bias = _is_bias(self.path_of(variable))
        rate = self._bias_rate(learning_rate) if is_bias else learning_rate
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle,
                alpha=tf.cast(rate, variable.dtype),
                delta=tf.cast(gradient, variable.dtype),
            )
            return
        velocity = tf_variable(self.momentums[self.index_of(variable)])
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=tf.cast(rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(self.momentum, variable.dtype),
        )

    def _bias_rate(self, learning_rate):
        if self.bias_learning_rate is None:
            return learning_rate * self.bias_multiplier
        # A rate of 0, of a layer that is frozen, freezes its biases too.
        return tf.where(learning_rate > 0, self.bias_learning_rate, 0.0)

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "bias_multiplier": self.bias_multiplier,
            "bias_learning_rate": self.bias_learning_rate,
        }


@keras.saving.register_keras_serializable(package="keras_alexnet")
class MomentumSGD(LayerRates, AveragedWeights, ClippedGradients, DecayInGradient, _OnePassSGD):
    """SGD with momentum, weight decay in the gradient, and a learning rate of the biases' own.

    The rule of the paper (section 5), with g the gradient and wd the weight decay:

        v <- momentum * v - rate * (g + wd * w);  w <- w + v

    Caffe and the 2012 program give biases twice the rate. In the program the biases' rate also
    stays what it was when the kernels' falls.

    Args:
        learning_rate: of the kernels.
        momentum: from 0 to below 1.
        bias_multiplier: rate of the biases in units of the kernels'; not looked at where
            `bias_learning_rate` is given.
        bias_learning_rate: a rate of the biases that does not fall with the kernels', or None.
        name: of the optimizer.
        kwargs: those of the classes that are mixed in, and what Keras' optimizers take.
    """


@keras.saving.register_keras_serializable(package="keras_alexnet")
class Adam(LayerRates, AveragedWeights, ClippedGradients, DecayInGradient, keras.optimizers.Adam):
    """Keras' Adam, each variable updated on its own device, and with its decay in the gradient."""


def _is_bias(path: str) -> bool:
    return path.split("/")[-1] == "bias"


@dataclasses.dataclass(frozen=True)
class UpdateRecipe:
    """What decides an update besides gradient and learning rate.

    The meanings are those of the arguments of `MomentumSGD` and of the classes mixed into it.
    """

    momentum: float = 0.9
    bias_multiplier: float = 1.0
    bias_learning_rate: float | None = None
    decay: float = 0.0
    bias_decay: float = 0.0
    clip_norm: float | None = None
    average: AverageRule | None = None
    layer_rates: Mapping[str, LayerRate] = dataclasses.field(default_factory=dict)


def _sgd(rate: Rate, recipe: UpdateRecipe) -> MomentumSGD:
    return MomentumSGD(rate, **_arguments(recipe))


def _adam(rate: Rate, recipe: UpdateRecipe) -> Adam:
    # Momentum and the biases' rate belong to SGD's recipes; Adam rescales any gradient anyway.
    not_adams = ("momentum", "bias_multiplier", "bias_learning_rate")
    return Adam(rate, **{k: v for k, v in _arguments(recipe).items() if k not in not_adams})


def _arguments(recipe: UpdateRecipe) -> dict[str, object]:
    return {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}


# By the value of --optimizer, where it is not an optimizer of TensorFlow Addons.
OPTIMIZERS: Mapping[str, Callable[[Rate, UpdateRecipe], keras.optimizers.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
}


def make_optimizer(
    optimizer: str, rate: Rate, recipe: UpdateRecipe, options: Mapping[str, object]
) -> keras.optimizers.Optimizer:
    """The optimizer of a run.

    Args:
        optimizer: in `choices.OPTIMIZERS`.
        rate: learning rate.
        recipe: for those of `OPTIMIZERS`; of it those of TensorFlow Addons take the average alone.
        options: of those of TensorFlow Addons, by name.

    Raises:
        UserError: as `addons.make_optimizer`.
    """
    name = addons_name(optimizer)
    if name is None:
        return OPTIMIZERS[optimizer](rate, recipe)
    return addons.make_optimizer(name, rate, options, recipe.average)

"""Optimizers with the update rule and the per-bias rates of the paper, its program and Caffe."""

from collections.abc import Callable, Iterable, Mapping

import keras
import tensorflow as tf

from keras_alexnet.column_parallel.updates import UpdatesInPlace, beside


@keras.saving.register_keras_serializable(package="keras_alexnet")
class MomentumSGD(UpdatesInPlace, keras.optimizers.SGD):
    """SGD with momentum, and a learning rate of the biases' own.

    The rule of the paper (section 5), with g the gradient and wd the weight decay:

        v <- momentum * v - rate * (g + wd * w);  w <- w + v

    Keras' SGD is that rule where the decay is part of the gradient, as `AlexNet(weight_decay=)`
    makes it (Keras' own `weight_decay=` argument is a decoupled one and ten times weaker at
    momentum 0.9). Caffe and the 2012 program give biases twice the rate: with v linear in g, a
    multiplied gradient is a multiplied rate. In the program the biases' rate also stays what it
    was when the kernels' falls.

    Args:
        learning_rate: of the kernels.
        momentum: 0 to 1.
        bias_multiplier: rate of the biases in units of the kernels'; not looked at where
            `bias_learning_rate` is given.
        bias_learning_rate: a rate of the biases that does not fall with the kernels', or None.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.9,
        bias_multiplier: float = 1.0,
        bias_learning_rate: float | None = None,
        name: str = "momentum_sgd",
        **kwargs,
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, name=name, **kwargs)
        self.bias_multiplier = bias_multiplier
        self.bias_learning_rate = bias_learning_rate

    def apply_gradients(
        self, grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]], **kwargs
    ) -> object:
        """Applies (gradient, variable) pairs, the biases' gradients multiplied."""
        multiplier = self.bias_multiplier
        if self.bias_learning_rate is not None:
            # A rate of 0, of a network that is frozen, freezes the biases too.
            multiplier = tf.math.divide_no_nan(self.bias_learning_rate, self.learning_rate)

        def scaled(gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
            if not _is_bias(variable):
                return gradient
            with beside(variable):
                return gradient * multiplier

        return super().apply_gradients(
            [(scaled(gradient, variable), variable) for gradient, variable in grads_and_vars],
            **kwargs,
        )

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "bias_multiplier": self.bias_multiplier,
            "bias_learning_rate": self.bias_learning_rate,
        }


@keras.saving.register_keras_serializable(package="keras_alexnet")
class Adam(UpdatesInPlace, keras.optimizers.Adam):
    """Keras' Adam, each variable updated on the device that it is on."""


def _is_bias(variable: tf.Variable) -> bool:
    # "bias" under Keras 3, "conv1/bias:0" under Keras 2
    return variable.name.split("/")[-1].split(":")[0] == "bias"


def _sgd(
    rate: object, momentum: float, bias_multiplier: float, bias_learning_rate: float | None
) -> MomentumSGD:
    return MomentumSGD(rate, momentum, bias_multiplier, bias_learning_rate)


def _adam(
    rate: object, momentum: float, bias_multiplier: float, bias_learning_rate: float | None
) -> Adam:
    # Momentum and the biases' rate belong to SGD's recipes; Adam rescales any gradient anyway.
    del momentum, bias_multiplier, bias_learning_rate
    return Adam(rate)


# By the value of --optimizer: (rate or schedule, momentum, bias_multiplier, bias_learning_rate).
OPTIMIZERS: Mapping[str, Callable[..., keras.optimizers.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
}

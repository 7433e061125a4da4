"""Optimizers with the update rule and the per-bias rates of the paper, its program and Caffe."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from keras_alexnet.network.choices import addons_name
from keras_alexnet.network.keras_compat import tf_variable
from keras_alexnet.network.profile import Profile
from keras_alexnet.training import addons, schedules
from keras_alexnet.training.options import TrainingOptions
from keras_alexnet.training.update_rules import PlainSGD, SharedRules


class DecayInGradient(SharedRules):
    """A mixin for optimizers whose weight decay is inside the gradient: g + weight_decay * w.

    It is the decay of the paper, of Caffe and of PyTorch's SGD: equal to a penalty
    weight_decay / 2 * w^2 in the loss, without its four passes over all weights. Keras' own
    `weight_decay` is subtracted from w beside the update, ten times weaker at momentum 0.9.

    Args:
        weight_decay: coefficient of the kernels.
        bias_decay: coefficient of the biases.
    """

    def __init__(
        self, *args, weight_decay: float | None = None, bias_decay: float = 0.0, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        # Not `self.weight_decay`, which Keras would subtract as well.
        self.gradient_decay = weight_decay or 0.0
        self.bias_decay = bias_decay

    def decayed(self, gradient, variable):
        """Return the gradient with the decay of a variable in it."""
        decay = self.bias_decay if self.is_bias(variable) else self.gradient_decay
        return gradient + decay * tf.convert_to_tensor(variable) if decay else gradient

    def is_bias(self, variable) -> bool:
        """Return whether a variable is a bias."""
        return self.path_of(variable).split("/")[-1] == "bias"

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        own = {"weight_decay": self.gradient_decay, "bias_decay": self.bias_decay}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """Create the optimizer; "decay" is what older .keras files call the weight decay."""
        config = dict(config)
        if "decay" in config:
            config["weight_decay"] = config.pop("decay")
        return super().from_config(config, custom_objects)


@keras.saving.register_keras_serializable(package="keras_alexnet")
class MomentumSGD(DecayInGradient, PlainSGD):
    """SGD with momentum, weight decay in the gradient, and a learning rate of the biases' own.

    The rule of the paper (section 5), with g the gradient and wd the weight decay:

        v <- momentum * v - rate * (g + wd * w);  w <- w + v

    Caffe and the 2012 program give biases twice the rate. In the program the biases' rate also
    stays what it was when the kernels' falls.

    Args:
        learning_rate: of the kernels.
        momentum: from 0 to below 1.
        bias_multiplier: rate of the biases / rate of the kernels; ignored where
            `bias_learning_rate` is given.
        bias_learning_rate: a rate of the biases that does not fall with the kernels', or None.
        name: of the optimizer.
        kwargs: arguments of `DecayInGradient`, of `SharedRules` and of Keras' optimizers.
    """

    def __init__(
        self,
        learning_rate: schedules.Rate = 0.01,
        momentum: float = 0.9,
        bias_multiplier: float = 1.0,
        bias_learning_rate: float | None = None,
        name: str = "momentum_sgd",
        **kwargs,
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, name=name, **kwargs)
        self.bias_multiplier = bias_multiplier
        self.bias_learning_rate = bias_learning_rate

    def update_weight(self, gradient, variable, learning_rate) -> None:
        """Update one variable by the paper's rule, in one pass instead of Keras' five."""
        decayed = self.decayed(gradient, variable)  # g + wd * w
        rate = self._bias_rate(learning_rate) if self.is_bias(variable) else learning_rate
        decayed, rate = tf.cast(decayed, variable.dtype), tf.cast(rate, variable.dtype)
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=decayed)
            return
        # v <- momentum * v - rate * decayed;  w <- w + v
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=tf_variable(self.momentums[self.index_of(variable)]).handle,
            lr=rate,
            grad=decayed,
            momentum=tf.cast(self.momentum, variable.dtype),
        )

    def _bias_rate(self, learning_rate):
        if self.bias_learning_rate is None:
            return learning_rate * self.bias_multiplier
        # A rate of 0, of a layer that is frozen, freezes its biases too.
        return tf.where(learning_rate > 0, self.bias_learning_rate, 0.0)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("bias_multiplier", "bias_learning_rate")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_alexnet")
class Adam(DecayInGradient, keras.optimizers.Adam):
    """Keras' Adam, with the weight decay in the gradient."""

    def update_weight(self, gradient, variable, learning_rate) -> None:
        """Update one variable by Adam's rule."""
        super().update_weight(self.decayed(gradient, variable), variable, learning_rate)


# By `recipe.optimizer`, where it is not an optimizer of TensorFlow Addons.
OPTIMIZERS: Mapping[str, type[DecayInGradient]] = {"sgd": MomentumSGD, "adam": Adam}


def make_optimizer(
    profile: Profile, recipe: TrainingOptions, steps: int
) -> keras.optimizers.Optimizer:
    """Return the optimizer of a run, not built yet.

    Args:
        profile: its schedule's drops and its biases' multipliers are taken.
        recipe: of the run.
        steps: an epoch.

    Raises:
        ValueError: as `addons.make_optimizer`.
    """
    total = steps * recipe.epochs
    policy = schedules.SCHEDULES[recipe.schedule]
    rate = policy.rate(
        schedules.Course(
            learning_rate=recipe.learning_rate,
            steps=total,
            warmup_steps=round(steps * recipe.warmup_epochs),
            factor=profile.learning_rate_factor,
            drops_at=tuple(epoch / profile.epochs for epoch in profile.drop_epochs),
        )
    )
    if name := addons_name(recipe.optimizer):
        return addons.make_optimizer(name, rate, recipe.optimizer_options or {}, recipe.average)
    arguments = {
        "weight_decay": recipe.weight_decay,
        "bias_decay": recipe.weight_decay * profile.bias_decay_multiplier,
        "clip_norm": recipe.clip_norm,
        "average": recipe.average,
        "layer_rates": {
            layer: [(round(total * part), multiplier) for part, multiplier in changes]
            for layer, changes in policy.of_layers.items()
        },
    }
    if recipe.optimizer == "adam":  # Adam rescales gradients: no momentum, no rate of the biases
        return Adam(rate, **arguments)
    multiplier = profile.bias_learning_rate_multiplier
    own_rate = None if profile.bias_learning_rate_falls else recipe.learning_rate * multiplier
    return MomentumSGD(rate, recipe.momentum, multiplier, own_rate, **arguments)

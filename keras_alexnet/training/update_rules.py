"""Shared parts of this project's optimizers: placement, layer rates, clipping, averages.

What a run does not use adds nothing to the graph.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import keras
import tensorflow as tf

from keras_alexnet.network.choices import SWA
from keras_alexnet.network.keras_compat import UpdateRule, inner_optimizer, tf_variable

# (step, multiplier): from that step on the layer's rate is the optimizer's times the multiplier.
LayerRate = Sequence[tuple[int, float]]
AverageRule = float | SWA


def beside(variable) -> contextlib.AbstractContextManager:
    """Place operations on the device of a variable; a strategy places them by itself."""
    if tf.distribute.has_strategy():
        return contextlib.nullcontext()
    return tf.device(tf_variable(variable).device)


class SharedRules(UpdateRule):
    """A mixin for a Keras optimizer, named before its class.

    A subclass says in `update_weight` how one weight changes. Around it:

    - State and arithmetic stay on the device of the variable that they belong to. Keras leaves
      their place to TensorFlow, which takes its first device for all, and adds an operation through
      which all gradients go together. With one device or a strategy, this changes nothing.
    - Gradients whose global norm exceeds `clip_norm` are scaled down to it (Pascanu et al., 2013),
      after the sum over the replicas. Keras' `global_clipnorm` clips each replica's share before
      the sum, so that two replicas do not compute what one device does.
    - An average of the weights is kept, see `kept_share`. Keras' `use_ema` has one such rule, but
      updates its averages outside of the strategy's update.

    Args:
        clip_norm: largest global norm of the gradients, above 0; None for no limit.
        average: momentum of a moving average, such as 0.999, or SWA (a list of its fields, in a
            config); None for no average.
        layer_rates: by layer, changes of its learning rate in the order of their steps. A
            multiplier of 0 freezes a layer: its velocity, if it has one, still runs out, as in the
            2012 program.
    """

    def __init__(
        self,
        *args,
        clip_norm: float | None = None,
        average: AverageRule | Sequence | None = None,
        layer_rates: Mapping[str, LayerRate] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.clip_norm = clip_norm
        self.average = SWA(*average) if isinstance(average, Sequence) else average
        self.averages: list = []
        self.layer_rates = {
            layer: [(int(step), float(multiplier)) for step, multiplier in changes]
            for layer, changes in (layer_rates or {}).items()
        }

    def build(self, variables: Sequence) -> None:
        """Create the optimizer's variables, the averages last."""
        super().build(variables)
        if self.average is not None and not self.averages:
            self.averages = [
                self.add_variable_from_reference(variable, "average") for variable in variables
            ]

    def add_variable_from_reference(self, *args, **kwargs):
        """Create a variable of the optimizer on the device of the one it belongs to."""
        # Keras 3 passes that one first, Keras 2 by this name.
        with beside(args[0] if args else kwargs["model_variable"]):
            return super().add_variable_from_reference(*args, **kwargs)

    def summed_over_replicas(self, pairs: Iterable[tuple]) -> Iterable[tuple]:
        """Sum the gradients over the replicas, then clip them."""
        if tf.distribute.has_strategy():
            pairs = super().summed_over_replicas(pairs)
        if self.clip_norm is None:
            return pairs
        gradients, variables = zip(*pairs, strict=True)
        clipped, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        return list(zip(clipped, variables, strict=True))

    def update_step(self, gradient, variable, learning_rate):
        """Update one variable at its layer's rate, and then its average."""
        path = self.path_of(variable)
        changes = self.layer_rates.get(_layer_of(path)) if self.layer_rates else None
        if changes:
            learning_rate *= _current(changes, self.iterations)
        with beside(variable):
            self.update_weight(gradient, variable, learning_rate)
            if self.average is not None:
                average = tf_variable(self.averages[self.index_of(variable)])
                share = tf.cast(kept_share(self.average, self.iterations), average.dtype)
                average.assign(share * average + (1 - share) * tf.convert_to_tensor(variable))

    def update_weight(self, gradient, variable, learning_rate) -> None:
        """Update one variable by the optimizer's own rule."""
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("clip_norm", "average", "layer_rates")}
        return {**super().get_config(), **own}


class PlainSGD(keras.optimizers.SGD):
    """Keras' SGD, without velocities where there is no momentum, also in Keras 2."""

    def build(self, variables: Sequence) -> None:
        """Create the velocities, if there is momentum."""
        if self.momentum:
            super().build(variables)
        else:
            super(keras.optimizers.SGD, self).build(variables)  # what every optimizer has

    def update_step(self, gradient, variable, *rate):
        """Update one variable; only Keras 3 passes a learning rate."""
        if self.momentum:
            super().update_step(gradient, variable, *rate)
        else:
            rate = tf.cast(rate[0] if rate else self.learning_rate, variable.dtype)
            variable.assign_sub(rate * tf.cast(gradient, variable.dtype))


def kept_share(rule: AverageRule, step: tf.Variable) -> tf.Tensor:
    """Return the share of an average that a step keeps: a <- share * a + (1 - share) * w.

    Args:
        rule: the momentum of a moving average, or SWA. Both start as the weights after the first
            step.
        step: number of the step, from 0.

    Returns:
        Scalar, float32.
    """
    step = tf.convert_to_tensor(step)
    if not isinstance(rule, SWA):
        return tf.where(tf.equal(step, 0), 0.0, tf.constant(rule))
    since = step - rule.start
    taken = tf.cast(since // rule.period, tf.float32)
    later = tf.where(tf.equal(since % rule.period, 0), taken / (taken + 1.0), 1.0)
    return tf.where(since <= 0, 0.0, later)


def averages_of(optimizer: keras.optimizers.Optimizer) -> list:
    """Return the averages of the trainable variables, in their order; empty if none are kept."""
    return getattr(inner_optimizer(optimizer), "averages", [])


def _layer_of(path: str) -> str:
    return path.split("/")[-2].removesuffix("_a").removesuffix("_b")  # see columns/weights.py


def _current(changes: LayerRate, step: tf.Variable) -> tf.Tensor:
    """Return the multiplier at a step, float32."""
    multiplier = tf.constant(1.0)
    for start, value in changes:
        multiplier = tf.where(tf.convert_to_tensor(step) >= start, value, multiplier)
    return multiplier

"""What can be mixed into a Keras optimizer: clipping, a layer's own rate, a moving average.

Each is a class to be named before the optimizer's: `class SGD(ClippedGradients,
keras.optimizers.SGD)`. What is not asked for adds nothing to the graph.

Optimizers whose state and arithmetic stay on the device of the variable that they update.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import keras
import tensorflow as tf

from keras_alexnet.network.choices import SWA
from keras_alexnet.network.keras_compat import UpdateRule, inner_optimizer, tf_variable


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


# (step, multiplier): from that step on the layer's rate is the optimizer's times the multiplier.
LayerRate = Sequence[tuple[int, float]]


class ClippedGradients(UpdatesInPlace):
    """Gradients that are longer than a limit, all weights together, are shortened to it.

    Keras' `global_clipnorm` clips what each replica computed, before the replicas' sum: then two
    replicas do not compute what one does. Here the sum is clipped (Pascanu et al., 2013).

    Args:
        clip_norm: the longest Euclidean norm, above 0; None for no limit.
    """

    def __init__(self, *args, clip_norm: float | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.clip_norm = clip_norm

    def summed_over_replicas(self, pairs: Iterable[tuple]) -> Iterable[tuple]:
        """The sum over the replicas, and then the limit."""
        pairs = super().summed_over_replicas(pairs)
        if self.clip_norm is None:
            return pairs
        gradients, variables = zip(*pairs, strict=True)
        clipped, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        return list(zip(clipped, variables, strict=True))

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {**super().get_config(), "clip_norm": self.clip_norm}


class LayerRates(UpdatesInPlace):
    """Some layers learn at another multiple of the rate, which changes with the step.

    A multiplier of 0 freezes a layer: its velocity, if it has one, still runs out, as in the
    program of 2012.

    Args:
        layer_rates: by the layer's name, the changes in the order of their steps.
    """

    def __init__(self, *args, layer_rates: Mapping[str, LayerRate] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.layer_rates = {
            layer: [(int(step), float(multiplier)) for step, multiplier in changes]
            for layer, changes in (layer_rates or {}).items()
        }

    def update_step(self, gradient, variable, learning_rate):
        """Updates a variable at its layer's rate."""
        changes = self.layer_rates.get(self._layer_of(variable)) if self.layer_rates else None
        if changes:
            learning_rate *= _current(changes, self.iterations)
        return super().update_step(gradient, variable, learning_rate)

    def _layer_of(self, variable: tf.Variable) -> str:
        layer = self.path_of(variable).split("/")[-2]
        return layer.removesuffix("_a").removesuffix("_b")  # see columns/weights.py

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {**super().get_config(), "layer_rates": self.layer_rates}


def _current(changes: LayerRate, step: tf.Variable) -> tf.Tensor:
    """The multiplier at a step, float32."""
    multiplier = tf.constant(1.0)
    for start, value in changes:
        multiplier = tf.where(tf.convert_to_tensor(step) >= start, value, multiplier)
    return multiplier


AverageRule = float | SWA


def kept_share(rule: AverageRule, step: tf.Variable) -> tf.Tensor:
    """What share of an average stays at a step: a <- share * a + (1 - share) * w.

    Args:
        rule: the momentum of a moving average, or SWA. Both begin as the weights after the first
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


class AveragedWeights(UpdatesInPlace):
    """Keeps an average of the weights, by one of the rules of `kept_share`.

    Keras' own `use_ema` would do for one of them, but updates its averages outside of the
    strategy's update.

    Args:
        average: the momentum of a moving average, such as 0.999, or SWA, of which a config may have
            made a list; None for no average.
    """

    def __init__(self, *args, average: AverageRule | Sequence | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.average = SWA(*average) if isinstance(average, Sequence) else average
        self.averages: list = []

    def build(self, variables: Sequence) -> None:
        """Makes the optimizer's variables, the averages the last of them."""
        super().build(variables)
        if self.average is not None and not self.averages:
            self.averages = [
                self.add_variable_from_reference(variable, "average") for variable in variables
            ]

    def update_step(self, gradient, variable, *args, **kwargs):
        """Updates a variable, and then its average."""
        super().update_step(gradient, variable, *args, **kwargs)
        if self.average is None:
            return
        average = tf_variable(self.averages[self.index_of(variable)])
        with beside(variable):
            share = tf.cast(kept_share(self.average, self.iterations), average.dtype)
            average.assign(share * average + (1 - share) * tf.convert_to_tensor(variable))

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {**super().get_config(), "average": self.average}


def averages_of(optimizer: keras.optimizers.Optimizer) -> list:
    """The averages of the trainable variables, in their order; empty where none are kept.

    Args:
        optimizer: also one that a loss scale is around.
    """
    return getattr(inner_optimizer(optimizer), "averages", [])

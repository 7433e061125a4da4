"""Optimizers of TensorFlow Addons, by name: `--optimizer=tfa:NAME`.

SGDW, AdamW, LAMB and LazyAdam are this project's, equal on both stacks. Every other name passes
through to tensorflow_addons, which no TensorFlow after 2.15 can import; this is the only module
that does.
"""

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Mapping

import keras
import tensorflow as tf

from keras_alexnet.network import keras_compat
from keras_alexnet.network.choices import ADDONS_OPTIMIZERS
from keras_alexnet.training.schedules import Rate
from keras_alexnet.training.update_rules import AverageRule, PlainSGD, SharedRules

if keras_compat.IS_KERAS_2:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that its development has ended
        import tensorflow_addons as tfa

_NEEDED = {"AdamW": ("weight_decay",), "SGDW": ("weight_decay",)}
_NO_OPTIONS = {
    *("self", "name", "learning_rate", "optimizer", "use_locking", "kwargs"),
    "exclude_from_weight_decay",  # it knows no replica's copy of a variable
}


class DecoupledDecay(SharedRules):
    """A mixin for an optimizer that takes decay * w off each w before its own step.

        w <- w - decay * w;  then the optimizer's step, with the gradient of the w before

    That is SGDW and AdamW of Loshchilov and Hutter (2019) as TensorFlow Addons has them: the decay
    is **not** multiplied by the learning rate, so that it does not fall with it. Keras' and
    PyTorch's decay is this one divided by the rate; the paper's 0.0005 at a rate of 0.01 is
    0.000005 here.

    Args:
        weight_decay: from 0 to below 1, of kernels and biases alike.

    Raises:
        ValueError: `weight_decay` is out of this range.
    """

    def __init__(self, *args, weight_decay: float, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= weight_decay < 1:
            raise ValueError(f"weight_decay must be from 0 to below 1. Received: {weight_decay}.")
        self.decoupled_decay = weight_decay

    def update_weight(self, gradient, variable, learning_rate) -> None:
        """Let one variable decay, then update it."""
        decay = tf.cast(self.decoupled_decay, variable.dtype)
        variable.assign_sub(decay * tf.convert_to_tensor(variable))
        super().update_weight(gradient, variable, learning_rate)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "weight_decay": self.decoupled_decay}


@keras.saving.register_keras_serializable(package="keras_alexnet")
class SGDW(DecoupledDecay, PlainSGD):
    """SGD with momentum and the decay of `DecoupledDecay`."""


@keras.saving.register_keras_serializable(package="keras_alexnet")
class AdamW(DecoupledDecay, keras.optimizers.Adam):
    """Adam with the decay of `DecoupledDecay`."""


@keras.saving.register_keras_serializable(package="keras_alexnet")
class LazyAdam(SharedRules, keras.optimizers.Adam):
    """Adam: for dense gradients, such as this network's, LazyAdam is Adam."""


@keras.saving.register_keras_serializable(package="keras_alexnet")
class LAMB(SharedRules, keras.optimizers.Adam):
    """LAMB (You et al., 2020): Adam's direction, as long as a share of the weights' own norm.

    Keras 2 has none, and Keras 3's has another epsilon.
    """

    def __init__(self, *args, epsilon: float = 1e-6, **kwargs) -> None:
        super().__init__(*args, epsilon=epsilon, **kwargs)

    def update_weight(self, gradient, variable, learning_rate) -> None:
        """Update one variable by LAMB's rule."""
        index = self.index_of(variable)
        first, second = (
            keras_compat.tf_variable(self._momentums[index]),
            keras_compat.tf_variable(self._velocities[index]),
        )
        first.assign_add((gradient - first) * (1 - self.beta_1))
        second.assign_add((tf.square(gradient) - second) * (1 - self.beta_2))
        step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, variable.dtype)
        mean = first / (1.0 - tf.cast(self.beta_1, variable.dtype) ** step)
        square = second / (1.0 - tf.cast(self.beta_2, variable.dtype) ** step)
        update = mean / (tf.sqrt(square) + self.epsilon)
        weight_norm = tf.sqrt(tf.reduce_sum(tf.square(tf.convert_to_tensor(variable))))
        update_norm = tf.sqrt(tf.reduce_sum(tf.square(update)))
        is_usable = (weight_norm > 0) & (update_norm > 0)
        ratio = tf.where(is_usable, weight_norm / update_norm, 1.0)
        variable.assign_sub(ratio * tf.cast(learning_rate, variable.dtype) * update)


_ADAM_OPTIONS = ("beta_1", "beta_2", "epsilon", "amsgrad")
# The optimizers that both stacks have, and their options.
_OWN = {
    "AdamW": (AdamW, ("weight_decay", *_ADAM_OPTIONS)),
    "LAMB": (LAMB, ("beta_1", "beta_2", "epsilon")),
    "LazyAdam": (LazyAdam, _ADAM_OPTIONS),
    "SGDW": (SGDW, ("weight_decay", "momentum", "nesterov")),
}


def make_optimizer(
    name: str, rate: Rate, options: Mapping[str, object], average: AverageRule | None = None
) -> keras.optimizers.Optimizer:
    """Return an optimizer that TensorFlow Addons has.

    Args:
        name: in `choices.ADDONS_OPTIMIZERS`.
        rate: learning rate.
        options: by the names that TensorFlow Addons gives them.
        average: of the weights, to be kept beside them; see `update_rules.averages_of`.

    Raises:
        ValueError: no such optimizer, none on this stack, or it does not take an option or average.
    """
    if name not in ADDONS_OPTIMIZERS:
        raise ValueError(
            f"optimizer must be one of tfa:{', tfa:'.join(ADDONS_OPTIMIZERS)}, but is tfa:{name}; "
            "take one of these"
        )
    if name in _OWN:
        kind, known = _OWN[name]
        arguments = {"average": average}
    elif not keras_compat.IS_KERAS_2:
        raise ValueError(
            f"{name} needs TensorFlow Addons, whose last release goes with TensorFlow 2.15: "
            "pip install .[addons] in an environment of Python 3.11; without it there are "
            f"{', '.join(_OWN)}"
        )
    else:
        kind, arguments = getattr(tfa.optimizers, name), {}
        known = [each for each in inspect.signature(kind).parameters if each not in _NO_OPTIONS]
        if average is not None:
            raise ValueError(
                f"an average of the weights goes with {', '.join(_OWN)}, sgd and adam, but the "
                f"optimizer is tfa:{name}; leave the average out"
            )
    wrong = [f"there is no {option}" for option in options if option not in known]
    wrong += [f"{option} is needed" for option in _NEEDED.get(name, ()) if option not in options]
    if wrong:
        raise ValueError(
            f"the options of {name} are {', '.join(known) or 'none'}; {', '.join(wrong)}"
        )
    with _explain_refused(name, options):
        return kind(learning_rate=rate, **arguments, **options)


def check(name: str, options: Mapping[str, object], average: AverageRule | None = None) -> None:
    """Take a step with an optimizer, which checks its options; raise as `make_optimizer`."""
    optimizer = make_optimizer(name, 0.1, options, average)
    with _explain_refused(name, options):
        weights = tf.Variable([1.0], name="fc8/kernel")
        keras_compat.build_optimizer(optimizer, [weights])
        keras_compat.apply_gradients(optimizer, [tf.constant([1.0])], [weights])


@contextlib.contextmanager
def _explain_refused(name: str, options: Mapping[str, object]) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, AttributeError, tf.errors.OpError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{name} does not take {dict(options)}: {first_line}") from error

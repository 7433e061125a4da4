"""What TensorFlow Addons has for a run: its optimizers by name, and image operations.

The only module that imports tensorflow_addons, which no TensorFlow after 2.15 can: the default
stack has, under the same names and with the same options, what Keras 3 has of the same.

What else TensorFlow Addons has for a run, this project has for both stacks, each for a reason:

- MovingAverage and SWA: `update_rules.AveragedWeights`, also around their optimizers here. The same
  averages, but never the zeros that their SWA has before its first taking, nor the starting weights
  that their MovingAverage begins with unless start_step is 1: they are validated after each epoch.
- TimeStopping: `stopping.TimeLimit`.
- TQDMProgressBar: `progress.Progress`, which is tqdm too. Theirs takes the mean of what it is told
  at each step, where the loop tells means of the epoch so far, and not a number at the first step;
  it begins a resumed epoch at 0, and prints to stdout, which has the result alone.
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from data_prep.command_line import UserError
from keras_alexnet.network.choices import ADDONS_OPTIMIZERS
from keras_alexnet.network.keras_compat import IS_KERAS_2, apply_gradients, around, build_optimizer
from keras_alexnet.training.schedules import Rate
from keras_alexnet.training.update_rules import (
    AveragedWeights,
    AverageRule,
    UpdatesInPlace,
    beside,
    kept_share,
)

if IS_KERAS_2:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that its development has ended
        import tensorflow_addons as tfa

_NEEDED = {"AdamW": ("weight_decay",), "Lookahead": ("inner",), "SGDW": ("weight_decay",)}
_NO_OPTIONS = {
    *("self", "name", "learning_rate", "optimizer", "use_locking", "kwargs"),
    # It knows no replica's copy of a variable, and nothing at all inside of another optimizer.
    "exclude_from_weight_decay",
}
# SGD is Keras' own, and no name of its own here: --optimizer=sgd has it.
_SGD, _SGD_OPTIONS = "SGD", ("momentum", "nesterov")


class DecoupledDecay(UpdatesInPlace):
    """An optimizer to which this is mixed in takes decay * w off each w before its own step.

        w <- w - decay * w;  then the optimizer's step, with the gradient of the w before

    That is SGDW and AdamW of Loshchilov and Hutter (2019) as TensorFlow Addons has them: the decay
    is **not** multiplied by the learning rate, so that it does not fall when the rate does. A decay
    of Keras' or PyTorch's is this one divided by the rate; 0.0005 of the paper at a rate of 0.01 is
    0.000005 here.

    Args:
        weight_decay: from 0 to below 1, of kernels and biases alike.

    Raises:
        ValueError: it is another.
    """

    def __init__(self, *args, weight_decay: float, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= weight_decay < 1:
            raise ValueError(f"weight_decay must be from 0 to below 1. Received: {weight_decay}.")
        self.decoupled_decay = weight_decay

    def update_step(self, gradient, variable, *args, **kwargs):
        """Lets a variable decay, and then updates it."""
        with beside(variable):
            variable.assign_sub(
                tf.cast(self.decoupled_decay, variable.dtype) * tf.convert_to_tensor(variable)
            )
        return super().update_step(gradient, variable, *args, **kwargs)

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {**super().get_config(), "weight_decay": self.decoupled_decay}


@keras.saving.register_keras_serializable(package="keras_alexnet")
class SGDW(AveragedWeights, DecoupledDecay, keras.optimizers.SGD):
    """SGD with momentum and a decoupled decay, which `DecoupledDecay` describes."""


@keras.saving.register_keras_serializable(package="keras_alexnet")
class AdamW(AveragedWeights, DecoupledDecay, keras.optimizers.Adam):
    """Adam with a decoupled decay, which `DecoupledDecay` describes."""


@keras.saving.register_keras_serializable(package="keras_alexnet")
class LazyAdam(AveragedWeights, keras.optimizers.Adam):
    """Adam: of dense gradients, such as this network's, LazyAdam makes what Adam makes."""


if IS_KERAS_2:

    class _Averaged(tfa.optimizers.AveragedOptimizerWrapper):
        """An optimizer of TensorFlow Addons that keeps the averages of `AveragedWeights`."""

        def __init__(
            self, optimizer: keras.optimizers.legacy.Optimizer, average: AverageRule
        ) -> None:
            super().__init__(optimizer)
            self.average = average
            self.averages: list = []

        def _create_slots(self, var_list):
            super()._create_slots(var_list)
            self.averages = [self.get_slot(variable, "average") for variable in var_list]

        def average_op(self, var, average_var, local_apply_state):
            share = tf.cast(kept_share(self.average, self.iterations), var.dtype)
            return average_var.assign(share * average_var + (1 - share) * var)

        # Theirs looks for it in the next optimizer itself, where Lookahead has not got it.
        @property
        def learning_rate(self):
            return self._optimizer.learning_rate

        @learning_rate.setter
        def learning_rate(self, learning_rate):
            self._optimizer.learning_rate = learning_rate

        @property
        def lr(self):  # what Keras' own callbacks call it
            return self.learning_rate

else:

    @keras.saving.register_keras_serializable(package="keras_alexnet")
    class LAMB(AveragedWeights, keras.optimizers.Lamb):
        """Keras' Lamb with the epsilon that LAMB of TensorFlow Addons has."""

        def __init__(self, *args, epsilon: float = 1e-6, **kwargs) -> None:
            super().__init__(*args, epsilon=epsilon, **kwargs)


class _Equal(NamedTuple):
    """What the default stack has of the same.

    Attributes:
        kind: its class.
        options: that both take, by name.
    """

    kind: type[keras.optimizers.Optimizer]
    options: tuple[str, ...]


_ADAM_OPTIONS = ("beta_1", "beta_2", "epsilon", "amsgrad")
_EQUALS: Mapping[str, _Equal] = (
    {}
    if IS_KERAS_2
    else {
        "AdamW": _Equal(AdamW, ("weight_decay", *_ADAM_OPTIONS)),
        "LAMB": _Equal(LAMB, ("beta_1", "beta_2", "epsilon")),
        "LazyAdam": _Equal(LazyAdam, _ADAM_OPTIONS),
        "SGDW": _Equal(SGDW, ("weight_decay", *_SGD_OPTIONS)),
    }
)


def make_optimizer(
    name: str,
    rate: Rate,
    options: Mapping[str, object],
    average: AverageRule | None = None,
) -> keras.optimizers.Optimizer:
    """An optimizer of TensorFlow Addons, or what Keras has of the same.

    Args:
        name: in `choices.ADDONS_OPTIMIZERS`.
        rate: learning rate. COCOB only has it to tell; Lookahead gives it to the optimizer inside.
        options: by the names that TensorFlow Addons gives them. Of Lookahead one is "inner": the
            name of another optimizer, "SGD" for Keras' own, and its options, as
            {"inner": {"name": "SGD", "momentum": 0.9}, "sync_period": 6}.
        average: of the weights, to be kept beside them; see `update_rules.averages_of`.

    Raises:
        UserError: there is no such optimizer, none on this stack, or an option is not one of its
            own or has a value that it does not take.
    """
    if name not in ADDONS_OPTIMIZERS:
        raise UserError(
            f"an optimizer of TensorFlow Addons is one of {', '.join(ADDONS_OPTIMIZERS)}, but "
            f"{name} was asked for; take one of these"
        )
    if not IS_KERAS_2 and name not in _EQUALS:
        raise not_here(name, _EQUALS)
    known, make = _of_addons(name) if IS_KERAS_2 else _of_keras(name)
    _require_options(name, options, known)
    with _refused_values_told(name, options):
        return make(rate, options, average)


def not_here(name: str, others: Collection[str]) -> UserError:
    """The error of what the stack of TensorFlow Addons alone has.

    Args:
        name: of what was asked for.
        others: what there is without it.
    """
    return UserError(
        f"{name} needs TensorFlow Addons, whose last release goes with TensorFlow 2.15: "
        "pip install .[addons] in an environment of Python 3.11; without it there are "
        f"{', '.join(others)}"
    )


def check(name: str, options: Mapping[str, object]) -> None:
    """Takes a step with an optimizer, for most of them only look at their options in there.

    Raises:
        UserError: as `make_optimizer`.
    """
    optimizer = make_optimizer(name, 0.1, options)
    with _refused_values_told(name, options):
        weights = tf.Variable([1.0], name="fc8/kernel")
        build_optimizer(optimizer, [weights])
        apply_gradients(optimizer, [tf.constant([1.0])], [weights])


@contextlib.contextmanager
def _refused_values_told(name: str, options: Mapping[str, object]) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, AttributeError, tf.errors.InvalidArgumentError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"{name} does not take {dict(options)}: {first_line}") from error


def begin_at(optimizer: keras.optimizers.Optimizer, variables: Sequence) -> None:
    """Lets the slow weights of Lookahead begin as the weights, when those were set after it.

    Args:
        optimizer: of a compiled model, built; any.
        variables: that it updates.
    """
    for one in around(optimizer):
        if IS_KERAS_2 and isinstance(one, tfa.optimizers.Lookahead):
            for variable in variables:
                one.get_slot(variable, "slow").assign(variable)


def _of_keras(name: str) -> tuple[Collection[str], Callable]:
    """The names of its options, and what makes the optimizer of rate, options and average."""
    kind, known = _EQUALS[name]
    return known, lambda rate, options, average: kind(rate, average=average, **options)


def _of_addons(name: str) -> tuple[Collection[str], Callable]:
    kind = getattr(tfa.optimizers, name)
    known = [
        option
        for option in inspect.signature(kind.__init__).parameters
        if option not in _NO_OPTIONS
    ]
    make = {"COCOB": _cocob, "Lookahead": _lookahead}.get(
        name, lambda rate, options: kind(learning_rate=rate, **options)
    )

    def averaged(
        rate: Rate, options: Mapping[str, object], average: AverageRule | None
    ) -> keras.optimizers.Optimizer:
        optimizer = make(rate, options)
        return optimizer if average is None else _Averaged(optimizer, average)

    return ["inner", *known] if name == "Lookahead" else known, averaged


def _cocob(rate: Rate, options: Mapping[str, object]) -> keras.optimizers.Optimizer:
    optimizer = tfa.optimizers.COCOB(**options)
    # It never looks at it. Schedules and the metrics of an epoch take it that every one has one.
    optimizer._set_hyper("learning_rate", rate)
    return optimizer


def _lookahead(rate: Rate, options: Mapping[str, object]) -> keras.optimizers.Optimizer:
    outer = dict(options)
    inner = outer.pop("inner")
    if not isinstance(inner, Mapping) or "name" not in inner:
        raise UserError(
            "the option inner of Lookahead is a name and that optimizer's options, as "
            f'{{"name": "SGD", "momentum": 0.9}}, but {inner!r} came'
        )
    inner = dict(inner)
    name = inner.pop("name")
    if name == "Lookahead":
        raise UserError("Lookahead is not around another Lookahead; name another as inner")
    if name == _SGD:
        _require_options(_SGD, inner, _SGD_OPTIONS)
        wrapped = keras.optimizers.legacy.SGD(rate, **inner)
    else:
        wrapped = make_optimizer(name, rate, inner)
    return tfa.optimizers.Lookahead(wrapped, **outer)


def _require_options(name: str, options: Collection[str], known: Collection[str]) -> None:
    wrong = [f"there is no {option}" for option in options if option not in known]
    wrong += [f"{option} is needed" for option in _NEEDED.get(name, ()) if option not in options]
    if wrong:
        raise UserError(
            f"the options of {name} are {', '.join(known) or 'none'}; {', '.join(wrong)}"
        )


def _rotate(images: tf.Tensor, angles: tf.Tensor, fill: float) -> tf.Tensor:
    return tfa.image.rotate(images, angles, interpolation="bilinear", fill_value=fill)


def _translate(images: tf.Tensor, shifts: tf.Tensor, fill: float) -> tf.Tensor:
    return tfa.image.translate(images, shifts, interpolation="bilinear", fill_value=fill)


def _transform(images: tf.Tensor, transforms: tf.Tensor, fill: float) -> tf.Tensor:
    return tfa.image.transform(images, transforms, interpolation="bilinear", fill_value=fill)


def _cutout(images: tf.Tensor, centres: tf.Tensor, side: int, fill: float) -> tf.Tensor:
    return tfa.image.cutout(images, side, centres, fill)


def _hsv_in_yiq(images: tf.Tensor, changes: tf.Tensor) -> tf.Tensor:
    return _photo_by_photo(
        lambda image, change: tfa.image.adjust_hsv_in_yiq(image, change[0], change[1], change[2]),
        images,
        changes,
    )


def _gaussian_filter2d(images: tf.Tensor, sigma: float, side: int) -> tf.Tensor:
    return tfa.image.gaussian_filter2d(images, side, sigma)


def _sharpness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    return _photo_by_photo(tfa.image.sharpness, images, factors)


def _median_filter2d(images: tf.Tensor, side: int) -> tf.Tensor:
    return tfa.image.median_filter2d(images, side)


def _photo_by_photo(
    change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], images: tf.Tensor, of_photos: tf.Tensor
) -> tf.Tensor:
    """For what tfa.image does in one way to all photos of a batch."""
    return tf.map_fn(
        lambda pair: change(*pair),
        (images, of_photos),
        fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
    )


# Of tfa.image, from images float32 [B, S, S, 3] in 0-255 to such images; none on the default stack.
# Empty places become `fill`. Other arguments:
#   rotate             angles float32 [B], radians, counterclockwise
#   translate          shifts float32 [B, 2], (x, y), pixels
#   transform          transforms float32 [B, 8], as of `tfa.image.transform`
#   cutout             centres int32 [B, 2], (y, x), and the even side of the squares, pixels
#   hsv_in_yiq         changes float32 [B, 3]: hue plus, in radians; saturation and value times
#   gaussian_filter2d  standard deviation, and the odd side of the kernel, pixels
#   sharpness          factors float32 [B]: 1 for none, 0 for smooth; whole grey levels come out
#   median_filter2d    side of the window, pixels
IMAGE_OPERATIONS: Mapping[str, Callable[..., tf.Tensor]] = (
    {
        "rotate": _rotate,
        "translate": _translate,
        "transform": _transform,
        "cutout": _cutout,
        "hsv_in_yiq": _hsv_in_yiq,
        "gaussian_filter2d": _gaussian_filter2d,
        "sharpness": _sharpness,
        "median_filter2d": _median_filter2d,
    }
    if IS_KERAS_2
    else {}
)

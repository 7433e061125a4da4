"""The fields that the systems called AlexNet differ in; profiles.py has the systems themselves.

Nothing here imports TensorFlow, so a command line offers names at once.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

LAYER_NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")  # with weights
CONV_KERNELS = (11, 5, 3, 3, 3)  # sides of conv1 ... conv5, the same in all; section 3.5
# The smallest padded input whose pool5 still has a pixel: 67 -> 15 -> 7 -> 3 -> 1. Pooling
# windows of 2 pixels would need less; one bound holds for a network and its ablations.
SMALLEST_PADDED_INPUT = 67
_WIDTH_MULTIPLE = 8
# The Keras initializers that draw from a fan-in or a fan-out and take no other argument.
INITIALIZERS = tuple(
    f"{by}_{kind}" for by in ("glorot", "he", "lecun") for kind in ("normal", "uniform")
)
FAN_IN_UNIFORM = "fan_in_uniform"
KERNEL_STARTS = (*INITIALIZERS, FAN_IN_UNIFORM)
REMOVABLE_LAYERS = ("conv3", "conv4", "conv5")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


class Rule(NamedTuple):
    """The values that a field may hold, as a function and as the end of "must be"."""

    allows: Callable[[object], bool]
    text: str


def _tuple_of(rule: Rule, count: int | None = None) -> Rule:
    def allows(value: object) -> bool:
        return isinstance(value, tuple) and all(map(rule.allows, value))

    if count is None:
        return Rule(allows, f"a tuple, each {rule.text}")
    return Rule(
        lambda value: allows(value) and len(value) == count, f"a tuple of {count}, each {rule.text}"
    )


def _or_none(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.allows(value), f"None or {rule.text}")


def _one_of(*choices: object) -> Rule:
    # 1 == True in Python, so the type has to be the same too.
    return Rule(
        lambda value: any(type(value) is type(choice) and value == choice for choice in choices),
        f"one of {', '.join(map(repr, choices))}",
    )


def _is_order(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and all(name in ("relu", "lrn", "map_norm", "pool") for name in value)
        and len(set(value)) == len(value)
        and {"relu", "pool"} <= set(value)
    )


def _is_part_in_order(value: object) -> bool:
    return isinstance(value, tuple) and value == tuple(
        name for name in REMOVABLE_LAYERS if name in value
    )


_TEXT = Rule(lambda value: isinstance(value, str) and bool(value.strip()), "a text, not empty")
_COUNT = Rule(lambda value: _is_int(value) and value > 0, "an int above 0")
_COUNT_OR_0 = Rule(lambda value: _is_int(value) and value >= 0, "an int of at least 0")
_NUMBER = Rule(_is_number, "a number")
_POSITIVE = Rule(lambda value: _is_number(value) and value > 0, "a number above 0")
_POSITIVE_OR_0 = Rule(lambda value: _is_number(value) and value >= 0, "a number of at least 0")
_SHARE = Rule(lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
_ORDER = Rule(_is_order, "a tuple of 'relu', 'pool' and, if wanted, 'lrn', 'map_norm', each once")
_REMOVED = Rule(_is_part_in_order, f"a part of {REMOVABLE_LAYERS}, in that order")
_ODD = Rule(lambda n: _COUNT.allows(n) and n % 2 == 1, "an odd int above 0")
_BOOL = _one_of(False, True)
_KERNEL_START = Rule(
    lambda value: value in KERNEL_STARTS if isinstance(value, str) else _POSITIVE.allows(value),
    f"a number above 0 or one of {', '.join(KERNEL_STARTS)}",
)
_BIAS_START = Rule(
    lambda value: value == FAN_IN_UNIFORM if isinstance(value, str) else _is_number(value),
    f"a number or {FAN_IN_UNIFORM!r}",
)


def _is(rule: Rule) -> Any:
    """Return a field of `Profile` that must keep a rule."""
    return dataclasses.field(metadata={"rule": rule})


@dataclasses.dataclass(frozen=True)
class Profile:
    """One system's AlexNet: network, input and recipe.

    Immutable; a variant is `dataclasses.replace(profile, field=value)`, which validates again.
    Sequences of 8 are in the order conv1 ... conv5, fc6, fc7, fc8; of 5, conv1 ... conv5. The
    "2012 program" is that of the paper's authors, network 145, which is the paper's "1 CNN".

    Attributes:
        name: value of `--profile`.
        summary: one line for a person who has to choose.
        published: top-1 / top-5 accuracy on the validation photos of ILSVRC2012 as its makers
            published it, and with how many views; "none" where they did not.
        input_size: side of the network input, pixels. Paper, section 4.1: 224; Caffe: crop_size.
        conv1_padding: rows and columns of zeros (before, after) the input, of which conv1, 11x11
            with stride 4 and no padding of its own, makes 55x55.
        conv_filters: output channels. Paper, section 3.5.
        conv_groups: 2 where a column sees only its own half of the maps. Paper, figure 2.
        fc_units: units of fc6 and fc7. Paper, section 3.5.
        conv1_order: layers behind conv1, in order: "relu" (the activation, whichever it is), "lrn"
            (local response normalization across maps), "map_norm" (the 2012 program's
            normalization within each map) and "pool".
        conv2_order: the same for conv2.
        conv5_order: the same for conv5.
        removed_layers: those of "conv3", "conv4" and "conv5" that the network lacks, in this
            order. A layer goes with its activation, and its places in the other fields count for
            nothing; the pooling behind conv5 stays. Paper, section 7.
        activation: that of every hidden layer: "relu", max(0, x), or "tanh". Paper, section 3.1.
        pool_size: side of the pooling windows, pixels. They are 2 pixels apart, without padding,
            so 3 overlap and 2 do not. Paper, section 3.4.
        lrn_size: n, the number of adjacent maps of a local response normalization (section 3.3).
        lrn_k: k, added to the weighted sum of squares.
        lrn_alpha: weight of the sum of squares.
        lrn_beta: exponent of the denominator.
        lrn_alpha_divided_by_size: whether the sum's weight is alpha / n instead of alpha.
        lrn_crosses_columns: whether the neighbours of a map may lie in the other column. Paper,
            section 3.3: N is the number of kernels in the layer; 2012 program: each GPU alone.
        map_norm_size: side of the window of a normalization within a map, pixels.
        map_norm_k: k, added to the weighted sum of squares over the window.
        map_norm_alpha: size^2 times the weight of the sum of squares (2012 program, cnorm2).
        map_norm_beta: exponent of the denominator.
        kernel_init: per layer, the standard deviation of a zero-mean normal distribution, or one of
            `INITIALIZERS`, or "fan_in_uniform": uniform in +-1/sqrt(inputs of a unit), as in torch.
        bias_init: per layer, a constant, or "fan_in_uniform".
        dropout_rate: share of units set to zero in training. Paper, section 4.2.
        dropout_at: "outputs" of fc6 and fc7 (after their ReLU), or their "inputs".
        mean: subtracted from a pixel: "image", the mean image of the training set, or "channels",
            three constants.
        mean_position: part of the mean image: under the "crop" (mirrored with it; Caffe), or the
            "centre" whatever the crop (not mirrored; 2012 program). None with "channels".
        channel_mean: the constants, R, G, B in 0-255; None with a mean image.
        channel_std: divisors of R, G, B after that, in 0-255; None for none.
        pixel_scale: final multiplier; 1.0 leaves grey levels.
        training_crop: "random" places in the stored photo, or the "centre".
        training_flip: whether photos are mirrored in training, with probability 1/2.
        crop_chunk: number of consecutive photos of a batch that share one draw of crop and flip.
            2012 program: 32, with noise drawn per photo all the same.
        colour_noise: None, or the scale of the principal components of RGB in training:
            "eigenvalue", of the covariance of pixels in 0-1, the result then in units of the whole
            range (paper, section 4.1; see `preprocessing.network_input`), or "deviation", their
            standard deviation in grey levels (2012 program).
        colour_noise_std: standard deviation of the draw that the scale is multiplied by.
        colour_noise_divisor: divisor of noisy input, so that it is not larger than input without
            noise (2012 program: 1 + colour_noise_std); 1.0 for none.
        bias_learning_rate_multiplier: learning rate of the biases / learning rate, at the start.
        bias_learning_rate_falls: whether the schedule lowers that of the biases too.
        bias_decay_multiplier: weight decay of the biases / weight decay.
        optimizer: "sgd", with the update v <- momentum * v - learning_rate * (gradient +
            weight_decay * w), w <- w + v (paper, section 5), or "adam".
        learning_rate: that of the first step.
        momentum: that of the update above; Adam has its own.
        weight_decay: that of the update above, inside the gradient.
        batch_size: global batch, images per step over all devices.
        schedule: learning-rate schedule: "plateau", a drop when the validation error stops
            improving; "steps", at `drop_epochs`; "krizhevsky2012", as in the log of the 2012
            program's network 145; "cosine", along half a cosine; "constant", never.
        learning_rate_factor: multiplier of the learning rate at a drop of "plateau" or "steps".
        plateau_drops: number of drops of the schedule "plateau", at most.
        drop_epochs: epochs, of its `epochs`, after which the schedule "steps" drops; a run of
            another length drops in proportion.
        epochs: length of a run.
        colour_order: "RGB" or "BGR", that of conv1's inputs in the system's own files of weights.
            The network here takes RGB always; `keras_alexnet.convert` reads this.
    """

    name: str = _is(_TEXT)
    summary: str = _is(_TEXT)
    published: str = _is(_TEXT)
    input_size: int = _is(_COUNT)
    conv1_padding: tuple[int, int] = _is(_tuple_of(_COUNT_OR_0, 2))
    conv_filters: tuple[int, ...] = _is(_tuple_of(_COUNT, 5))
    conv_groups: tuple[int, ...] = _is(_tuple_of(_COUNT, 5))
    fc_units: tuple[int, int] = _is(_tuple_of(_COUNT, 2))
    conv1_order: tuple[str, ...] = _is(_ORDER)
    conv2_order: tuple[str, ...] = _is(_ORDER)
    conv5_order: tuple[str, ...] = _is(_ORDER)
    removed_layers: tuple[str, ...] = _is(_REMOVED)
    activation: str = _is(_one_of("relu", "tanh"))
    pool_size: int = _is(_one_of(2, 3))
    lrn_size: int = _is(_ODD)
    lrn_k: float = _is(_POSITIVE)
    lrn_alpha: float = _is(_POSITIVE_OR_0)
    lrn_beta: float = _is(_POSITIVE)
    lrn_alpha_divided_by_size: bool = _is(_BOOL)
    lrn_crosses_columns: bool = _is(_BOOL)
    map_norm_size: int = _is(_ODD)
    map_norm_k: float = _is(_POSITIVE)
    map_norm_alpha: float = _is(_POSITIVE_OR_0)
    map_norm_beta: float = _is(_POSITIVE)
    kernel_init: tuple[float | str, ...] = _is(_tuple_of(_KERNEL_START, 8))
    bias_init: tuple[float | str, ...] = _is(_tuple_of(_BIAS_START, 8))
    dropout_rate: float = _is(_SHARE)
    dropout_at: str = _is(_one_of("outputs", "inputs"))
    mean: str = _is(_one_of("image", "channels"))
    mean_position: str | None = _is(_one_of("crop", "centre", None))
    channel_mean: tuple[float, float, float] | None = _is(_or_none(_tuple_of(_NUMBER, 3)))
    channel_std: tuple[float, float, float] | None = _is(_or_none(_tuple_of(_POSITIVE, 3)))
    pixel_scale: float = _is(_POSITIVE)
    training_crop: str = _is(_one_of("random", "centre"))
    training_flip: bool = _is(_BOOL)
    crop_chunk: int = _is(_COUNT)
    colour_noise: str | None = _is(_one_of(None, "eigenvalue", "deviation"))
    colour_noise_std: float = _is(_POSITIVE_OR_0)
    colour_noise_divisor: float = _is(_POSITIVE)
    bias_learning_rate_multiplier: float = _is(_POSITIVE_OR_0)
    bias_learning_rate_falls: bool = _is(_BOOL)
    bias_decay_multiplier: float = _is(_POSITIVE_OR_0)
    optimizer: str = _is(_one_of("sgd", "adam"))
    learning_rate: float = _is(_POSITIVE)
    momentum: float = _is(_SHARE)
    weight_decay: float = _is(_POSITIVE_OR_0)
    batch_size: int = _is(_COUNT)
    schedule: str = _is(_one_of("plateau", "steps", "krizhevsky2012", "cosine", "constant"))
    learning_rate_factor: float = _is(_POSITIVE)
    plateau_drops: int = _is(_COUNT_OR_0)
    drop_epochs: tuple[int, ...] = _is(_tuple_of(_COUNT))
    epochs: int = _is(_COUNT)
    colour_order: str = _is(_one_of("RGB", "BGR"))

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            rule = field.metadata["rule"]
            self._require(field.name, rule.allows(getattr(self, field.name)), rule.text)
        smallest = SMALLEST_PADDED_INPUT - sum(self.conv1_padding)
        self._require("input_size", self.input_size >= smallest, f"at least {smallest}")
        convolutions = self._convolutions()
        inputs = (3, *(filters for filters, _ in convolutions))
        divide = all(
            before % groups == 0 and after % groups == 0
            for before, (after, groups) in zip(inputs[:-1], convolutions, strict=True)
        )
        channels = " -> ".join(map(str, inputs))
        self._require("conv_groups", divide, f"divisors of the channels around: {channels}")
        of_channels = self.mean == "channels"
        text = f"{'three constants' if of_channels else 'None'} with the mean {self.mean!r}"
        self._require("channel_mean", of_channels == (self.channel_mean is not None), text)
        text = f"{'None' if of_channels else 'a position'} with the mean {self.mean!r}"
        self._require("mean_position", of_channels == (self.mean_position is None), text)
        falls = (0, *self.drop_epochs, self.epochs)
        falling = all(before < after for before, after in itertools.pairwise(falls))
        self._require("drop_epochs", falling, f"in order, of 1 ... {self.epochs - 1} (epochs - 1)")

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers of `LAYER_NAMES` that the network has."""
        return tuple(name for name in LAYER_NAMES if name not in self.removed_layers)

    @property
    def columns(self) -> int:
        """The number of columns: the most groups of a layer."""
        return max(groups for _, groups in self._convolutions())

    def activation_name(self, layer: str) -> str:
        """Return the name of the activation behind a layer: "relu7" or "tanh7" for "fc7"."""
        return f"{self.activation}{layer[-1]}"

    def _convolutions(self) -> list[tuple[int, int]]:
        """Return filters and groups of each convolution that the network has."""
        layers = zip(LAYER_NAMES[:5], self.conv_filters, self.conv_groups, strict=True)
        return [(filters, groups) for name, filters, groups in layers if name in self.layer_names]

    def _require(self, field: str, is_valid: bool, text: str) -> None:
        if not is_valid:
            raise ValueError(
                f"Profile.{field} must be {text}. Received: {getattr(self, field)!r}. "
                "The docstring of Profile says what each field means."
            )

    def scaled(self, width: float) -> "Profile":
        """Return a copy with other numbers of filters and units.

        Args:
            width: multiplier of conv_filters and fc_units, above 0. Each result is rounded to a
                multiple of 8 and of every group count, and is at least one such multiple.

        Raises:
            ValueError: `width` is not a number above 0.
        """
        if not _POSITIVE.allows(width):
            raise ValueError(f"width must be a number above 0, 1.0 for all. Received: {width!r}.")
        multiple = math.lcm(_WIDTH_MULTIPLE, *self.conv_groups)

        def scale(sizes: Sequence[int]) -> tuple[int, ...]:
            return tuple(multiple * max(1, round(size * width / multiple)) for size in sizes)

        return dataclasses.replace(
            self, conv_filters=scale(self.conv_filters), fc_units=scale(self.fc_units)
        )

    def to_dict(self) -> dict[str, object]:
        """Return all fields in JSON's types (a tuple becomes a list), in order."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @staticmethod
    def from_dict(fields: Mapping[str, object]) -> "Profile":
        """Return the profile whose `to_dict`, or its JSON, this is.

        Raises:
            ValueError: a field is unknown, is missing, or has a value that no profile may have.
        """
        names = [field.name for field in dataclasses.fields(Profile)]
        unknown = sorted(set(fields) - set(names))
        missing = [name for name in names if name not in fields]
        if unknown or missing:
            raise ValueError(
                "A profile must have exactly the fields of this version's Profile. "
                f"Received: unknown {unknown}, missing {missing}. "
                "Read it with the version of keras-alexnet that wrote it, or correct it."
            )
        return Profile(
            **{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        )

"""What each field of a `profile.Profile` may hold, taken alone.

What fields must be to each other is checked in `Profile` itself.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

# Of the Keras initializers, those that draw from a fan-in or a fan-out and take no other argument.
INITIALIZERS = (
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
)
FAN_IN_UNIFORM = "fan_in_uniform"
REMOVABLE_LAYERS = ("conv3", "conv4", "conv5")
_STAGE_LAYERS = ("relu", "lrn", "map_norm", "pool")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


class Rule(NamedTuple):
    """What a field may hold: for the computer and, as the end of "must be", for a person."""

    allows: Callable[[object], bool]
    text: str


def _each(count: int, rule: Rule) -> Rule:
    return Rule(
        lambda value: (
            isinstance(value, tuple) and len(value) == count and all(map(rule.allows, value))
        ),
        f"a tuple of {count}, each {rule.text}",
    )


def _any_number_of(rule: Rule) -> Rule:
    return Rule(
        lambda value: isinstance(value, tuple) and all(map(rule.allows, value)),
        f"a tuple, each {rule.text}",
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
        and all(name in _STAGE_LAYERS for name in value)
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
POSITIVE = Rule(lambda value: _is_number(value) and value > 0, "a number above 0")
_POSITIVE_OR_0 = Rule(lambda value: _is_number(value) and value >= 0, "a number of at least 0")
_SHARE = Rule(lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
_ORDER = Rule(_is_order, "a tuple of 'relu', 'pool' and, if wanted, 'lrn', 'map_norm', each once")
_REMOVED = Rule(_is_part_in_order, f"a part of {REMOVABLE_LAYERS}, in that order")
_ODD = Rule(lambda n: _COUNT.allows(n) and n % 2 == 1, "an odd int above 0")
KERNEL_STARTS = (*INITIALIZERS, FAN_IN_UNIFORM)
_KERNEL_START = Rule(
    lambda value: value in KERNEL_STARTS if isinstance(value, str) else POSITIVE.allows(value),
    f"a number above 0 or one of {', '.join(KERNEL_STARTS)}",
)
_BIAS_START = Rule(
    lambda value: value == FAN_IN_UNIFORM if isinstance(value, str) else _is_number(value),
    f"a number or {FAN_IN_UNIFORM!r}",
)
RULES: Mapping[str, Rule] = {
    "name": _TEXT,
    "summary": _TEXT,
    "published": _TEXT,
    "input_size": _COUNT,
    "conv1_padding": _each(2, _COUNT_OR_0),
    "conv_filters": _each(5, _COUNT),
    "conv_groups": _each(5, _COUNT),
    "fc_units": _each(2, _COUNT),
    "conv1_order": _ORDER,
    "conv2_order": _ORDER,
    "conv5_order": _ORDER,
    "removed_layers": _REMOVED,
    "activation": _one_of("relu", "tanh"),
    "pool_size": _one_of(2, 3),
    "lrn_size": _ODD,
    "lrn_k": POSITIVE,
    "lrn_alpha": _POSITIVE_OR_0,
    "lrn_beta": POSITIVE,
    "lrn_alpha_divided_by_size": _one_of(False, True),
    "lrn_crosses_columns": _one_of(False, True),
    "map_norm_size": _ODD,
    "map_norm_k": POSITIVE,
    "map_norm_alpha": _POSITIVE_OR_0,
    "map_norm_beta": POSITIVE,
    "kernel_init": _each(8, _KERNEL_START),
    "bias_init": _each(8, _BIAS_START),
    "dropout_rate": _SHARE,
    "dropout_at": _one_of("outputs", "inputs"),
    "mean": _one_of("image", "channels"),
    "mean_position": _one_of("crop", "centre", None),
    "channel_mean": _or_none(_each(3, _NUMBER)),
    "channel_std": _or_none(_each(3, POSITIVE)),
    "pixel_scale": POSITIVE,
    "training_crop": _one_of("random", "centre"),
    "training_flip": _one_of(False, True),
    "crop_chunk": _COUNT,
    "colour_noise": _one_of(None, "eigenvalue", "deviation"),
    "colour_noise_std": _POSITIVE_OR_0,
    "colour_noise_divisor": POSITIVE,
    "bias_learning_rate_multiplier": _POSITIVE_OR_0,
    "bias_learning_rate_falls": _one_of(False, True),
    "bias_decay_multiplier": _POSITIVE_OR_0,
    "optimizer": _one_of("sgd", "adam"),
    "learning_rate": POSITIVE,
    "momentum": _SHARE,
    "weight_decay": _POSITIVE_OR_0,
    "batch_size": _COUNT,
    "schedule": _one_of("plateau", "steps", "krizhevsky2012", "cosine", "constant"),
    "learning_rate_factor": POSITIVE,
    "plateau_drops": _COUNT_OR_0,
    "drop_epochs": _any_number_of(_COUNT),
    "epochs": _COUNT,
    "colour_order": _one_of("RGB", "BGR"),
}

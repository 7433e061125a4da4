"""What the profiles differ in, as the rows of a table: which field is shown how.

A row that is the same for all profiles is left out, so that the table is about differences; it
comes by itself as soon as one profile departs.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from keras_alexnet.network.profile import FAN_IN_UNIFORM, LAYER_NAMES, Profile

ABSENT = "-"

_CONV = slice(0, 5)
_FC = slice(5, 8)
_ORDERS = ("conv1_order", "conv2_order", "conv5_order")
_STAGES = {"lrn": "LRN", "map_norm": "map norm", "pool": "pool"}
_ACTIVATIONS = {"relu": "ReLU", "tanh": "tanh"}
_STARTS = {FAN_IN_UNIFORM: "U(+-1/sqrt(fan in))"}
_MEAN_PARTS = {"crop": "under the crop", "centre": "its centre"}
_NOISE_SCALES = {"eigenvalue": "eigenvalue", "deviation": "sqrt(eigenvalue)"}
_OPTIMIZERS: dict[str, Callable[[Profile], str]] = {
    "sgd": lambda profile: f"SGD, momentum {_number(profile.momentum)}",
    "adam": lambda profile: "Adam",
}
_SCHEDULES: dict[str, Callable[[Profile], str]] = {
    "plateau": lambda profile: f"{_drop(profile)} on a plateau, {profile.plateau_drops} times",
    "steps": lambda profile: f"{_drop(profile)} after {', '.join(map(str, profile.drop_epochs))}",
    "krizhevsky2012": lambda profile: "as in its log, restart at 91",
    "cosine": lambda profile: "along half a cosine",
    "constant": lambda profile: "never",
}


class Item(NamedTuple):
    """A row of the table.

    Attributes:
        title: its first cell.
        fields: of `Profile`, which the other cells tell.
        text: the cell of a profile; `ABSENT` where its network has no such thing.
    """

    title: str
    fields: tuple[str, ...]
    text: Callable[[Profile], str]


def _number(value: float) -> str:
    """Six digits at most, as people write them: .01, 2, 5e-4."""
    if 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:g}")


def _rgb(values: Iterable[float]) -> str:
    return ", ".join(map(_number, values))


def _padding(padding: tuple[int, int]) -> str:
    before, after = padding
    if before == after:
        return f"{after} zeros around" if after else "no padding"
    at = {"left and top": before, "right and bottom": after}
    return ", ".join(f"{zeros} zeros {where}" for where, zeros in at.items() if zeros)


def _by_layer(layers: slice, values: Sequence, show: Callable[..., str]) -> str:
    """One text if the layers agree; else the exceptions by name: "0: conv1, conv3; else 1"."""
    texts = [show(value) for value in values[layers]]
    commonest = max(texts, key=texts.count)
    exceptions: dict[str, list[str]] = {}
    for name, text in zip(LAYER_NAMES[layers], texts, strict=True):
        if text != commonest:
            exceptions.setdefault(text, []).append(name)
    parts = [f"{text}: {', '.join(names)}" for text, names in exceptions.items()]
    return "; ".join([*parts, f"else {commonest}"]) if parts else commonest


def _start(start: float | str) -> str:
    return _STARTS.get(start, start) if isinstance(start, str) else _number(start)


def _order(profile: Profile, order: Sequence[str]) -> str:
    stages = _STAGES | {"relu": _ACTIVATIONS[profile.activation]}
    return ", ".join(stages[stage] for stage in order)


def _where(stage: str, text: Callable[[Profile], str]) -> Callable[[Profile], str]:
    """`text` of the profiles that have the stage, such as "lrn", behind any convolution."""
    return lambda profile: (
        text(profile) if any(stage in getattr(profile, order) for order in _ORDERS) else ABSENT
    )


def _lrn_weight(profile: Profile) -> str:
    divisor = f"/{profile.lrn_size}" if profile.lrn_alpha_divided_by_size else ""
    return f"alpha{divisor} * sum of {profile.lrn_size} maps"


def _lrn_columns(profile: Profile) -> str:
    if profile.columns == 1:
        return ABSENT
    return "yes" if profile.lrn_crosses_columns else "no"


def _map_norm(profile: Profile) -> str:
    side = profile.map_norm_size
    return (
        f"{side}x{side}, {_number(profile.map_norm_alpha)}/{side**2}, "
        f"{_number(profile.map_norm_beta)}, {_number(profile.map_norm_k)}"
    )


def _mean(profile: Profile) -> str:
    if profile.mean == "channels":
        return _rgb(profile.channel_mean)
    return f"image, {_MEAN_PARTS[profile.mean_position]}"


def _colour_noise(profile: Profile) -> str:
    if profile.colour_noise is None:
        return ABSENT
    return f"N(0, {_number(profile.colour_noise_std)}) * {_NOISE_SCALES[profile.colour_noise]}"


def _bias_rate(profile: Profile) -> str:
    end = "" if profile.bias_learning_rate_falls else ", never lowered"
    return f"{_number(profile.bias_learning_rate_multiplier)} x{end}"


def _view(profile: Profile) -> str:
    view = f"{profile.training_crop} crop, {'flip' if profile.training_flip else 'no flip'}"
    chunk = profile.crop_chunk
    return view if chunk == 1 else f"{view}, of {chunk} photos alike"


def _drop(profile: Profile) -> str:
    return f"/{_number(1 / profile.learning_rate_factor)}"


ITEMS = (
    Item(
        "input, padding of conv1",
        ("input_size", "conv1_padding"),
        lambda p: f"{p.input_size}, {_padding(p.conv1_padding)}",
    ),
    Item("mean subtracted", ("mean", "mean_position", "channel_mean"), _mean),
    Item(
        "then divided by",
        ("channel_std",),
        lambda p: _rgb(p.channel_std) if p.channel_std else ABSENT,
    ),
    Item("then times", ("pixel_scale",), lambda p: _number(p.pixel_scale)),
    Item("filters of conv1-5", ("conv_filters",), lambda p: "-".join(map(str, p.conv_filters))),
    Item(
        "groups of conv1-5",
        ("conv_groups",),
        lambda p: _by_layer(_CONV, p.conv_groups, str),
    ),
    Item("units of fc6, fc7", ("fc_units",), lambda p: "-".join(map(str, p.fc_units))),
    Item("after conv1", ("conv1_order", "activation"), lambda p: _order(p, p.conv1_order)),
    Item("after conv2", ("conv2_order", "activation"), lambda p: _order(p, p.conv2_order)),
    Item("after conv5", ("conv5_order", "activation"), lambda p: _order(p, p.conv5_order)),
    Item("pooling windows", ("pool_size",), lambda p: f"{p.pool_size}x{p.pool_size}"),
    Item(
        "layers removed",
        ("removed_layers",),
        lambda p: ", ".join(p.removed_layers) or ABSENT,
    ),
    Item(
        "LRN, added to k",
        (*_ORDERS, "lrn_size", "lrn_alpha_divided_by_size"),
        _where("lrn", _lrn_weight),
    ),
    Item(
        "LRN alpha, beta, k",
        (*_ORDERS, "lrn_alpha", "lrn_beta", "lrn_k"),
        _where("lrn", lambda p: ", ".join(map(_number, (p.lrn_alpha, p.lrn_beta, p.lrn_k)))),
    ),
    Item(
        "LRN crosses the columns",
        (*_ORDERS, "conv_groups", "lrn_crosses_columns"),
        _where("lrn", _lrn_columns),
    ),
    Item(
        "map norm alpha, beta, k",
        (*_ORDERS, "map_norm_size", "map_norm_alpha", "map_norm_beta", "map_norm_k"),
        _where("map_norm", _map_norm),
    ),
    Item(
        "kernels (std), conv1-5",
        ("kernel_init",),
        lambda p: _by_layer(_CONV, p.kernel_init, _start),
    ),
    Item(
        "kernels (std), fc6-8",
        ("kernel_init",),
        lambda p: _by_layer(_FC, p.kernel_init, _start),
    ),
    Item(
        "biases, conv1-5",
        ("bias_init",),
        lambda p: _by_layer(_CONV, p.bias_init, _start),
    ),
    Item(
        "biases, fc6-8",
        ("bias_init",),
        lambda p: _by_layer(_FC, p.bias_init, _start),
    ),
    Item(
        "dropout, fc6 and fc7",
        ("dropout_rate", "dropout_at"),
        lambda p: f"{_number(p.dropout_rate)} of their {p.dropout_at}",
    ),
    Item(
        "view in training",
        ("training_crop", "training_flip", "crop_chunk"),
        _view,
    ),
    Item("colour noise", ("colour_noise", "colour_noise_std"), _colour_noise),
    Item(
        "noisy input divided by",
        ("colour_noise", "colour_noise_divisor"),
        lambda p: _number(p.colour_noise_divisor) if p.colour_noise else ABSENT,
    ),
    Item("optimizer", ("optimizer", "momentum"), lambda p: _OPTIMIZERS[p.optimizer](p)),
    Item("learning rate", ("learning_rate",), lambda p: _number(p.learning_rate)),
    Item(
        "falls (epochs)",
        ("learning_rate_factor", "schedule", "plateau_drops", "drop_epochs"),
        lambda p: _SCHEDULES[p.schedule](p),
    ),
    Item("epochs", ("epochs",), lambda p: str(p.epochs)),
    Item("batch", ("batch_size",), lambda p: str(p.batch_size)),
    Item("weight decay", ("weight_decay",), lambda p: _number(p.weight_decay)),
    Item(
        "learning rate of biases",
        ("bias_learning_rate_multiplier", "bias_learning_rate_falls"),
        _bias_rate,
    ),
    Item(
        "weight decay of biases",
        ("bias_decay_multiplier",),
        lambda p: f"{_number(p.bias_decay_multiplier)} x",
    ),
    Item("colours in weight files", ("colour_order",), lambda p: p.colour_order),
    Item("published top-1 / top-5", ("published",), lambda p: p.published),
)


def differences(profiles: Iterable[Profile]) -> list[list[str]]:
    """The rows of `ITEMS` in which the profiles differ: a title, and a cell for each profile."""
    profiles = list(profiles)
    rows = [(item.title, [item.text(profile) for profile in profiles]) for item in ITEMS]
    return [[title, *cells] for title, cells in rows if len(set(cells)) > 1]


def summaries(profiles: Iterable[Profile]) -> str:
    """A Markdown list of what each profile is."""
    return "\n".join(f"- `{profile.name}`: {profile.summary}" for profile in profiles)

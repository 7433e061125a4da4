"""Differences between the profiles, as the rows of a table."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from keras_alexnet.network.profile import FAN_IN_UNIFORM, LAYER_NAMES, Profile

ABSENT = "-"

_CONV = slice(0, 5)
_FC = slice(5, 8)
_STAGES = {"lrn": "LRN", "map_norm": "map norm", "pool": "pool"}
_ACTIVATIONS = {"relu": "ReLU", "tanh": "tanh"}
_STARTS = {FAN_IN_UNIFORM: "U(+-1/sqrt(fan in))"}
_MEAN_PARTS = {"crop": "under the crop", "centre": "its centre"}
_NOISE_SCALES = {"eigenvalue": "eigenvalue", "deviation": "sqrt(eigenvalue)"}
_Cell = Callable[[Profile], str]
_OPTIMIZERS: Mapping[str, _Cell] = {
    "sgd": lambda p: f"SGD, momentum {_number(p.momentum)}",
    "adam": lambda p: "Adam",
}
_SCHEDULES: Mapping[str, _Cell] = {
    "plateau": lambda p: f"{_drop(p)} on a plateau, {p.plateau_drops} times",
    "steps": lambda p: f"{_drop(p)} after {', '.join(map(str, p.drop_epochs))}",
    "krizhevsky2012": lambda p: "as in its log, restart at 91",
    "cosine": lambda p: "along half a cosine",
    "constant": lambda p: "never",
}


def _number(value: float) -> str:
    """Return six digits at most, as people write them: .01, 2, 5e-4."""
    if 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:g}")


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(map(_number, values))


def _drop(p: Profile) -> str:
    return f"/{_number(1 / p.learning_rate_factor)}"


def _padding(p: Profile) -> str:
    before, after = p.conv1_padding
    if before == after:
        return f"{after} zeros around" if after else "no padding"
    at = {"left and top": before, "right and bottom": after}
    return ", ".join(f"{zeros} zeros {where}" for where, zeros in at.items() if zeros)


def _by_layer(layers: slice, values: Sequence, show: Callable[..., str]) -> str:
    """Return one text if the layers agree, else exceptions by name: "0: conv1, conv3; else 1"."""
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


def _order(p: Profile, order: Sequence[str]) -> str:
    stages = _STAGES | {"relu": _ACTIVATIONS[p.activation]}
    return ", ".join(stages[stage] for stage in order)


def _where(stage: str, text: _Cell) -> _Cell:
    """Return `text` for the profiles that have the stage, such as "lrn", behind a convolution."""

    def cell(p: Profile) -> str:
        return text(p) if stage in (*p.conv1_order, *p.conv2_order, *p.conv5_order) else ABSENT

    return cell


def _lrn_weight(p: Profile) -> str:
    divisor = f"/{p.lrn_size}" if p.lrn_alpha_divided_by_size else ""
    return f"alpha{divisor} * sum of {p.lrn_size} maps"


def _lrn_columns(p: Profile) -> str:
    if p.columns == 1:
        return ABSENT
    return "yes" if p.lrn_crosses_columns else "no"


def _map_norm(p: Profile) -> str:
    side = p.map_norm_size
    alpha, beta, k = map(_number, (p.map_norm_alpha, p.map_norm_beta, p.map_norm_k))
    return f"{side}x{side}, {alpha}/{side**2}, {beta}, {k}"


def _mean(p: Profile) -> str:
    if p.mean == "channels":
        return _numbers(p.channel_mean)
    return f"image, {_MEAN_PARTS[p.mean_position]}"


def _colour_noise(p: Profile) -> str:
    if p.colour_noise is None:
        return ABSENT
    return f"N(0, {_number(p.colour_noise_std)}) * {_NOISE_SCALES[p.colour_noise]}"


def _bias_rate(p: Profile) -> str:
    end = "" if p.bias_learning_rate_falls else ", never lowered"
    return f"{_number(p.bias_learning_rate_multiplier)} x{end}"


def _view(p: Profile) -> str:
    view = f"{p.training_crop} crop, {'flip' if p.training_flip else 'no flip'}"
    return view if p.crop_chunk == 1 else f"{view}, of {p.crop_chunk} photos alike"


# Title of a row -> its cell for a profile; `ABSENT` where its network has no such thing.
_ROWS: Mapping[str, _Cell] = {
    "input, padding of conv1": lambda p: f"{p.input_size}, {_padding(p)}",
    "mean subtracted": _mean,
    "then divided by": lambda p: _numbers(p.channel_std) if p.channel_std else ABSENT,
    "then times": lambda p: _number(p.pixel_scale),
    "filters of conv1-5": lambda p: "-".join(map(str, p.conv_filters)),
    "groups of conv1-5": lambda p: _by_layer(_CONV, p.conv_groups, str),
    "units of fc6, fc7": lambda p: "-".join(map(str, p.fc_units)),
    "after conv1": lambda p: _order(p, p.conv1_order),
    "after conv2": lambda p: _order(p, p.conv2_order),
    "after conv5": lambda p: _order(p, p.conv5_order),
    "pooling windows": lambda p: f"{p.pool_size}x{p.pool_size}",
    "layers removed": lambda p: ", ".join(p.removed_layers) or ABSENT,
    "LRN, added to k": _where("lrn", _lrn_weight),
    "LRN alpha, beta, k": _where("lrn", lambda p: _numbers((p.lrn_alpha, p.lrn_beta, p.lrn_k))),
    "LRN crosses the columns": _where("lrn", _lrn_columns),
    "map norm alpha, beta, k": _where("map_norm", _map_norm),
    "kernels (std), conv1-5": lambda p: _by_layer(_CONV, p.kernel_init, _start),
    "kernels (std), fc6-8": lambda p: _by_layer(_FC, p.kernel_init, _start),
    "biases, conv1-5": lambda p: _by_layer(_CONV, p.bias_init, _start),
    "biases, fc6-8": lambda p: _by_layer(_FC, p.bias_init, _start),
    "dropout, fc6 and fc7": lambda p: f"{_number(p.dropout_rate)} of their {p.dropout_at}",
    "view in training": _view,
    "colour noise": _colour_noise,
    "noisy input divided by": lambda p: (
        _number(p.colour_noise_divisor) if p.colour_noise else ABSENT
    ),
    "optimizer": lambda p: _OPTIMIZERS[p.optimizer](p),
    "learning rate": lambda p: _number(p.learning_rate),
    "falls (epochs)": lambda p: _SCHEDULES[p.schedule](p),
    "epochs": lambda p: str(p.epochs),
    "batch": lambda p: str(p.batch_size),
    "weight decay": lambda p: _number(p.weight_decay),
    "learning rate of biases": _bias_rate,
    "weight decay of biases": lambda p: f"{_number(p.bias_decay_multiplier)} x",
    "colours in weight files": lambda p: p.colour_order,
    "published top-1 / top-5": lambda p: p.published,
}


def differences(profiles: Sequence[Profile]) -> list[list[str]]:
    """Return the rows in which profiles differ: a title, and a cell for each profile."""
    rows = [[title, *map(cell, profiles)] for title, cell in _ROWS.items()]
    return [row for row in rows if len(set(row[1:])) > 1]


def summaries(profiles: Iterable[Profile]) -> str:
    """Return a Markdown list of the profiles' summaries."""
    return "\n".join(f"- `{profile.name}`: {profile.summary}" for profile in profiles)

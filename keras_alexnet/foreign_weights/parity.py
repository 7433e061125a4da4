"""Logits of a file's network by plain NumPy, from the file's own tensors in its own layout.

An independent second way: nothing is transposed to Keras' layout here, no colour is turned in a
kernel and no row of fc6 moved; instead the input and the activations are brought to what the
file's network sees. If a conversion is right, both ways give the same logits.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from keras_alexnet.foreign_weights.layouts import ForeignNetwork
from keras_alexnet.network.profile import LAYER_NAMES, Profile
from keras_alexnet.network.profiles import ILSVRC2012_MEAN

TOLERANCE = 1e-4  # of the largest logit; float32 sums of 9,216 products are good for about 1e-6
_SEED = 2012
_STRIDES = (4, 1, 1, 1, 1)
_PADDING = (0, 2, 1, 1, 1)  # of conv1: `Profile.conv1_padding`
_ROWS = 512  # outputs of a dense layer at once, in float64: a copy of all fc6 would be 300 MB


def fixed_input(profile: Profile) -> np.ndarray:
    """Return the same noise always, float32 RGB [1, S, S, 3], with the profile's mean and scale.

    Args:
        profile: its `input_size`, `channel_mean`, `channel_std` and `pixel_scale` are heeded.
    """
    shape = (1, profile.input_size, profile.input_size, 3)
    grey = np.random.default_rng(_SEED).integers(0, 256, shape).astype(np.float64)
    grey -= ILSVRC2012_MEAN if profile.channel_mean is None else profile.channel_mean
    if profile.channel_std is not None:
        grey /= profile.channel_std
    return (grey * profile.pixel_scale).astype(np.float32)


def source_logits(network: ForeignNetwork, profile: Profile, images: np.ndarray) -> np.ndarray:
    """Compute the logits of the file's network.

    Args:
        network: the file's tensors; they must fit the profile (`fitting.require_fit`).
        profile: the network's order, normalizations, groups, padding and colour order.
        images: network input, RGB [B, S, S, 3].

    Returns:
        float64 [B, classes]. Not finite where the weights are beyond all measure.
    """
    weights = {ours: network.tensors[theirs] for ours, theirs in network.names.items()}
    x = images.astype(np.float64).transpose(0, 3, 1, 2)  # [B, C, H, W]
    if profile.colour_order == "BGR":
        x = x[:, ::-1]
    x = np.pad(x, [(0, 0), (0, 0), profile.conv1_padding, profile.conv1_padding])
    after = (profile.conv1_order, profile.conv2_order, ["relu"], ["relu"], profile.conv5_order)
    # What overflows is seen in the logits.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for index, layer in enumerate(LAYER_NAMES[:5]):
            x = np.pad(x, [(0, 0), (0, 0), *[(_PADDING[index],) * 2] * 2])
            kernel = weights[f"{layer}/kernel"]
            groups = profile.conv_groups[index]
            x = _conv(x, kernel, network.layout.conv, _STRIDES[index], groups)
            x += weights[f"{layer}/bias"][:, np.newaxis, np.newaxis].astype(np.float64)
            for kind in after[index]:
                x = _AFTER_CONV[kind](x, profile)
        axes = ["chw".index(axis) + 1 for axis in network.layout.flatten]
        x = x.transpose(0, *axes).reshape(len(x), -1)
        for layer in LAYER_NAMES[5:]:
            x = _dense(x, weights, layer, network.layout.dense)
            if layer != LAYER_NAMES[-1]:
                x = np.maximum(x, 0)
    return x


def compare(keras_logits: np.ndarray, logits: np.ndarray) -> dict[str, float | bool]:
    """Compare the logits of two networks.

    Args:
        keras_logits: of the converted network, [B, classes].
        logits: of the file's, [B, classes].

    Returns:
        largest_difference; largest_logit (of the file's network, without its sign);
        relative_difference, the one divided by the other; tolerance; within_tolerance.
    """
    difference = float(np.abs(keras_logits - logits).max())
    largest = float(np.abs(logits).max())
    relative = difference / largest if largest else difference
    return {
        "largest_difference": difference,
        "largest_logit": largest,
        "relative_difference": relative,
        "tolerance": TOLERANCE,
        "within_tolerance": relative <= TOLERANCE,
    }


def _conv(x: np.ndarray, kernel: np.ndarray, axes: str, stride: int, groups: int) -> np.ndarray:
    """Correlate without padding; the axes of the kernel are letters: o, i, h and w."""
    windows = sliding_window_view(x, (kernel.shape[axes.index("h")],) * 2, axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]  # [B, C, y, x, h, w]
    parts = [
        np.einsum(f"niyxhw,{axes}->noyx", own, filters.astype(np.float64), optimize=True)
        for own, filters in zip(
            np.split(windows, groups, axis=1),
            np.split(kernel, groups, axis=axes.index("o")),
            strict=True,
        )
    ]
    return np.concatenate(parts, axis=1)


def _dense(x: np.ndarray, weights: Mapping[str, np.ndarray], layer: str, axes: str) -> np.ndarray:
    kernel = weights[f"{layer}/kernel"]
    outputs = axes.index("o")
    parts = [
        np.einsum(f"ni,{axes}->no", x, rows.astype(np.float64), optimize=True)
        for rows in np.array_split(kernel, -(-kernel.shape[outputs] // _ROWS), axis=outputs)
    ]
    return np.concatenate(parts, axis=1) + weights[f"{layer}/bias"]


def _lrn(x: np.ndarray, profile: Profile) -> np.ndarray:
    """Normalize across maps; in each column alone where the profile says so."""
    alpha = profile.lrn_alpha / (profile.lrn_size if profile.lrn_alpha_divided_by_size else 1)
    reach = profile.lrn_size // 2
    columns = 1 if profile.lrn_crosses_columns else profile.columns
    parts = []
    for part in np.split(x, columns, axis=1):
        squares = np.pad(part**2, [(0, 0), (reach, reach), (0, 0), (0, 0)])
        sums = sum(squares[:, i : i + part.shape[1]] for i in range(profile.lrn_size))
        parts.append(part / (profile.lrn_k + alpha * sums) ** profile.lrn_beta)
    return np.concatenate(parts, axis=1)


def _map_norm(x: np.ndarray, profile: Profile) -> np.ndarray:
    """Normalize within each map, over a window around each pixel."""
    size = profile.map_norm_size
    squares = np.pad(x**2, [(0, 0), (0, 0), *[(size // 2,) * 2] * 2])
    sums = sliding_window_view(squares, (size, size), axis=(2, 3)).sum(axis=(4, 5))
    alpha = profile.map_norm_alpha / size**2
    return x / (profile.map_norm_k + alpha * sums) ** profile.map_norm_beta


_AFTER_CONV: Mapping[str, Callable[[np.ndarray, Profile], np.ndarray]] = {
    "relu": lambda x, _: np.maximum(x, 0),
    "pool": lambda x, _: sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(
        axis=(4, 5)
    ),
    "lrn": _lrn,
    "map_norm": _map_norm,
}

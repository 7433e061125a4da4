"""AlexNet's forward pass in plain NumPy float64: the reference that the tests compare with.

Written from the paper, the 2012 program's configuration of network 145 and the fields of a
profile, by loops and windows; no framework and nothing of the package's layers.
"""

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from keras_alexnet.network.profile import Profile

_CONV_STRIDES = (4, 1, 1, 1, 1)
_CONV_PADDING = (0, 2, 1, 1, 1)  # of conv1: see `Profile.conv1_padding`, the layer pad1


def logits(x: np.ndarray, weights: Mapping[str, np.ndarray], profile: Profile) -> np.ndarray:
    """Return the output of fc8, [B, classes]; arguments as of `layer_outputs`."""
    return layer_outputs(x, weights, profile)["fc8"]


def layer_outputs(
    x: np.ndarray, weights: Mapping[str, np.ndarray], profile: Profile
) -> dict[str, np.ndarray]:
    """Return each layer's output for network input [B, H, W, 3], in order, float64.

    Args:
        x: network input, already preprocessed.
        weights: "conv1/kernel" [kh, kw, in / groups, out], "conv1/bias" ... "fc8/bias".
        profile: the network.

    Returns:
        Layer name -> output, [B, H, W, C], from flatten on [B, units]. Dropout is the identity.
    """
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    x = x.astype(np.float64)
    outputs = {}
    if profile.conv1_padding != (0, 0):
        x = outputs["pad1"] = pad(x, *profile.conv1_padding)
    after = (profile.conv1_order, profile.conv2_order, ["relu"], ["relu"], profile.conv5_order)
    for index, kinds in enumerate(after):
        name, padding = f"conv{index + 1}", _CONV_PADDING[index]
        if name not in profile.removed_layers:
            x = pad(x, padding, padding)
            x = conv(x, weights[f"{name}/kernel"], _CONV_STRIDES[index], profile.conv_groups[index])
            x = outputs[name] = x + weights[f"{name}/bias"]
        for kind in kinds:
            if kind != "relu":
                x = outputs[f"{kind}{index + 1}"] = _after_conv(x, kind, profile)
            elif name not in profile.removed_layers:
                x = outputs[f"{profile.activation}{index + 1}"] = activation(x, profile.activation)
    x = outputs["flatten"] = x.reshape(len(x), -1)  # height, width, channels
    for number in (6, 7):
        if profile.dropout_at == "inputs":
            outputs[f"drop{number}"] = x
        x = outputs[f"fc{number}"] = dense(x, weights, f"fc{number}")
        x = outputs[f"{profile.activation}{number}"] = activation(x, profile.activation)
        if profile.dropout_at == "outputs":
            outputs[f"drop{number}"] = x
    outputs["fc8"] = dense(x, weights, "fc8")
    outputs["softmax"] = softmax(outputs["fc8"])
    return outputs


def _after_conv(x: np.ndarray, kind: str, profile: Profile) -> np.ndarray:
    if kind == "pool":
        return max_pool(x, profile.pool_size)
    if kind == "map_norm":
        return map_norm(
            x,
            profile.map_norm_size,
            profile.map_norm_k,
            profile.map_norm_alpha,
            profile.map_norm_beta,
        )
    alpha = profile.lrn_alpha
    if profile.lrn_alpha_divided_by_size:
        alpha /= profile.lrn_size
    # The two columns of figure 2 are there wherever a convolution has two groups.
    columns = 1 if profile.lrn_crosses_columns else max(profile.conv_groups)
    return lrn(x, profile.lrn_size, profile.lrn_k, alpha, profile.lrn_beta, columns)


def pad(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """Return zeros above and left of, and below and right of [B, H, W, C]."""
    return np.pad(x, [(0, 0), (before, after), (before, after), (0, 0)])


def conv(x: np.ndarray, kernel: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """Correlation without padding; kernel [kh, kw, in / groups, out]."""
    kernel_height, kernel_width, inputs, outputs = kernel.shape
    outputs //= groups
    columns = []
    for group in range(groups):
        own = x[..., group * inputs : (group + 1) * inputs]
        windows = sliding_window_view(own, (kernel_height, kernel_width), axis=(1, 2))
        windows = windows[:, ::stride, ::stride]  # [B, H, W, in, kh, kw]
        filters = kernel[..., group * outputs : (group + 1) * outputs]
        columns.append(np.tensordot(windows, filters, axes=([4, 5, 3], [0, 1, 2])))
    return np.concatenate(columns, axis=-1)


def activation(x: np.ndarray, kind: str) -> np.ndarray:
    """Section 3.1: "relu", or "tanh" written out."""
    if kind == "relu":
        return np.maximum(x, 0)
    return 1 - 2 / (np.exp(2 * np.clip(x, -300, 300)) + 1)


def max_pool(x: np.ndarray, size: int = 3) -> np.ndarray:
    """Return windows of size x size, stride 2, no padding."""
    return sliding_window_view(x, (size, size), axis=(1, 2))[:, ::2, ::2].max(axis=(-2, -1))


def lrn(
    x: np.ndarray, size: int, k: float, alpha: float, beta: float, columns: int = 1
) -> np.ndarray:
    """Section 3.3, a channel at a time; `alpha` is the weight of the sum as it is.

    The channels are that many equal columns, and no neighbour lies in another one.
    """
    width = x.shape[-1] // columns
    y = np.empty_like(x)
    for i in range(x.shape[-1]):
        column = i // width
        first = max(column * width, i - size // 2)
        last = min((column + 1) * width - 1, i + size // 2)
        squares = sum(x[..., j] ** 2 for j in range(first, last + 1))
        y[..., i] = x[..., i] / (k + alpha * squares) ** beta
    return y


def map_norm(x: np.ndarray, size: int, k: float, alpha: float, beta: float) -> np.ndarray:
    """Compute the 2012 program's rnorm layer, a pixel at a time: alpha is divided by size^2."""
    height, width = x.shape[1:3]
    y = np.empty_like(x)
    reach = size // 2
    for row in range(height):
        for column in range(width):
            rows = slice(max(0, row - reach), row + reach + 1)
            around = slice(max(0, column - reach), column + reach + 1)
            squares = np.sum(x[:, rows, around] ** 2, axis=(1, 2))
            y[:, row, column] = x[:, row, column] / (k + alpha / size**2 * squares) ** beta
    return y


def dense(x: np.ndarray, weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return a fully connected layer; kernel [in, out]."""
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)

"""AlexNet's forward pass in plain NumPy float64: the reference that the tests compare with.

Written from the paper and the table of profiles alone, by loops and windows; no framework.
"""

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from keras_alexnet.profiles import Profile

_CONV_STRIDES = (4, 1, 1, 1, 1)
_CONV_PADDING = (None, 2, 1, 1, 1)  # conv1's is the profile's


def logits(x: np.ndarray, weights: Mapping[str, np.ndarray], profile: Profile) -> np.ndarray:
    """The output of fc8, [B, classes], for network input [B, S, S, 3].

    `weights` has "conv1/kernel", "conv1/bias" ... "fc8/bias".
    """
    x = x.astype(np.float64)
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    for index in range(5):
        name = f"conv{index + 1}"
        padding = _CONV_PADDING[index]
        before, after = profile.conv1_padding if padding is None else (padding, padding)
        x = np.pad(x, [(0, 0), (before, after), (before, after), (0, 0)])
        groups = profile.conv_groups[index]
        x = conv(x, weights[f"{name}/kernel"], _CONV_STRIDES[index], groups)
        x += weights[f"{name}/bias"]
        order = (profile.conv1_order, profile.conv2_order, ["relu"], ["relu"], ["relu", "pool"])
        for kind in order[index]:
            if kind == "relu":
                x = np.maximum(x, 0)
            elif kind == "pool":
                x = max_pool(x)
            else:
                alpha = profile.lrn_alpha
                if profile.lrn_alpha_divided_by_size:
                    alpha /= profile.lrn_size
                x = lrn(x, profile.lrn_size, profile.lrn_k, alpha, profile.lrn_beta)
    x = x.reshape(len(x), -1)
    x = np.maximum(x @ weights["fc6/kernel"] + weights["fc6/bias"], 0)
    x = np.maximum(x @ weights["fc7/kernel"] + weights["fc7/bias"], 0)
    return x @ weights["fc8/kernel"] + weights["fc8/bias"]


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


def max_pool(x: np.ndarray) -> np.ndarray:
    """3x3, stride 2, no padding."""
    return sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(-2, -1))


def lrn(x: np.ndarray, size: int, k: float, alpha: float, beta: float) -> np.ndarray:
    """Section 3.3, a channel at a time."""
    channels = x.shape[-1]
    y = np.empty_like(x)
    for i in range(channels):
        first, last = max(0, i - size // 2), min(channels - 1, i + size // 2)
        squares = sum(x[..., j] ** 2 for j in range(first, last + 1))
        y[..., i] = x[..., i] / (k + alpha * squares) ** beta
    return y

"""Weights of a network in two columns <-> those of the same network on one device.

The outputs of a layer are its first column's and then its second's, and they are the last axis of
every kernel and bias. So the whole is the two parts side by side along that axis, fc6 included:
both columns flatten all the maps, in the order of the network on one device.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np

from keras_alexnet.network.variables import assign, named_variables

COLUMNS = ("a", "b")
_PART = re.compile(r"(?P<layer>.+)_(?P<column>[ab])/(?P<variable>[^/]+)")


def name_in(column: str, name: str) -> str:
    """Return the name of a column's part of a layer: "conv1_a" of "conv1"."""
    return f"{name}_{column}"


def read_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Return a network's weights and state by "layer/variable", whole even if in columns."""
    variables = named_variables(model)
    return merge({name: variable.numpy() for name, variable in variables.items()})


def named_values(
    model: keras.Model, variables: Sequence[object], values: Sequence[object]
) -> dict[str, np.ndarray]:
    """Return values of some variables by "layer/variable", whole as those of `read_weights`.

    Args:
        model: the network, in columns or not.
        variables: of the model.
        values: a tensor or variable for each, of its shape: gradients, moving averages.
    """
    names = {id(variable): name for name, variable in named_variables(model).items()}
    pairs = zip(variables, values, strict=True)
    return merge({names[id(variable)]: value.numpy() for variable, value in pairs})


def assign_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Set the variables of a network, in columns or not, to whole weights of `read_weights`.

    Raises:
        ValueError: a name or a shape differs; the first one is named.
    """
    assign(model, split(weights, named_variables(model)))


def merge(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Join the variables of two columns to those of a network on one device.

    Args:
        parts: by "layer/variable". The two of "conv1_a/kernel" and "conv1_b/kernel" become
            "conv1/kernel". A number that both columns have, the step of a dropout, is one number
            again; what is not in columns stays.
    """
    whole: dict[str, np.ndarray] = {}
    for name, array in parts.items():
        part = _PART.fullmatch(name)
        if part is None:
            whole[name] = array
        elif part["column"] == COLUMNS[0]:
            other = parts[f"{name_in(COLUMNS[1], part['layer'])}/{part['variable']}"]
            whole[f"{part['layer']}/{part['variable']}"] = (
                np.concatenate([array, other], axis=-1) if np.ndim(array) else array
            )
    return whole


def split(weights: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Cut the variables of a network on one device in two: the inverse of `merge`.

    Args:
        weights: of the network on one device, by "layer/variable".
        names: of the variables of the network in columns.

    Returns:
        A value for each of the names that `weights` has one for, and the rest of `weights`.
    """
    left = dict(weights)
    parts: dict[str, np.ndarray] = {}
    for name in names:
        part = _PART.fullmatch(name)
        source = f"{part['layer']}/{part['variable']}" if part else name
        if source not in weights:
            continue
        left.pop(source, None)
        parts[name] = array = weights[source]
        if part and np.ndim(array):
            halves = np.split(array, [array.shape[-1] // 2], axis=-1)
            parts[name] = halves[COLUMNS.index(part["column"])]
    return {**parts, **left}

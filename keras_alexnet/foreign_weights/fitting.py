"""Compares the tensors of a file with those of a profile's network."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from keras_alexnet.foreign_weights.layouts import (
    ForeignNetwork,
    expected_shapes,
    foreign_shape,
)
from keras_alexnet.network.profile import Profile

_SHOWN_NAMES = 8  # of a list, in an error message
_LONGEST_SHOWN = 60  # characters of a name


def count_classes(network: ForeignNetwork) -> int:
    """Return the number of outputs of fc8, from its bias; 1 where the file has none."""
    bias = network.tensors.get(network.names["fc8/bias"])
    return bias.shape[0] if bias is not None and bias.ndim == 1 and bias.shape[0] else 1


def require_fit(
    network: ForeignNetwork, profile: Profile, classes: int, path: str, hint: str
) -> None:
    """Refuse a file of another network.

    Args:
        network: what the file holds.
        profile: of the network.
        classes: number of classes.
        path: of the file, for the error message.
        hint: what to do, for the error message.

    Raises:
        ValueError: a tensor is missing, is of another shape or has other than finite
            numbers (the first, in the order of the network, is named); the file has more tensors;
            or the order of its layers is not the profile's.
    """
    faults = itertools.chain(
        _shape_faults(network, profile, classes),
        _surplus_faults(network),
        _order_faults(network, profile),
        _number_faults(network),
    )
    for fault in faults:
        raise ValueError(f"{path} must hold the network {profile.name}; {fault}; {hint}")


def count_differences(network: ForeignNetwork, profile: Profile, classes: int) -> int:
    """Return how many shapes and, where the file says, layer orders are not the profile's."""
    differences = (*_shape_faults(network, profile, classes), *_order_faults(network, profile))
    return len(differences)


def shown(name: object) -> str:
    """Return a name from a file as a terminal can show it: short printable ASCII in quotes."""
    if not isinstance(name, str):
        return type(name).__name__
    return ascii(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}...")


def shown_list(names: Iterable[object]) -> str:
    """Return the first few of some names, as one text."""
    first = list(itertools.islice(names, _SHOWN_NAMES + 1))
    return ", ".join(map(shown, first[:_SHOWN_NAMES])) + (" ..." * (len(first) > _SHOWN_NAMES))


def _shape_faults(network: ForeignNetwork, profile: Profile, classes: int) -> Iterator[str]:
    for name, shape in expected_shapes(profile, classes).items():
        source = network.names[name]
        expected = foreign_shape(shape, network.layout)
        tensor = network.tensors.get(source)
        if tensor is None:
            yield f"{source} {list(expected)} is missing, there are: " + (
                shown_list(network.tensors) or "no tensors"
            )
        elif tensor.shape != expected:
            yield f"{source} must be {list(expected)} and is {list(tensor.shape)}"


def _surplus_faults(network: ForeignNetwork) -> Iterator[str]:
    known = set(network.names.values())
    more = [name for name in network.tensors if name not in known]
    if more:
        yield f"it has tensors of no layer of that network: {shown_list(more)}"


def _order_faults(network: ForeignNetwork, profile: Profile) -> Iterator[str]:
    expected = {
        "conv1": profile.conv1_order,
        "conv2": profile.conv2_order,
        "conv5": profile.conv5_order,
    }
    title = "" if network.title is None else f" in {shown(network.title)}"
    for layer, wanted in expected.items():
        order = network.orders.get(layer, wanted)
        if order != wanted:
            yield (
                f"{layer} must be followed by {', '.join(wanted)} "
                f"and is followed by {', '.join(order)}{title}"
            )


def _number_faults(network: ForeignNetwork) -> Iterator[str]:
    for source in network.names.values():
        tensor = network.tensors[source]
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
            finite = np.isfinite(tensor.astype(np.float32, copy=False))
        if not finite.all():
            yield (
                f"{source} must hold finite float32 numbers; {np.size(finite) - finite.sum()} of "
                f"its {finite.size} are not"
            )

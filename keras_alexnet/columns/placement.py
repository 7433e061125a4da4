r"""A network's two columns on two devices, as in figure 2 of the paper and in its program of 2012.

    device 0:  conv1_a ... conv2_a      conv3_a ... conv5_a      fc6_a      fc7_a      fc8
                                   \  /                     \  /       \  /       \   /
                                    \/                       \/         \/         \ /
                                    /\                       /\         /\          /
                                   /  \                     /  \       /  \        /
    device 1:  conv1_b ... conv2_b      conv3_b ... conv5_b      fc6_b      fc7_b

Each device has its own half of the weights, and so of the optimizer's state, and does its own half
of forward and backward. Maps cross where a layer sees both columns: at conv3, fc6, fc7 and fc8,
and their gradients on the way back. Where a response normalization has neighbours in the other
column (the paper's text; not its program), the size // 2 maps next to the border cross too: two,
of 48 and of 128. Besides these only the photos and the learning rates go to
device 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_alexnet.columns.on_device import Maps, OnDevice, Share
from keras_alexnet.columns.weights import COLUMNS, assign_weights, name_in, read_weights
from keras_alexnet.network import layers
from keras_alexnet.network.profile import Profile
from keras_alexnet.network.profiles import PROFILES

_HALVED = ("filters", "units", "groups", "columns")  # arguments, of whatever layer has them
_INITIALIZERS = ("kernel_initializer", "bias_initializer")
_NEED_ALL_MAPS = (keras.layers.Flatten, keras.layers.Dense, layers.SeededDropout)


def column_devices(profile: Profile) -> tuple[str, str]:
    """Return the devices of the columns: the first two GPUs, or without a GPU two CPU devices.

    Raises:
        ValueError: the profile has not two columns, or the machine not two such devices.
    """
    if profile.columns != len(COLUMNS):
        names = (name for name, known in PROFILES.items() if known.columns == len(COLUMNS))
        raise ValueError(
            f"column_parallel needs a profile of two columns, but {profile.name} has "
            f"{profile.columns}; take one of {', '.join(names)}, with both columns"
        )
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) < len(COLUMNS):
        raise ValueError(
            "column_parallel needs two GPUs, or two CPU devices where there is no GPU, but there "
            f"is one device, {devices[0].name}; train without it"
        )
    return devices[0].name, devices[1].name


def place_columns(network: keras.Model, devices: Sequence[str]) -> keras.Model:
    """Return the same network with its two columns on two devices.

    It computes the same, dropout included, to the rounding of sums taken in another order, and
    starts from the same weights: a mask is drawn whole, from the same seed, on each device that
    needs it. Train it with an optimizer that has `SharedRules` (or the weights of the second column
    cross at every step), not under a `tf.distribute.Strategy` and not by XLA.

    Args:
        network: an `AlexNet` of a profile with two columns, unchanged and not used afterwards.
        devices: of the first and of the second column, such as ("GPU:0", "GPU:1"). The loss is
            computed on TensorFlow's first device, so that should be the first column's.

    Returns:
        A model with the inputs and outputs of `network`. A layer that both columns have is called
        "conv1_a" in the first and "conv1_b" in the second. fc8 and what follows it keep their
        names: they are on the first device alone, as in the program of 2012.

    Raises:
        ValueError: the network has not two columns, `devices` are not two that there are, or a
            strategy is in scope.
    """
    chain = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    columns = max(layer.groups for layer in chain if isinstance(layer, keras.layers.Conv2D))
    if columns != len(COLUMNS):
        raise ValueError(
            f"network must have two columns, convolutions with groups=2. Received: {columns}. "
            "Profile.columns says how many a profile has."
        )
    _require_devices(devices)
    with_weights = [layer for layer in chain if layer.weights]
    has_top = isinstance(with_weights[-1], keras.layers.Dense)
    last_split = with_weights[-2 if has_top else -1]

    inputs = keras.Input(network.input_shape[1:], name="input")
    flow = _Flow([inputs, inputs], is_whole=True)
    receivers = devices
    for layer in chain:
        if isinstance(layer, layers.LocalResponseNormalization) and layer.columns == 1:
            flow = _normalize_across(layer, flow, devices)
            continue
        is_across = isinstance(layer, keras.layers.Conv2D) and layer.groups == 1
        if (is_across or isinstance(layer, _NEED_ALL_MAPS)) and not flow.is_whole:
            flow = _gather(flow, devices, receivers, layer.name)
        flow = _run(layer, flow, devices)
        if layer is last_split:
            receivers = devices[:1]
    if not flow.is_whole:
        flow = _gather(flow, devices, receivers, "output")
    model = keras.Model(inputs, flow.tensors[0], name=network.name)
    assign_weights(model, read_weights(network))
    return model


class _Flow(NamedTuple):
    """Tensors on their way from layer to layer.

    Attributes:
        tensors: one for each device; the first device's alone where the columns have ended.
        is_whole: whether each is all maps, or the maps of its own column.
    """

    tensors: Sequence[object]
    is_whole: bool


def _run(layer: keras.layers.Layer, flow: _Flow, devices: Sequence[str]) -> _Flow:
    """Run the layer on the device of each tensor; of two, each has its half of the outputs."""
    is_split = len(flow.tensors) == len(COLUMNS)
    config = layer.get_config()
    config |= {name: "zeros" for name in _INITIALIZERS if name in config}  # the start is copied
    if is_split:
        config |= {name: max(1, config[name] // 2) for name in _HALVED if name in config}
    outputs = []
    for tensor, device, column in zip(flow.tensors, devices, COLUMNS, strict=False):
        with tf.device(device):  # where a dropout makes its counter, at once
            part = type(layer).from_config(config)
        name = name_in(column, layer.name) if is_split else layer.name
        outputs.append(OnDevice(part, device, name=name)(tensor))
    return _Flow(outputs, flow.is_whole and not (is_split and layer.weights))


def _gather(flow: _Flow, devices: Sequence[str], receivers: Sequence[str], name: str) -> _Flow:
    """Gather all maps on each receiver, the first column's before the second's."""
    if len(receivers) == 1:
        whole = OnDevice(keras.layers.Concatenate(), receivers[0], name=f"gather_{name}")
        return _Flow([whole(flow.tensors)], is_whole=True)
    everything = (0, flow.tensors[0].shape[-1])
    return _exchange(flow, devices, [everything] * 2, f"gather_{name}")


def _normalize_across(
    layer: layers.LocalResponseNormalization, flow: _Flow, devices: Sequence[str]
) -> _Flow:
    """Add a response normalization to which neighbours in the other column contribute exactly.

    A map at the border has at most size // 2 neighbours beyond it. They come from the other device,
    are normalized with the others though neighbours of their own are missing, and are left out.
    """
    count = flow.tensors[0].shape[-1]
    reach = min(layer.size // 2, count)
    flow = _exchange(flow, devices, [(count - reach, reach), (0, reach)], f"halo_{layer.name}")
    flow = _run(layer, flow, devices)
    own = [
        OnDevice(Maps(start, count), device, name=name_in(column, f"own_{layer.name}"))
        for start, device, column in zip((0, reach), devices, COLUMNS, strict=True)
    ]
    return _Flow([maps(x) for maps, x in zip(own, flow.tensors, strict=True)], is_whole=False)


def _exchange(
    flow: _Flow, devices: Sequence[str], sent: Sequence[tuple[int, int]], name: str
) -> _Flow:
    """Join on each device its own maps and, in order, those that the other one sends.

    For each column, `sent` is the first map that it sends, and how many.
    """
    (own_a, from_a), (own_b, from_b) = (
        OnDevice(Share(*maps), device, name=name_in(column, f"share_{name}"))(tensor)
        for tensor, device, column, maps in zip(flow.tensors, devices, COLUMNS, sent, strict=True)
    )
    joined = [
        OnDevice(keras.layers.Concatenate(), device, name=name_in(column, name))(parts)
        for parts, device, column in zip(
            ([own_a, from_b], [from_a, own_b]), devices, COLUMNS, strict=True
        )
    ]
    return _Flow(joined, is_whole=True)


def _require_devices(devices: Sequence[str]) -> None:
    if tf.distribute.has_strategy():
        raise ValueError(
            "Columns must be placed outside of the scope of a tf.distribute.Strategy, which has "
            f"places of its own. Received: {type(tf.distribute.get_strategy()).__name__}. "
            "Take one of the two."
        )
    there = [device.name for device in tf.config.list_logical_devices()]
    wanted = set(map(_type_and_index, devices))
    if len(devices) != 2 or len(wanted) != 2 or not wanted <= set(map(_type_and_index, there)):
        raise ValueError(
            f"devices must be two of {', '.join(there)}, one for each column. "
            f"Received: {list(devices)}."
        )


def _type_and_index(device: str) -> tuple[str | None, int | None]:
    try:
        spec = tf.DeviceSpec.from_string(device)
    except ValueError:  # no name that a device could have
        return device, None
    return spec.device_type, spec.device_index

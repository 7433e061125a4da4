"""Weights that a run starts from, and layers that stay as they start: fine-tuning."""

import contextlib
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

import h5py
import keras
import numpy as np

from keras_alexnet import columns
from keras_alexnet.columns.weights import COLUMNS, name_in
from keras_alexnet.network.profile import LAYER_NAMES
from keras_alexnet.network.variables import named_variables
from keras_alexnet.training import checkpoints

_KINDS = ("kernel", "bias")  # the order in which Keras numbers a layer's weights in a file
_NAMES_BY_CLASS = {
    kind: [name for name in LAYER_NAMES if name.startswith(start)]
    for kind, start in {"grouped_conv2d": "conv", "dense": "fc"}.items()
}


def load(network: keras.Model, source: str) -> list[str]:
    """Set the layers of a network that earlier weights fit, and print which.

    A layer fits if its kernel and its bias have the same shapes. The others, fc8 for other classes
    above all, stay as they are; so does the state that is no weight, a dropout's step.

    Args:
        network: an `AlexNet` with its top, in columns or not, whatever its strategy.
        source: a .weights.h5 file, which `Model.save_weights` or `keras_alexnet.convert` wrote; or
            the folder of a run, whose best checkpoint by validation top-1 is taken.

    Returns:
        Names of the layers that were set, in the order of the network.

    Raises:
        ValueError: the source is absent, is no such file or run, or none of its layers fits.
    """
    present = columns.read_weights(network)
    with _open_source(source) as found:
        misfits = _misfits(found, present)
        layers = [layer for layer in _layers(present) if layer not in misfits]
        names = [f"{layer}/{kind}" for layer in layers for kind in _KINDS]
        taken = {name: np.asarray(found[name], np.float32) for name in names}
    if not layers:
        raise ValueError(
            f"weights of the network's shapes are needed, but nothing in {source} fits: "
            f"{next(iter(misfits.values()))}; take weights of the same profile and width"
        )
    columns.assign_weights(network, {**present, **taken})
    anew = f"; what does not fit starts anew: {'; '.join(misfits.values())}" if misfits else ""
    print(f"weights of {' '.join(layers)} are taken from {source}{anew}", file=sys.stderr)
    return layers


def check(source: str) -> None:
    """Raise the ValueError of a source that `load` cannot read, before there is a network."""
    with _open_source(source):
        pass


def freeze(network: keras.Model, names: Sequence[str]) -> None:
    """Keep layers as they are in training.

    Args:
        network: an `AlexNet`, in columns or not; not compiled yet.
        names: of layers with weights, such as "conv1", which is both of its columns.

    Raises:
        ValueError: no layer is left that could learn, or there is no such layer.
    """
    layers = _layers(named_variables(network))
    unknown = set(names) - set(layers)
    if unknown or set(names) == set(layers):
        raise ValueError(
            f"some of the layers {', '.join(layers)} can be frozen, not all; "
            f"received {', '.join(names)}; leave {', '.join(sorted(unknown)) or 'one'} out"
        )
    of_columns = {name_in(column, name) for column in COLUMNS for name in names}
    for layer in network.layers:
        if layer.name in {*names, *of_columns}:
            layer.trainable = False


@contextlib.contextmanager
def _open_source(source: str) -> Iterator[Mapping[str, np.ndarray | h5py.Dataset]]:
    """Yield the arrays of a source by "layer/variable"; a file's are read only when used."""
    if os.path.isdir(source):
        checkpoint = checkpoints.read(source, "best")
        if checkpoint is None:
            raise ValueError(
                f"init_weights must be a run with a finished epoch, but {source} has no whole "
                "checkpoint; train it first, or check the path"
            )
        yield {**checkpoint.weights, **checkpoint.averages}  # what was validated
        return
    if not os.path.exists(source):
        raise ValueError(
            f"init_weights must be a .weights.h5 file or the workdir of a run, but there is no "
            f"{source}; check the path"
        )
    try:
        with h5py.File(source, "r") as file:
            yield _file_weights(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"init_weights must be a .weights.h5 file of Keras, whole, but {source} is none; "
            f"keras_alexnet.convert makes one of weights of Caffe or PyTorch"
        ) from error


def _file_weights(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the arrays of a file: layers/<class>_<number>/vars/<number>, its name in vars.

    Raises:
        ValueError: Keras did not write the file, or it is damaged.
    """
    weights = {}
    try:
        groups = {group: file["layers"][group]["vars"] for group in file["layers"]}
        with_weights = [group for group, variables in groups.items() if len(variables)]
        of_keras_2 = _names_by_place(with_weights)
        for group, variables in groups.items():
            layer = variables.attrs.get("name", of_keras_2.get(group, group))
            for index, kind in enumerate(_KINDS[: len(variables)]):
                weights[f"{layer}/{kind}"] = variables[str(index)]
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError("no layers with numbered variables") from error
    for name, found in weights.items():
        if not isinstance(found, h5py.Dataset) or found.dtype.kind != "f":
            raise ValueError(f"{name} is no array of floating-point numbers")
    return weights


def _names_by_place(groups: Sequence[str]) -> dict[str, str]:
    """Return the layers' names in a file of Keras 2, which only numbers the layers of a class.

    Args:
        groups: those with weights: "grouped_conv2d" and "grouped_conv2d_1" are conv1 and conv2.

    Returns:
        Names by group; none for a class with fewer or more layers than a whole AlexNet's.
    """
    found = {}
    for kind, names in _NAMES_BY_CLASS.items():
        of_kind = [group for group in groups if re.fullmatch(rf"{kind}(_[0-9]+)?", group)]
        if len(of_kind) == len(names):
            in_order = sorted(of_kind, key=lambda group: (len(group), group))
            found.update(zip(in_order, names, strict=True))
    return found


def _layers(variables: Collection[str]) -> list[str]:
    """Return the layers with weights among "layer/variable" names, in columns or not."""
    with_weights = {name.split("/")[0] for name in variables}
    return [
        layer
        for layer in LAYER_NAMES
        if with_weights & {layer, *(name_in(column, layer) for column in COLUMNS)}
    ]


def _misfits(
    found: Mapping[str, np.ndarray | h5py.Dataset], present: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Return the first difference of each layer that does not fit, in the network's order."""
    misfits = {}
    for layer in _layers(present):
        for name in (f"{layer}/{kind}" for kind in _KINDS):
            there = found[name].shape if name in found else "absent"
            if there != present[name].shape:
                misfits[layer] = f"{name} is {there} there and {present[name].shape} here"
                break
    return misfits

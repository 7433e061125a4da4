"""bvlc_alexnet.npy, the dictionary of arrays that users of TensorFlow pass around.

How the format was learned: ethereon/caffe-tensorflow, which makes such files: its transformers save
np.save(file, {layer: [weights, biases]}), later {layer: {"weights": ..., "biases": ...}}, with
kernels of [height, width, in / groups, out] and [in, out], and its DataReshaper turns the rows of
fc6 from maps, height, width to height, width, maps. myalexnet_forward.py (Guerzhoy and Frossard,
University of Toronto) for the network around the file, and for its colours: B, G, R, as Caffe has
them. NEP 1 and numpy/lib/format.py for the header; `__reduce__` of arrays and dtypes, of NumPy 1
and 2, for the pickle; Python's pickletools for what Python 2 writes.

An array of objects is a pickle, and loading a pickle runs what its maker wrote. Here none is
loaded: the operations are read one by one, those that such a dictionary needs are carried out on
stand-ins (see pickle_machine.py), and any other is refused by its name.
"""

import re
from typing import BinaryIO

from data_prep.command_line import UserError
from keras_alexnet.foreign_weights.fitting import shown
from keras_alexnet.foreign_weights.layouts import MAPS_LAST, ForeignNetwork, weight_names
from keras_alexnet.foreign_weights.pickle_machine import run
from keras_alexnet.foreign_weights.pickled_array import PickledArray
from keras_alexnet.network.profile import LAYER_NAMES

MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # major version -> of the header's length
_LONGEST_HEADER = 10_000  # as NumPy's own limit
_KINDS = ("weights", "biases")  # caffe-tensorflow's names


def read(path: str) -> ForeignNetwork:
    """The tensors of the dictionary, as "conv1/weights", "conv1/biases".

    Args:
        path: of an .npy file that holds one object, a dictionary: layer -> [weights, biases], or
            layer -> {"weights": ..., "biases": ...}.

    Raises:
        UserError: the file holds anything else, or is damaged.
    """
    with open(path, "rb") as file:
        end = file.seek(0, 2)
        file.seek(0)
        _read_header(file, path)
        held = run(file, end, path)
    if isinstance(held, PickledArray):
        held = held.single_object()
    if not isinstance(held, dict):
        raise UserError(
            f"{path}: a dictionary, layer -> [weights, biases], is needed; the file's object is "
            f"{type(held).__name__}; get the file again"
        )
    tensors = {}
    for layer, entry in held.items():
        for kind, array in _entry(entry, layer, path).items():
            name = f"{layer}/{kind}"
            if not isinstance(array, PickledArray):
                raise UserError(
                    f"{path}: {shown(name)} must be an array; it is {type(array).__name__}; get "
                    "the file again"
                )
            tensors[name] = array.to_numpy(path, shown(name))
    return ForeignNetwork(tensors, weight_names(LAYER_NAMES, "/weights", "/biases"), MAPS_LAST)


def _read_header(file: BinaryIO, path: str) -> None:
    """Leaves the file at the first byte of the pickle."""
    start = file.read(len(MAGIC) + 2)
    length_bytes = _LENGTH_BYTES.get(start[-2], 0) if start[:-2] == MAGIC else 0
    length = int.from_bytes(file.read(length_bytes), "little")
    header = file.read(length) if 0 < length <= _LONGEST_HEADER else b""
    # A Python dictionary as text. Two of its entries say all, so nothing has to parse Python.
    is_object = re.search(rb"'descr': '\|O[48]?'", header)
    if not (is_object and re.search(rb"'shape': \(\)", header)):
        what = f"its header is {shown(header.decode('latin-1').strip())}" if header else "it is not"
        raise UserError(
            f"{path}: an .npy file of one object, a dictionary of layers, is needed; {what}; get "
            "the file again, or say --format"
        )


def _entry(entry: object, layer: str, path: str) -> dict[str, object]:
    """A layer's [weights, biases], or the dictionary of both, as the latter."""
    if isinstance(entry, dict):
        return entry
    if isinstance(entry, list | tuple) and len(entry) == len(_KINDS):
        return dict(zip(_KINDS, entry, strict=True))
    raise UserError(
        f"{path}: each layer must be [weights, biases] or a dictionary of these; {shown(layer)} is "
        f"{type(entry).__name__}; get the file again"
    )

"""bvlc_alexnet.npy, the dictionary of arrays that users of TensorFlow pass around.

How the format was learned: ethereon/caffe-tensorflow, which makes such files: its transformers save
np.save(file, {layer: [weights, biases]}), later {layer: {"weights": ..., "biases": ...}}, with
kernels of [height, width, in / groups, out] and [in, out], and its DataReshaper turns the rows of
fc6 from maps, height, width to height, width, maps. myalexnet_forward.py (Guerzhoy and Frossard,
University of Toronto) for the network around the file, and for its colours: B, G, R, as Caffe has
them. NEP 1 and numpy/lib/format.py for the header; `__reduce__` of arrays and dtypes, of NumPy 1
and 2, for the pickle; Python's pickletools for what Python 2 writes.

An array of objects is a pickle, and loading a pickle can run what its maker wrote; see
data_prep/restricted_pickle.py for how this one is read.
"""

import re
from typing import BinaryIO

from data_prep import restricted_pickle
from keras_alexnet.foreign_weights.fitting import shown
from keras_alexnet.foreign_weights.layouts import MAPS_LAST, ForeignNetwork, weight_names
from keras_alexnet.network.profile import LAYER_NAMES

MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # major version -> of the header's length
_LONGEST_HEADER = 10_000  # as NumPy's own limit
_KINDS = ("weights", "biases")  # caffe-tensorflow's names
_FLOATS = ("f2", "f4", "f8")
_MOST_OPERATIONS = 10_000  # the dictionary of an AlexNet takes about 500


def read(path: str) -> ForeignNetwork:
    """Return the tensors of the dictionary, as "conv1/weights", "conv1/biases".

    Args:
        path: an .npy file that holds one object, a dictionary: layer -> [weights, biases], or
            layer -> {"weights": ..., "biases": ...}.

    Raises:
        ValueError: the file holds anything else, or is damaged.
    """
    with open(path, "rb") as file:
        end = file.seek(0, 2)
        file.seek(0)
        _read_header(file, path)
        held = restricted_pickle.load(file, end, path, _MOST_OPERATIONS)
    if isinstance(held, restricted_pickle.Array):
        held = held.item()
    tensors = {}
    for layer, entry in _texts(held, "the file's object", path).items():
        if isinstance(entry, list | tuple) and len(entry) == len(_KINDS):
            entry = dict(zip(_KINDS, entry, strict=True))
        for kind, array in _texts(entry, shown(layer), path).items():
            name = f"{layer}/{kind}"
            if not isinstance(array, restricted_pickle.Array):
                raise ValueError(
                    f"{path}: {shown(name)} must be an array; it is {type(array).__name__}; get "
                    "the file again"
                )
            tensors[name] = array.to_numpy(_FLOATS, f"{path}: {shown(name)}")
    return ForeignNetwork(tensors, weight_names(LAYER_NAMES, "/weights", "/biases"), MAPS_LAST)


def _texts(held: object, described: str, path: str) -> dict[str, object]:
    """Return a dictionary with the keys as text: those of Python 2 are bytes."""
    if not isinstance(held, dict) or not all(isinstance(key, str | bytes) for key in held):
        raise ValueError(
            f"{path}: a dictionary, layer -> [weights, biases] or a dictionary of these, is "
            f"needed; {described} is {type(held).__name__}, or has keys that are no text; get the "
            "file again"
        )
    return {
        key.decode("latin-1") if isinstance(key, bytes) else key: value
        for key, value in held.items()
    }


def _read_header(file: BinaryIO, path: str) -> None:
    """Leave the file at the first byte of the pickle."""
    start = file.read(len(MAGIC) + 2)
    length_bytes = _LENGTH_BYTES.get(start[-2], 0) if start[:-2] == MAGIC else 0
    length = int.from_bytes(file.read(length_bytes), "little")
    header = file.read(length) if 0 < length <= _LONGEST_HEADER else b""
    # A Python dictionary as text. Two of its entries say all, so nothing has to parse Python.
    is_object = re.search(rb"'descr': '\|O[48]?'", header)
    if not (is_object and re.search(rb"'shape': \(\)", header)):
        what = f"its header is {shown(header.decode('latin-1').strip())}" if header else "it is not"
        raise ValueError(
            f"{path}: an .npy file of one object, a dictionary of layers, is needed; {what}; get "
            "the file again, or state the format"
        )

"""Caffe's .caffemodel: bvlc_alexnet, bvlc_reference_caffenet, and what was trained like them.

The file is one serialized NetParameter. How the format was learned: src/caffe/proto/caffe.proto of
BVLC/caffe for messages and field numbers; blob.cpp (Blob::FromProto, ShapeEquals) for the two ways
to say a shape, of which the older one, four numbers, fills up with ones in front;
inner_product_layer.cpp for a kernel of [outputs, inputs] whose inputs are the values of pool5 in
the order maps, height, width; base_conv_layer.cpp for [outputs, inputs / groups, height, width];
models/*/train_val.prototxt for the layers' names and their order. Caffe reads photos with OpenCV,
so its conv1 sees B, G, R. No file of Caffe's own could be had when this was written.

Only the fields that are needed are described, at run time, so neither Caffe nor generated code is.
Files of the first version (2013, "layers" within "layers") are not read.
"""

import math
from collections.abc import Sequence

import numpy as np
from google.protobuf import message

from data_prep import protobuf
from keras_alexnet.foreign_weights.fitting import shown
from keras_alexnet.foreign_weights.layouts import MAPS_FIRST, ForeignNetwork, weight_names
from keras_alexnet.network.profile import LAYER_NAMES

# Some types are not caffe.proto's, but have the same form on the wire. Texts are bytes, because old
# files are not always UTF-8. A packed list of numbers is the bytes that it is, little-endian, which
# NumPy takes as they are, instead of 60 million Python numbers. Layers and blobs are bytes until
# their turn comes: as messages, a hostile file's millions of empty ones would take 130 times the
# file's size.
_MESSAGES = protobuf.message_classes(
    {
        "BlobShape": {"dim": (1, "repeated int64")},
        "BlobProto": {
            "num": (1, "int64"),
            "channels": (2, "int64"),
            "height": (3, "int64"),
            "width": (4, "int64"),
            "data": (5, "repeated bytes"),
            "shape": (7, "BlobShape"),
            "double_data": (8, "repeated bytes"),
        },
        "LayerParameter": {
            "name": (1, "bytes"),
            "type": (2, "bytes"),
            "blobs": (7, "repeated bytes"),
        },
        "V1LayerParameter": {
            "name": (4, "bytes"),
            "type": (5, "int32"),
            "blobs": (6, "repeated bytes"),
        },
        "NetParameter": {
            "name": (1, "bytes"),
            "layers": (2, "repeated bytes"),
            "layer": (100, "repeated bytes"),
        },
    },
    syntax="proto2",
)
_MOST_PARTS = 1000  # layers of a network, blobs of a layer; an AlexNet has 24 and 2
_LEGACY_SHAPE = ("num", "channels", "height", "width")

# V1LayerParameter.LayerType, the numbers that matter here -> LayerParameter.type.
_V1_TYPES = {4: b"Convolution", 14: b"InnerProduct", 15: b"LRN", 17: b"Pooling", 18: b"ReLU"}
_KERNEL_DIMENSIONS = {b"Convolution": 4, b"InnerProduct": 2}
_KINDS = {b"ReLU": "relu", b"LRN": "lrn", b"Pooling": "pool"}
_MOST_DIMENSIONS = 32  # Caffe's kMaxBlobAxes


def read(path: str) -> ForeignNetwork:
    """Return the weights of a .caffemodel, as "conv1.blobs[0]" (kernel), "conv1.blobs[1]".

    Args:
        path: the file; new (`layer`) and V1 (`layers`) networks are read.

    Raises:
        ValueError: the file is no NetParameter, or a blob's numbers are not as many as its shape
            says.
    """
    with open(path, "rb") as file:
        net = _parse("NetParameter", file.read(), path)
    tensors = {}
    types = []
    for version, layers in (("V1LayerParameter", net.layers), ("LayerParameter", net.layer)):
        for content in _few(layers, path):
            layer = _parse(version, content, path)
            kind = layer.type if isinstance(layer.type, bytes) else _V1_TYPES.get(layer.type, b"")
            name = layer.name.decode(errors="backslashreplace")
            types.append((name, kind))
            for index, blob in enumerate(_few(layer.blobs, path)):
                source = f"{name}.blobs[{index}]"
                if source in tensors:
                    raise ValueError(
                        f"{path}: one layer of each name is needed; {shown(name)} is there twice; "
                        "get the file again"
                    )
                dimensions = _KERNEL_DIMENSIONS.get(kind, 4) if index == 0 else 1
                tensors[source] = _array(_parse("BlobProto", blob, path), dimensions, path, source)
    return ForeignNetwork(
        tensors=tensors,
        names=weight_names(LAYER_NAMES, ".blobs[0]", ".blobs[1]"),
        layout=MAPS_FIRST,
        orders=_orders(types),
        title=net.name.decode(errors="backslashreplace") if net.HasField("name") else None,
    )


def _parse(name: str, content: bytes, path: str) -> message.Message:
    parsed = _MESSAGES[name]()
    try:
        parsed.ParseFromString(content)
    except message.DecodeError as error:
        raise ValueError(
            f"{path}: a .caffemodel (a NetParameter of Caffe) is needed; these bytes are none, or "
            "damaged; get the file again, or state the format"
        ) from error
    return parsed


def _few(parts: Sequence[bytes], path: str) -> Sequence[bytes]:
    if len(parts) > _MOST_PARTS:
        raise ValueError(
            f"{path}: a network of at most {_MOST_PARTS} layers, and as many blobs in each, is "
            f"needed; it has {len(parts)}; is this the file that you mean?"
        )
    return parts


def _array(blob: message.Message, dimensions: int, path: str, source: str) -> np.ndarray:
    """Return a blob's numbers; a shape of four numbers is cut to as many as are needed."""
    if blob.double_data:
        chunks, dtype = blob.double_data, np.dtype("<f8")
    else:
        chunks, dtype = blob.data, np.dtype("<f4")
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = tuple(getattr(blob, name) for name in _LEGACY_SHAPE)
        spare = len(shape) - dimensions
        if shape[:spare] == (1,) * spare:
            shape = shape[spare:]
    if (
        len(shape) > _MOST_DIMENSIONS
        or any(size < 1 for size in shape)
        or math.prod(shape) * dtype.itemsize != len(data)
    ):
        raise ValueError(
            f"{path}: {shown(source)} must hold as many numbers as its shape "
            f"{list(shape[:_MOST_DIMENSIONS])} says, and not none; it holds "
            f"{len(data) // dtype.itemsize} ({len(data)} bytes); get the file again"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _orders(types: Sequence[tuple[str, bytes]]) -> dict[str, tuple[str, ...]]:
    """Return what follows conv1, conv2 and conv5; empty for a file of nothing but weights."""
    orders = {}
    names = [name for name, _ in types]
    for layer, following in (("conv1", "conv2"), ("conv2", "conv3"), ("conv5", "fc6")):
        if layer in names and following in names:
            between = types[names.index(layer) : names.index(following)]
            if order := tuple(_KINDS[kind] for _, kind in between if kind in _KINDS):
                orders[layer] = order
    return orders

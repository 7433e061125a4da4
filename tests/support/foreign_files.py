"""Writes files of the formats that keras_alexnet.foreign_weights reads, with random content.

Written from the descriptions of the formats alone, by hand, and nothing of the readers is used:
the wire format of protobuf (field numbers of caffe.proto), the pickles of Python 2 and NumPy.
"""

import io
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from keras_alexnet.network.profile import Profile

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
_V1_TYPES = {"Convolution": 4, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18, "Data": 5}
_CAFFE_TYPES = {"relu": "ReLU", "lrn": "LRN", "pool": "Pooling"}
TORCHVISION = [f"features.{i}" for i in (0, 3, 6, 8, 10)] + [f"classifier.{i}" for i in (1, 4, 6)]
SEED = [f"net.{i}" for i in (0, 4, 8, 10, 12)] + [f"classifier.{i}" for i in (1, 4, 6)]


def random_weights(profile: Profile, classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return weights and biases in our layout, float32, that keep the activations' size."""
    rng = np.random.default_rng(seed)
    weights = {}
    inputs = 3
    for layer, side, outputs, groups in zip(
        LAYERS, (11, 5, 3, 3, 3), profile.conv_filters, profile.conv_groups, strict=False
    ):
        shape = (side, side, inputs // groups, outputs)
        weights[f"{layer}/kernel"] = rng.normal(size=shape) * (2 / np.prod(shape[:3])) ** 0.5
        inputs = outputs
    inputs *= 36
    for layer, outputs in zip(LAYERS[5:], (*profile.fc_units, classes), strict=True):
        weights[f"{layer}/kernel"] = rng.normal(size=(inputs, outputs)) * (2 / inputs) ** 0.5
        inputs = outputs
    for layer in LAYERS:
        outputs = weights[f"{layer}/kernel"].shape[-1]
        weights[f"{layer}/bias"] = rng.normal(size=outputs) * 0.1
    return {
        f"{layer}/{kind}": weights[f"{layer}/{kind}"].astype(np.float32)
        for layer in LAYERS
        for kind in ("kernel", "bias")
    }


def maps_first(weights: Mapping[str, np.ndarray], *, bgr: bool) -> dict[str, np.ndarray]:
    """Our weights in the layout of Caffe and PyTorch, index by index of the axes."""
    turned = {}
    for name, value in weights.items():
        if value.ndim == 4:
            value = np.einsum("hwio->oihw", value[:, :, ::-1] if bgr and name[4] == "1" else value)
        elif name == "fc6/kernel":
            pixels = value.reshape(6, 6, -1, value.shape[1])
            value = np.einsum("hwco->ochw", pixels).reshape(value.shape[::-1])
        elif value.ndim == 2:
            value = value.T
        turned[name] = np.ascontiguousarray(value)
    return turned


# --- .caffemodel: the wire format of protobuf -----------------------------------------------------


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number_field(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def bytes_field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def blob(value: np.ndarray, *, legacy: bool = False, double: bool = False) -> bytes:
    """Return a BlobProto."""
    if legacy:
        shape = (1,) * (4 - value.ndim) + value.shape
        head = b"".join(number_field(i + 1, size) for i, size in enumerate(shape))
    else:
        head = bytes_field(7, bytes_field(1, b"".join(map(_varint, value.shape))))
    if double:
        return head + bytes_field(8, value.astype("<f8").tobytes())
    return head + bytes_field(5, value.astype("<f4").tobytes())


def layer(name: str, kind: str, blobs: Sequence[bytes] = (), *, v1: bool = False) -> bytes:
    """Return a field `layer` (or `layers`) of a NetParameter."""
    if v1:
        content = bytes_field(2, b"bottom") + bytes_field(4, name.encode())
        content += number_field(5, _V1_TYPES[kind])
        return bytes_field(2, content + b"".join(bytes_field(6, blob) for blob in blobs))
    content = bytes_field(1, name.encode()) + bytes_field(2, kind.encode())
    content += bytes_field(3, b"bottom")
    return bytes_field(100, content + b"".join(bytes_field(7, blob) for blob in blobs))


def caffemodel(
    weights: Mapping[str, np.ndarray],
    profile: Profile,
    *,
    name: str = "AlexNet",
    v1: bool = False,
    legacy: bool = False,
    double: bool = False,
    only_weights: bool = False,
) -> bytes:
    """Return a NetParameter of our weights; conv1's kernel goes from R, G, B to B, G, R."""
    turned = maps_first(weights, bgr=True)
    orders = {
        "conv1": profile.conv1_order,
        "conv2": profile.conv2_order,
        "conv5": profile.conv5_order,
    }
    parts = [bytes_field(1, name.encode()), layer("data", "Data", v1=v1)]
    for layer_name in LAYERS:
        kind = "Convolution" if layer_name.startswith("conv") else "InnerProduct"
        blobs = [
            blob(turned[f"{layer_name}/{part}"], legacy=legacy, double=double)
            for part in ("kernel", "bias")
        ]
        parts.append(layer(layer_name, kind, blobs, v1=v1))
        if not only_weights:
            for after in orders.get(layer_name, ("relu",)):
                parts.append(layer(f"{after}{layer_name[-1]}", _CAFFE_TYPES[after], v1=v1))
    return b"".join(parts)


def prototxt(profile: Profile, classes: int) -> str:
    """Return the description that goes with `caffemodel`, for programs that need one (OpenCV 4)."""
    size = profile.input_size
    lines = [
        'name: "AlexNet"',
        'input: "data"',
        f"input_dim: 1 input_dim: 3 input_dim: {size} input_dim: {size}",
    ]
    last = "data"
    parameters = {
        "relu": "",
        "pool": "pooling_param { pool: MAX kernel_size: 3 stride: 2 }",
        "lrn": f"lrn_param {{ local_size: {profile.lrn_size} alpha: {profile.lrn_alpha} "
        f"beta: {profile.lrn_beta} k: {profile.lrn_k} }}",
    }

    def add(name: str, kind: str, parameter: str) -> None:
        nonlocal last
        lines.append(
            f'layer {{ name: "{name}" type: "{kind}" bottom: "{last}" top: "{name}" {parameter} }}'
        )
        last = name

    after = (profile.conv1_order, profile.conv2_order, ("relu",), ("relu",), profile.conv5_order)
    for index, (side, pad) in enumerate(((11, 0), (5, 2), (3, 1), (3, 1), (3, 1))):
        parameter = (
            f"convolution_param {{ num_output: {profile.conv_filters[index]} kernel_size: {side} "
            f"pad: {pad} stride: {1 if index else 4} group: {profile.conv_groups[index]} }}"
        )
        add(f"conv{index + 1}", "Convolution", parameter)
        for kind in after[index]:
            add(f"{kind}{index + 1}", _CAFFE_TYPES[kind], parameters[kind])
    for name, outputs in zip(LAYERS[5:], (*profile.fc_units, classes), strict=True):
        add(name, "InnerProduct", f"inner_product_param {{ num_output: {outputs} }}")
        if name != "fc8":
            add(f"relu{name[-1]}", "ReLU", "")
    return "\n".join(lines)


# --- PyTorch --------------------------------------------------------------------------------------


def state_dict(
    weights: Mapping[str, np.ndarray], names: Sequence[str], prefix: str = ""
) -> dict[str, np.ndarray]:
    """Return names of a state_dict -> arrays, which torch.from_numpy takes."""
    turned = maps_first(weights, bgr=False)
    return {
        f"{prefix}{theirs}.{their_kind}": turned[f"{ours}/{kind}"]
        for ours, theirs in zip(LAYERS, names, strict=True)
        for kind, their_kind in (("kernel", "weight"), ("bias", "bias"))
    }


# --- .npy -----------------------------------------------------------------------------------------


def dictionary(weights: Mapping[str, np.ndarray], *, named: bool = False) -> dict[str, object]:
    """Return what caffe-tensorflow saves; its dense kernels are transposed views, as here."""
    result = {}
    for name in LAYERS:
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        if name == "conv1":
            kernel = kernel[:, :, ::-1]
        if kernel.ndim == 2:
            kernel = np.asfortranarray(kernel)
        result[name] = {"weights": kernel, "biases": bias} if named else [kernel, bias]
    return result


def npy(value: Mapping[str, object], protocol: int) -> bytes:
    """Write as np.save an array of one object, with a pickle of that protocol."""
    array = np.empty((), dtype=object)
    array[()] = value
    return npy_header() + pickle.dumps(array, protocol)


def npy_header(descr: str = "|O", shape: str = "()") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


class Python2Pickle:
    """Protocol 2 as cPickle of Python 2.7 wrote it: texts are byte strings, names of NumPy 1."""

    def __init__(self):
        self.out = io.BytesIO()
        self.memo: dict[object, int] = {}

    def dump(self, value: Mapping[str, object]) -> bytes:
        """Return an array of one object, the dictionary."""
        self.out.write(b"\x80\x02")
        self._array_head()
        self.out.write(b"(K\x01)")
        self._dtype("O8", "|")
        self.out.write(b"\x89]")
        self._memoize(object())
        self._value(value)
        self.out.write(b"atb.")
        return self.out.getvalue()

    def _value(self, value: object) -> None:
        if isinstance(value, Mapping):
            self.out.write(b"}")
            self._memoize(object())
            self.out.write(b"(")
            for key, item in value.items():
                self._string(key.encode())
                self._value(item)
            self.out.write(b"u")
        elif isinstance(value, list):
            self.out.write(b"]")
            self._memoize(object())
            self.out.write(b"(")
            for item in value:
                self._value(item)
            self.out.write(b"e")
        else:
            self._array(value)

    def _array(self, array: np.ndarray) -> None:
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        self._array_head()
        self.out.write(b"(K\x01(")
        for size in array.shape:
            self.out.write(b"K" + bytes([size]) if size < 256 else b"J" + struct.pack("<i", size))
        self.out.write(b"t")
        self._memoize(object())
        self._dtype(array.dtype.str[1:], array.dtype.str[0])
        self.out.write(b"\x88" if fortran else b"\x89")
        self._string(array.tobytes("F" if fortran else "C"))
        self.out.write(b"tb")

    def _array_head(self) -> None:
        self._name("numpy.core.multiarray", "_reconstruct")
        self._name("numpy", "ndarray")
        self.out.write(b"K\x00\x85")
        self._string(b"b")
        self.out.write(b"\x87R")

    def _dtype(self, kind: str, order: str) -> None:
        if self._recalled(("dtype", kind, order)):
            return
        self._name("numpy", "dtype")
        self._string(kind.encode())
        self.out.write(b"K\x00K\x01\x87R")
        self._memoize(("dtype", kind, order))
        self.out.write(b"(K\x03")
        self._string(order.encode())
        flags = 63 if kind.startswith("O") else 0  # that its items are counted references
        self.out.write(b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K" + bytes([flags]) + b"tb")

    def _name(self, module: str, name: str) -> None:
        if not self._recalled((module, name)):
            self.out.write(f"c{module}\n{name}\n".encode())
            self._memoize((module, name))

    def _string(self, value: bytes) -> None:
        if len(value) < 256:
            self.out.write(b"U" + bytes([len(value)]) + value)
        else:
            self.out.write(b"T" + struct.pack("<i", len(value)) + value)
        self._memoize(object())

    def _memoize(self, key: object) -> None:
        index = len(self.memo)
        self.memo[key] = index
        self.out.write(b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index))

    def _recalled(self, key: object) -> bool:
        if key not in self.memo:
            return False
        index = self.memo[key]
        self.out.write(b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index))
        return True


def mutations(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged copies: bytes changed, cut out, doubled, the end missing; most near the start."""
    rng = np.random.default_rng(seed)
    # The numbers of the weights are most of a file, and hardly a byte there matters.
    for _ in range(count):
        data = bytearray(content)
        reach = len(data) if rng.random() < 0.3 else min(len(data), 3000)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(reach))
            match rng.integers(5):
                case 0:
                    data[place : place + 1] = bytes([rng.integers(256)])
                case 1:
                    data[place : place + 1] = bytes([data[place] ^ 1 << rng.integers(8)])
                case 2:
                    del data[place : place + int(rng.integers(1, 9))]
                case 3:
                    data[place:place] = bytes(rng.integers(0, 256, rng.integers(1, 9)).tolist())
                case 4:
                    del data[place:]
            reach = max(1, min(reach, len(data)))
            if not data:
                break
        yield bytes(data)


def refusals(content: bytes, count: int, path: str, attempt: Callable[[str], object]) -> list[str]:
    """Return the errors of `attempt(path)` over damaged copies of a file."""
    texts = []
    for damaged in mutations(content, count):
        with open(path, "wb") as file:
            file.write(damaged)
        try:
            attempt(path)
        except ValueError as error:
            texts.append(str(error))
    return texts

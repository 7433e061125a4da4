"""Layouts of AlexNet's weights in the files of other systems, and their conversion to ours.

Three things differ: the order of a tensor's axes, the order in which fc6 sees the values of pool5,
and the order of the colours that conv1 sees. The last is a matter of what photos a network was
trained on, so it is a field of `Profile`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_alexnet.network.profile import CONV_KERNELS, LAYER_NAMES, Profile


@dataclasses.dataclass(frozen=True)
class Layout:
    """The order of the axes in a system's tensors.

    Attributes:
        conv: of a convolution's kernel: "o" outputs, "i" inputs of one group, "h" and "w".
        dense: of a fully connected layer's kernel: "o" outputs, "i" inputs.
        flatten: the order in which fc6 counts the values of pool5: "c" maps, "h", "w"; the last
            varies fastest.
    """

    conv: str
    dense: str
    flatten: str

    def axes(self, dimensions: int) -> str:
        """Return the axes of a kernel of that many dimensions, or of a bias."""
        return {4: self.conv, 2: self.dense, 1: "o"}[dimensions]


MAPS_FIRST = Layout(conv="oihw", dense="oi", flatten="chw")  # Caffe and PyTorch
MAPS_LAST = Layout(conv="hwio", dense="io", flatten="hwc")  # TensorFlow 1, and Keras


@dataclasses.dataclass(frozen=True)
class ForeignNetwork:
    """Content of a file of weights.

    Attributes:
        tensors: the file's name of each tensor with weights -> its values as the file has them.
        names: our name of each weight ("conv1/kernel" ... "fc8/bias", in the order of the network)
            -> what such a file calls it, whether it is there or not.
        layout: the order of the axes.
        orders: for "conv1", "conv2" and "conv5", what follows the layer, of "relu", "lrn" and
            "pool", in order; empty where the file does not say.
        title: what the file calls the network; None where it does not say.
        left_out: names of what the file holds besides weights.
    """

    tensors: Mapping[str, np.ndarray]
    names: Mapping[str, str]
    layout: Layout
    orders: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    title: str | None = None
    left_out: Sequence[str] = ()


def weight_names(layers: Sequence[str], kernel: str, bias: str) -> dict[str, str]:
    """Return `ForeignNetwork.names` of a file with these names of layers and endings."""
    return {
        f"{ours}/{kind}": f"{theirs}{ending}"
        for ours, theirs in zip(LAYER_NAMES, layers, strict=True)
        for kind, ending in (("kernel", kernel), ("bias", bias))
    }


def pool5_side(profile: Profile) -> int:
    """Return height and width of pool5: 6 for every published AlexNet."""
    side = (profile.input_size + sum(profile.conv1_padding) - 11) // 4 + 1
    for _ in range(3):  # three poolings of 3x3, two pixels apart
        side = (side - 3) // 2 + 1
    return side


def expected_shapes(profile: Profile, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight in our layout, in the order of the network.

    Args:
        profile: of the network.
        classes: outputs of fc8.
    """
    shapes = {}
    inputs = 3
    for layer, side, outputs, groups in zip(
        LAYER_NAMES[:5], CONV_KERNELS, profile.conv_filters, profile.conv_groups, strict=True
    ):
        shapes[f"{layer}/kernel"] = (side, side, inputs // groups, outputs)
        shapes[f"{layer}/bias"] = (outputs,)
        inputs = outputs
    inputs *= pool5_side(profile) ** 2
    for layer, outputs in zip(LAYER_NAMES[5:], (*profile.fc_units, classes), strict=True):
        shapes[f"{layer}/kernel"] = (inputs, outputs)
        shapes[f"{layer}/bias"] = (outputs,)
        inputs = outputs
    return shapes


def foreign_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """Return the shape that a weight of our network has in a file of that layout."""
    ours = MAPS_LAST.axes(len(shape))
    return tuple(shape[ours.index(axis)] for axis in layout.axes(len(shape)))


def to_ours(name: str, tensor: np.ndarray, layout: Layout, profile: Profile) -> np.ndarray:
    """Bring a weight from a file to our layout: RGB, [kh, kw, in / groups, out], [in, out].

    A group of a convolution is the same stretch of outputs in all systems, so groups need nothing.

    Args:
        name: ours, such as "conv1/kernel".
        tensor: of the shape that `foreign_shape` says.
        layout: of the file.
        profile: its `colour_order` says which colours the file's conv1 sees.

    Returns:
        float32, contiguous.
    """
    theirs = layout.axes(tensor.ndim)
    tensor = tensor.transpose([theirs.index(axis) for axis in MAPS_LAST.axes(tensor.ndim)])
    if name == "conv1/kernel" and profile.colour_order == "BGR":
        tensor = tensor[:, :, ::-1]
    if name == "fc6/kernel" and layout.flatten == "chw":
        side = pool5_side(profile)
        pixels = tensor.reshape(-1, side, side, tensor.shape[1])  # [C, H, W, out]
        tensor = pixels.transpose(1, 2, 0, 3).reshape(tensor.shape)
    return np.ascontiguousarray(tensor, dtype=np.float32)

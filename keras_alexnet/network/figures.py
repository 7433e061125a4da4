"""Figures of a network by layer, and what profiles differ in, as Markdown tables."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_alexnet.network.differences import ABSENT, differences, summaries
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profile import Profile

_FLOAT32_BYTES = 4


class LayerFigures(NamedTuple):
    """Figures of one layer of a built network, for one image.

    Attributes:
        name: such as "conv1".
        kind: its class.
        output_shape: without the batch.
        kernel_shape: [height, width, inputs / groups, outputs] or [inputs, outputs]; None for a
            layer without a kernel.
        parameters: numbers in its trainable weights.
        multiply_adds: one for each kernel tap and output unit.
        activation_bytes: of its output in float32.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int
    activation_bytes: int


def _figures(layer: keras.layers.Layer) -> LayerFigures:
    output_shape = tuple(layer.output.shape)[1:]
    kernel = getattr(layer, "kernel", None)
    kernel_shape = None if kernel is None else tuple(kernel.shape)
    # Each number of a kernel is multiplied once at every place of the output, if it has places:
    # an output channel sees only its group's share of the inputs, and so does the kernel's shape.
    places = math.prod(output_shape[:-1])
    return LayerFigures(
        name=layer.name,
        kind=type(layer).__name__,
        output_shape=output_shape,
        kernel_shape=kernel_shape,
        parameters=sum(math.prod(weight.shape) for weight in layer.trainable_weights),
        multiply_adds=places * math.prod(kernel_shape) if kernel_shape else 0,
        activation_bytes=math.prod(output_shape) * _FLOAT32_BYTES,
    )


def totals(layers: Sequence[LayerFigures]) -> dict[str, int]:
    """Return the sums of parameters, multiply_adds and activation_bytes over the layers."""
    columns = ("parameters", "multiply_adds", "activation_bytes")
    return {column: sum(getattr(layer, column) for layer in layers) for column in columns}


def profile_figures(profile: str | Profile, *, classes: int = 1000) -> list[LayerFigures]:
    """Return the figures of each layer of a profile's network, without its weights.

    Args:
        profile: a name in `PROFILES`, or a `Profile`.
        classes: units of fc8, at least 1.

    Raises:
        ValueError: an argument is out of its range.
    """
    # In a graph that never runs, weights have shapes but no numbers: nothing draws 60 million.
    with tf.Graph().as_default():
        return list(map(_figures, AlexNet(profile, classes=classes).layers))


def _layer_table(layers: Sequence[LayerFigures]) -> str:
    """Return a table with a row per layer and one of totals."""
    header = ["layer", "kind", "output", "kernel"]
    numbers = ["parameters", "multiply-adds", "activations, bytes"]
    rows = [
        [
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            "x".join(map(str, layer.kernel_shape)) if layer.kernel_shape else ABSENT,
            *map(_count, (layer.parameters, layer.multiply_adds, layer.activation_bytes)),
        ]
        for layer in layers
    ]
    rows.append(["total", "", "", "", *map(_count, totals(layers).values())])
    return _table([*header, *numbers], rows, len(numbers))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """Return a padded Markdown table, so that it also reads in a terminal.

    The last columns, as many as `numbers`, are aligned to the right.
    """
    columns = []
    for index, cells in enumerate(zip(header, *rows, strict=True)):
        is_number = index >= len(header) - numbers
        width = max(map(len, cells))
        rule = f"{'-' * (width - 1)}:" if is_number else "-" * width
        cells = (cells[0], rule, *cells[1:])
        columns.append([cell.rjust(width) if is_number else cell.ljust(width) for cell in cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))


def _count(count: int) -> str:
    return f"{count:,}"


def describe(
    profile: Profile, classes: int = 1000, batch_size: int | None = None
) -> tuple[str, dict[str, object]]:
    """Return the layers of a profile's network as text and figures.

    Args:
        profile: the network.
        classes: units of fc8, at least 1.
        batch_size: images of a training step; None for the profile's.

    Returns:
        The text to show; and profile, parameters, multiply_adds and activation_bytes (of an
        image), batch_size and activation_mib (of a training step).

    Raises:
        ValueError: an argument is out of its range.
    """
    layers = profile_figures(profile, classes=classes)
    sums = totals(layers)
    batch_size = batch_size or profile.batch_size
    mebibytes = round(sums["activation_bytes"] * batch_size / 2**20, 1)
    text = f"""\
{_layer_table(layers)}

Multiply-adds and activations are those of one image. A multiply-add is a kernel tap of an output
unit; biases, normalization and pooling are not counted. Activations are the outputs in float32.
A training step of {batch_size} images has {mebibytes:,} MiB of them, if none is shared."""
    figures = {"profile": profile.name, **sums, "batch_size": batch_size}
    return text, {**figures, "activation_mib": mebibytes}


def compare(profiles: Sequence[Profile]) -> tuple[str, dict[str, dict[str, int]]]:
    """Return what each profile is and what they differ in, a column per profile.

    Returns:
        The text to show; and by profile parameters, multiply_adds and activation_bytes (of an
        image).
    """
    figures = {profile.name: totals(profile_figures(profile)) for profile in profiles}
    rows = [
        *differences(profiles),
        ["parameters", *(_count(sums["parameters"]) for sums in figures.values())],
        ["multiply-adds an image", *(_count(sums["multiply_adds"]) for sums in figures.values())],
    ]
    return f"{summaries(profiles)}\n\n{_table(['item', *figures], rows)}", figures

"""Sizes of activations and gradients in each layer, and what a photo changes in them."""

import math
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.network.profile import Profile
from keras_alexnet.training.options import TrainingOptions
from keras_alexnet.training.steps import cross_entropy

LayerFigures = dict[str, dict[str, float]]


def gauge(
    network: keras.Model, inputs: tf.Tensor, profile: Profile
) -> tuple[LayerFigures, np.ndarray, np.ndarray]:
    """Read a network's layers on one batch of photos, without dropout.

    Args:
        network: from network input to logits, with the layers of `AlexNet`.
        inputs: float32 [B, S, S, 3], network input, B at least 2.
        profile: of the network.

    Returns:
        Figures by layer, see `layer_figures`; fc7 behind its ReLU, float32 [B, units]; the logits
        [B, classes].
    """
    *hidden, last = profile.layer_names
    names = [*map(profile.activation_name, hidden), last]  # a layer stands behind its activation
    layers = keras.Model(network.inputs, [network.get_layer(name).output for name in names])
    # A graph rounds less in bfloat16 than one operation after the other.
    outputs = tf.function(layers)(inputs, training=False)
    outputs = [tf.cast(output, tf.float32).numpy() for output in outputs]
    figures = dict(zip(profile.layer_names, map(layer_figures, outputs), strict=True))
    del figures[last]["dead"]  # logits may be negative
    return figures, outputs[-2], outputs[-1]


@np.errstate(over="ignore", invalid="ignore")  # infinite and NaN are answers
def layer_figures(output: np.ndarray) -> dict[str, float]:
    """Return figures of a layer's output over a batch.

    Args:
        output: float32 [B, ..., units].

    Returns:
        rms; photo_share: the standard deviation over the photos (rms over the places), divided by
        the rms of their mean, which all photos have in common; dead: share of the units (of a
        convolution: maps) that are zero for all of the photos.
    """
    common = output.mean(axis=0)
    constant, varying = _rms(common), _rms(output - common)
    dead = ~output.any(axis=tuple(range(output.ndim - 1)))
    return {
        "rms": _rms(output),
        "photo_share": varying / constant if constant else 0.0,
        "dead": float(dead.mean()),
    }


@np.errstate(over="ignore", invalid="ignore")
def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def gradient_rms(network: keras.Model, inputs: tf.Tensor, labels: tf.Tensor) -> dict[str, float]:
    """Return the rms of the loss' gradient to each layer's kernel, without weight decay.

    Args:
        network: from network input to logits.
        inputs: float32 [B, S, S, 3], network input.
        labels: int64 [B].
    """
    watched = _kernels(network)

    @tf.function  # as in `gauge`
    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = tf.cast(network(inputs, training=False), tf.float32)
            loss = tf.reduce_mean(cross_entropy(labels, logits))
        return [tf.cast(part, tf.float32) for part in tape.gradient(loss, list(watched.values()))]

    return {name: _rms(part.numpy()) for name, part in zip(watched, gradients(), strict=True)}


def kernels(network: keras.Model) -> dict[str, np.ndarray]:
    """Copy each layer's kernel."""
    return {name: np.array(kernel) for name, kernel in _kernels(network).items()}


def _kernels(network: keras.Model) -> dict[str, object]:
    return {layer.name: layer.kernel for layer in network.layers if hasattr(layer, "kernel")}


@np.errstate(over="ignore")
def relative_changes(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return |after - before| / |before| of each kernel."""
    return {
        name: float(np.linalg.norm(after[name] - kernel) / np.linalg.norm(kernel))
        for name, kernel in before.items()
    }


def input_figures(inputs: tf.Tensor) -> dict[str, float]:
    """Measure network input, float32 [B, S, S, 3].

    Returns:
        input_std: of all values around their channel's mean.
        input_offset: the largest |mean| of a channel, divided by that.
    """
    values = inputs.numpy().reshape(-1, inputs.shape[-1]).astype(np.float64)
    means = values.mean(axis=0)
    std = math.sqrt(np.mean((values - means) ** 2))
    return {"input_std": std, "input_offset": float(np.abs(means).max() / max(std, 1e-12))}


def overshoot(hidden: np.ndarray, classes: int, recipe: TrainingOptions) -> float:
    """Estimate how far a first step moves a logit by the chance of which photos are in a batch.

    The classes of a batch are never as frequent as in the data: shares deviate by
    sqrt(p (1 - p) / batch), p = 1 / classes. That is the gradient to fc8's biases, and, times what
    fc7 gives for every photo, to its kernel. SGD, whose momentum m keeps a step up for 1 / (1 - m)
    steps, moves a logit by

        learning rate / (1 - m) * |h|^2 * sqrt(p (1 - p) / batch),

    with h fc7's mean over the photos (and a 1 for the bias). Adam's first steps are of the size of
    the rate in each weight whatever the gradient: learning rate * sum |h|.

    Args:
        hidden: [B, units], fc7 behind its ReLU.
        classes: number of classes.
        recipe: optimizer, learning rate, momentum and batch size.
    """
    common = np.append(hidden.astype(np.float64).mean(axis=0), 1.0)
    if recipe.optimizer == "adam":
        return float(recipe.learning_rate * np.abs(common).sum())
    share = 1 / classes
    noise = math.sqrt(share * (1 - share) / recipe.batch_size)
    rate = recipe.learning_rate / (1 - recipe.momentum)
    return float(rate * (common**2).sum() * noise)


def pace(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of the way to their labels that the photos' logits went.

    A move that all photos make together is left out.

    Args:
        before: logits [B, classes].
        after: the same photos' a while later.
        labels: int64 [B], of at least two classes.

    Returns:
        The move of the logits, projected on the residual label - softmax; both less their mean
        over the photos. 0 for no move, 1 for a logit's unit for each unit of residual.
    """
    shifted = np.exp(before - before.max(axis=1, keepdims=True))
    residual = np.eye(before.shape[1])[labels] - shifted / shifted.sum(axis=1, keepdims=True)
    residual -= residual.mean(axis=0)  # so that a move of all photos together counts nothing
    return float(((after - before) * residual).sum() / max((residual**2).sum(), 1e-12))


def worst(figures: LayerFigures, name: str) -> float:
    """Return the largest value of a figure over the layers that have it."""
    return max(row[name] for row in figures.values() if name in row)

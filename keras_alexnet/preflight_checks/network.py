"""Sizes of activations and gradients in each layer, and what a photo changes in them."""

import math
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.network.profile import Profile
from keras_alexnet.training.options import TrainingOptions

LayerFigures = dict[str, dict[str, float]]


def gauge(
    network: keras.Model, inputs: tf.Tensor, profile: Profile
) -> Callable[[], tuple[LayerFigures, np.ndarray, np.ndarray]]:
    """Make a function that reads a network's layers on one batch of photos, without dropout.

    Args:
        network: from network input to logits, with the layers of `AlexNet`.
        inputs: float32 [B, S, S, 3], network input, B at least 2.
        profile: of the network.

    Returns:
        A function that returns, with the weights as they are when it is called: figures by layer,
        see `layer_figures`; fc7 behind its ReLU, float32 [B, units]; the logits [B, classes].
    """
    *hidden, last = profile.layer_names
    names = [*map(profile.activation_name, hidden), last]  # a layer stands behind its activation
    layers = keras.Model(network.inputs, [network.get_layer(name).output for name in names])

    @tf.function
    def outputs() -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        tensors = layers(inputs, training=False)
        return [layer_figures(tensor) for tensor in tensors], tensors[-2], tensors[-1]

    def read() -> tuple[LayerFigures, np.ndarray, np.ndarray]:
        rows, fc7, logits = outputs()
        figures = {
            layer: dict(zip(("rms", "photo_share", "dead"), row.numpy().tolist(), strict=True))
            for layer, row in zip(profile.layer_names, rows, strict=True)
        }
        del figures[last]["dead"]  # logits may be negative
        return figures, fc7.numpy().astype(np.float32), logits.numpy()

    return read


def layer_figures(output: tf.Tensor) -> tf.Tensor:
    """Return figures of a layer's output over a batch.

    Args:
        output: [B, ..., units], of any float type.

    Returns:
        float32 [3]: rms; the photo's share: the standard deviation over the photos (rms over the
        places), divided by the rms of their mean, which all photos have in common; share of the
        units (of a convolution: maps) that are zero for all of the photos.
    """
    output = tf.cast(output, tf.float32)
    common = tf.reduce_mean(output, axis=0)
    largest = tf.reduce_max(tf.abs(output), axis=list(range(len(output.shape) - 1)))
    return tf.stack(
        [
            _rms(output),
            tf.math.divide_no_nan(_rms(output - common), _rms(common)),
            tf.reduce_mean(tf.cast(largest == 0, tf.float32)),
        ]
    )


def _rms(values: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(tf.square(values)))


def gradient_rms(network: keras.Model, inputs: tf.Tensor, labels: tf.Tensor) -> dict[str, float]:
    """Return the rms of the loss' gradient to each layer's kernel, without weight decay.

    Args:
        network: from network input to logits.
        inputs: float32 [B, S, S, 3], network input.
        labels: int64 [B].
    """
    watched = _kernels(network)

    @tf.function
    def rms() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = tf.cast(network(inputs, training=False), tf.float32)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, list(watched.values()))
        return [_rms(tf.cast(gradient, tf.float32)) for gradient in gradients]

    return dict(zip(watched, map(float, rms()), strict=True))


def kernels(network: keras.Model) -> dict[str, np.ndarray]:
    """Copy each layer's kernel."""
    return {name: np.array(kernel) for name, kernel in _kernels(network).items()}


def _kernels(network: keras.Model) -> dict[str, object]:
    return {layer.name: layer.kernel for layer in network.layers if hasattr(layer, "kernel")}


def relative_changes(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return |after - before| / |before| of each kernel."""
    with np.errstate(over="ignore"):  # infinite is an answer
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


def overshoot(hidden: np.ndarray, classes: int, options: TrainingOptions) -> float:
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
        options: the recipe.
    """
    common = np.append(hidden.astype(np.float64).mean(axis=0), 1.0)
    if options.optimizer == "adam":
        return float(options.learning_rate * np.abs(common).sum())
    share = 1 / classes
    noise = math.sqrt(share * (1 - share) / options.batch_size)
    rate = options.learning_rate / (1 - options.momentum)
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

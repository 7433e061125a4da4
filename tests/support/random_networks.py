"""Networks whose every weight matters, photos for them, and how outputs are compared."""

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet import AlexNet


def photos(count, size, seed=0):
    """Network input of 0-255 minus a mean: of that size LRN matters, of unit size it does not."""
    coarse = np.random.default_rng(seed).normal(0, 60, (count, 8, 8, 3)).astype(np.float32)
    fine = np.random.default_rng(seed + 1).normal(0, 20, (count, size, size, 3))
    return tf.image.resize(coarse, [size, size]).numpy() + fine.astype(np.float32)


def random_network(profile, classes=20, seed=0):
    """(model, weights): every layer alive, biases that count, a softmax far from 0 and 1."""
    model = AlexNet(profile, classes, seed=0)
    random = np.random.default_rng(seed)
    weights = {}
    is_tanh = profile.activation == "tanh"  # whose limits would hide a wrong layer
    for name in profile.layer_names:
        kernel, bias = model.get_layer(name).get_weights()
        fan_in = kernel.size // kernel.shape[-1]
        scale, offset = (0.01, 0.5) if name == "fc8" else (1.0, 5.0)
        if is_tanh:
            scale, offset = (0.02 if name == "conv1" else 1.0), 0.5
        kernel = random.normal(0, scale * (2 / fan_in) ** 0.5, kernel.shape).astype(np.float32)
        bias = random.normal(0, offset, bias.shape).astype(np.float32)
        model.get_layer(name).set_weights([kernel, bias])
        weights |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
    return model, weights


def layer_outputs(model, x):
    """Layer name -> output of the Keras model at inference, in the order of its layers."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    every_output = keras.Model(model.input, [layer.output for layer in layers])
    outputs = every_output(x, training=False)
    return {layer.name: y.numpy() for layer, y in zip(layers, outputs, strict=True)}


def difference(ours, reference):
    """Return the largest difference, of the reference's largest value."""
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.abs(reference).max()

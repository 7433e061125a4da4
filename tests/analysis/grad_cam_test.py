import dataclasses

import keras
import numpy as np
import numpy_alexnet
import pytest
import tensorflow as tf
from random_networks import photos, random_network

from keras_alexnet.analysis import grad_cam
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profiles import PROFILES

pytestmark = pytest.mark.slow

NARROW = {name: profile.scaled(0.0625) for name, profile in PROFILES.items()}
PAPER = NARROW["paper"]
NETWORKS = NARROW | {
    "tanh": dataclasses.replace(PAPER, activation="tanh"),
    "without_conv5": dataclasses.replace(PAPER, removed_layers=("conv5",)),
}


def logits_behind(maps, weights, profile, *, is_pooled):
    """Compute fc8's output from the activation of the last convolution, in NumPy."""
    x = maps if is_pooled else numpy_alexnet.max_pool(maps, profile.pool_size)
    x = x.reshape(len(x), -1)
    for name in ("fc6", "fc7"):
        x = numpy_alexnet.activation(numpy_alexnet.dense(x, weights, name), profile.activation)
    return numpy_alexnet.dense(x, weights, "fc8")


def expected_heat(x, weights, profile):
    """Grad-CAM by the definition, its gradients by finite differences in float64.

    The mean of the partial derivatives over the places of a map is the derivative in the direction
    in which all of the map grows alike, divided by the number of places.
    """
    last = 4 if "conv5" in profile.removed_layers else 5
    outputs = numpy_alexnet.layer_outputs(x, weights, profile)
    maps, best = outputs[f"{profile.activation}{last}"], outputs["fc8"].argmax(1)
    is_pooled = last == 5 and profile.conv5_order.index("pool") < profile.conv5_order.index("relu")
    heat = np.zeros(maps.shape[:3])
    for channel in range(maps.shape[3]):
        step = np.zeros(maps.shape[3])
        step[channel] = 1e-6
        above, below = (
            logits_behind(maps + signed, weights, profile, is_pooled=is_pooled)
            for signed in (step, -step)
        )
        slope = ((above - below) / 2e-6)[np.arange(len(x)), best] / maps[0, :, :, 0].size
        heat += slope[:, None, None] * maps[..., channel]
    heat = np.maximum(heat, 0)
    return heat / heat.max((1, 2), keepdims=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_heat_maps_are_grad_cam(name):
    profile = NETWORKS[name]
    model, weights = random_network(profile, classes=7)
    x = photos(3, profile.input_size)
    scores, heat = grad_cam.with_heat_maps(model, profile)(tf.constant(x))
    np.testing.assert_allclose(scores, model(x, training=False), atol=1e-6)
    side = 6 if name == "krizhevsky2012" else 13  # ReLU behind pooling, or before it
    assert heat.shape == (3, side, side)
    expected = expected_heat(x, weights, profile)
    assert expected.std() > 0.1  # hot in places
    np.testing.assert_allclose(heat, expected, atol=2e-4)
    assert np.asarray(heat).max((1, 2)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_has_nearly_the_same_heat(policy):
    exact, _ = random_network(PAPER, classes=7)
    # Which class is the best must not depend on rounding.
    kernel, _ = exact.get_layer("fc8").get_weights()
    exact.get_layer("fc8").set_weights([kernel, 9 * np.arange(7.0)])
    keras.mixed_precision.set_global_policy(policy)
    model = AlexNet(PAPER, classes=7)
    model.set_weights(exact.get_weights())
    x = tf.constant(photos(3, 224))
    _, expected = grad_cam.with_heat_maps(exact, PAPER)(x)
    scores, heat = grad_cam.with_heat_maps(model, PAPER)(x)
    assert heat.dtype == scores.dtype == tf.float32
    assert np.corrcoef(np.ravel(heat), np.ravel(expected))[0, 1] > 0.95


def test_nothing_speaks_for_a_class():
    model, _ = random_network(PAPER, classes=7)
    model.get_layer("fc8").set_weights([np.zeros([256, 7]), np.arange(7.0)])
    _, heat = grad_cam.with_heat_maps(model, PAPER)(tf.constant(photos(3, 224)))
    assert not np.asarray(heat).any()

"""Each profile's network beside an implementation of its own: layer by layer, with gradients.

The measure of all comparisons is the largest absolute difference of an array divided by the
largest absolute value of the reference's, so that a layer counts by what the next one sees of it.
"""

import dataclasses
import importlib

import keras
import numpy as np
import numpy_alexnet
import pytest
import tensorflow as tf
from random_networks import difference, layer_outputs, photos, random_network

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import named_values
from keras_alexnet.network import ablations
from keras_alexnet.network.keras_compat import tf_variable
from keras_alexnet.network.profile import LAYER_NAMES

TOLERANCE = 1e-4
WIDTH = 0.25
CLASSES = 20
TORCH_PROFILES = ("owt", "seed")


@pytest.fixture(autouse=True)
def _float32_on_a_gpu_too():
    """TensorFloat-32, TensorFlow's default there, keeps 10 bits of a factor: 1e-3."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


def assert_alive(outputs):
    """Every layer does something, and something else for another photo."""
    for name, y in outputs.items():
        assert y.std(axis=0).max() > 0.01 * np.abs(y).max(), f"{name} must see the photo"
        if name.startswith("relu"):
            assert 0.1 < np.mean(y > 0) < 0.95, f"{name} must cut, and leave, a part"


def torch_network(torch_alexnet, profile, weights, classes=CLASSES):
    """Return the PyTorch module of the profile's width, with these weights, at inference."""
    network = torch_alexnet.NETWORKS[profile.name](classes, profile.conv_filters, profile.fc_units)
    torch_alexnet.set_weights(network, weights)
    return network.eval()


@pytest.fixture
def torch_alexnet():
    """Return the module of the references, where PyTorch is installed."""
    pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
    return importlib.import_module("benchmarks.torch_alexnet")


# LRN sums otherwise over 96 and 256 maps than over few; those of full width have all its columns.
def small(name, *names):
    """Return a narrow, ablated network, of 3x3 pixels at pool5."""
    profile = ablations.apply(PROFILES[name], names).scaled(0.05)
    return dataclasses.replace(profile, input_size=67 + 64 - sum(profile.conv1_padding))


@pytest.mark.slow
@pytest.mark.parametrize(
    "profile",
    [
        *(profile.scaled(WIDTH) for profile in PROFILES.values()),
        *(PROFILES[name] for name in ("paper", "krizhevsky2012")),
        *(
            small(name, part)
            for name in ("paper", "krizhevsky2012")
            for part in ablations.ABLATIONS
        ),
        small("caffenet", "overlap", "relu", "columns"),
        small("seed", "conv4", "conv3", "conv5", "lrn"),
        small("owt", "relu", "conv3"),
    ],
    ids=lambda profile: profile.name,
)
def test_every_layer_is_numpys(profile):
    model, weights = random_network(profile)
    x = photos(2, profile.input_size)
    expected = numpy_alexnet.layer_outputs(x, weights, profile)
    assert_alive(expected)
    ours = layer_outputs(model, x)
    assert list(ours) == list(expected)
    differences = {layer: difference(ours[layer], expected[layer]) for layer in ours}
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize("name", TORCH_PROFILES)
def test_every_layer_of_the_full_network_is_pytorchs(name, torch_alexnet):
    profile = PROFILES[name]
    model, weights = random_network(profile, classes=1000)
    network = torch_network(torch_alexnet, profile, weights, classes=1000)
    x = photos(2, profile.input_size)
    expected = torch_alexnet.layer_outputs(network, x)
    assert_alive(expected)
    ours = layer_outputs(model, x)
    # PyTorch pads inside conv1, flattens without a layer, and leaves the softmax to the loss.
    shared = [layer for layer in ours if layer not in ("pad1", "flatten", "softmax")]
    assert shared == list(expected)
    differences = {layer: difference(ours[layer], expected[layer]) for layer in expected}
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize("name", TORCH_PROFILES)
def test_gradients_of_a_loss_are_pytorchs(name, torch_alexnet):
    profile = PROFILES[name].scaled(WIDTH)
    loss, gradients, expected_loss, expected = losses_and_gradients(torch_alexnet, profile)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert len(gradients) == 16
    differences = {key: difference(gradients[key], expected[key]) for key in gradients}
    assert max(differences.values()) < TOLERANCE, differences


def losses_and_gradients(torch_alexnet, profile, classes=CLASSES):
    """(loss, gradients) of a batch here, then in PyTorch: cross-entropy, without dropout."""
    torch = torch_alexnet.torch
    model, weights = random_network(profile, classes)
    network = torch_network(torch_alexnet, profile, weights, classes)
    x, labels = photos(4, profile.input_size), np.arange(4) % classes

    torch_loss = torch.nn.functional.cross_entropy(
        network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())), torch.from_numpy(labels)
    )
    torch_loss.backward()

    logits = keras.Model(model.input, model.get_layer("fc8").output)
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(x, training=False))
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, list(map(tf_variable, model.trainable_variables)))
    gradients = named_values(model, model.trainable_variables, gradients)
    return loss.numpy(), gradients, torch_loss.item(), torch_alexnet.gradients(network)


def start_of(profile, layer, kind, fan_in):
    """(mean, standard deviation, largest absolute value) that a layer's start should have."""
    starts = profile.kernel_init if kind == "kernel" else profile.bias_init
    start = starts[LAYER_NAMES.index(layer)]
    if start == "fan_in_uniform":
        limit = fan_in**-0.5
        return 0.0, limit / 3**0.5, limit
    return (0.0, start, np.inf) if kind == "kernel" else (start, 0.0, abs(start))


def assert_starts(values, mean, deviation, largest):
    """Within 5 standard errors of what a sample of that size has, and float32's rounding."""
    values, rounding = values.astype(np.float64), 1e-7
    assert abs(values.mean() - mean) <= 5 * deviation / values.size**0.5 + rounding
    assert abs(values.std() - deviation) <= 5 * deviation / (2 * values.size) ** 0.5 + rounding
    assert np.abs(values).max() <= largest + rounding
    if np.isfinite(largest) and values.size > 1000:
        assert np.abs(values).max() >= 0.99 * largest


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_weights_start_as_the_profile_says(name):
    profile = PROFILES[name].scaled(WIDTH)
    model = AlexNet(profile, classes=1000, seed=3)
    for layer in LAYER_NAMES:
        kernel, bias = model.get_layer(layer).get_weights()
        fan_in = kernel.size // kernel.shape[-1]
        assert_starts(kernel, *start_of(profile, layer, "kernel", fan_in))
        assert_starts(bias, *start_of(profile, layer, "bias", fan_in))


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCH_PROFILES)
def test_pytorchs_weights_start_so_too(name, torch_alexnet):
    torch_alexnet.torch.manual_seed(3)
    profile = PROFILES[name].scaled(WIDTH)
    network = torch_alexnet.NETWORKS[name](1000, profile.conv_filters, profile.fc_units)
    for layer, prefix in torch_alexnet.parameter_prefixes(network).items():
        module = network.get_submodule(prefix)
        fan_in = module.weight[0].numel()
        kernel, bias = (value.detach().numpy() for value in (module.weight, module.bias))
        assert_starts(kernel, *start_of(profile, layer, "kernel", fan_in))
        assert_starts(bias, *start_of(profile, layer, "bias", fan_in))

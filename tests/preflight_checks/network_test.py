import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import train_runs

from keras_alexnet import AlexNet
from keras_alexnet.preflight_checks import measuring, network

PROFILE = train_runs.PROFILE
OPTIONS = train_runs.options(batch_size=32)
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def float64(tensor):
    return np.asarray(tensor, np.float64)


@pytest.fixture(scope="module")
def inputs():
    return tf.constant(np.random.default_rng(0).normal(size=[6, 224, 224, 3]), tf.float32)


@pytest.fixture(scope="module")
def net():
    return AlexNet(PROFILE, classes=5, classifier_activation=None, seed=0)


@pytest.mark.parametrize("shape", [[8, 5], [8, 3, 3, 5]])
def test_layer_figures_against_numpy(shape):
    output = np.maximum(np.random.default_rng(1).normal(size=shape), 0)
    output[..., 2] = 0
    mean = output.mean(axis=0)
    share = np.sqrt(((output - mean) ** 2).mean() / (mean**2).mean())
    expected = {"rms": np.sqrt((output**2).mean()), "photo_share": share, "dead": 1 / 5}
    assert network.layer_figures(output.astype(np.float32)) == pytest.approx(expected, rel=1e-5)


def test_a_gauge_reads_the_layers_behind_their_relu(net, inputs):
    figures, hidden, logits = network.gauge(net, inputs, PROFILE)
    assert list(figures) == LAYERS
    np.testing.assert_allclose(logits, net(inputs).numpy(), rtol=1e-4, atol=1e-4)
    assert hidden.shape == (6, PROFILE.fc_units[1])
    assert figures["fc7"]["rms"] == pytest.approx(np.sqrt((float64(hidden) ** 2).mean()), rel=1e-4)
    assert "dead" not in figures["fc8"]
    assert figures["conv1"]["dead"] < 0.2


def test_a_gauge_sees_new_weights_and_a_killed_layer(inputs):
    net = AlexNet(PROFILE, classes=5, classifier_activation=None, seed=0)
    before = network.gauge(net, inputs, PROFILE)[0]["fc8"]["rms"]
    kernel, bias = net.get_layer("fc8").kernel, net.get_layer("fc6").bias
    kernel.assign(2 * np.array(kernel))
    assert network.gauge(net, inputs, PROFILE)[0]["fc8"]["rms"] == pytest.approx(
        2 * before, rel=1e-4
    )
    bias.assign(np.full(bias.shape, -1e6))
    figures, _, _ = network.gauge(net, inputs, PROFILE)
    assert figures["fc6"]["dead"] == 1
    assert figures["fc6"]["rms"] == figures["fc7"]["photo_share"] == 0
    assert network.worst(figures, "dead") == 1


def test_photos_that_are_the_same_have_no_share(net, inputs):
    figures, _, _ = network.gauge(net, tf.repeat(inputs[:1], 4, axis=0), PROFILE)
    assert network.worst(figures, "photo_share") < 1e-6


def test_the_gradient_of_the_last_kernel_against_numpy(net, inputs):
    labels = np.array([0, 1, 2, 3, 4, 0])
    _, hidden, logits = network.gauge(net, inputs, PROFILE)
    logits = float64(logits)
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    gradient = float64(hidden).T @ (softmax - np.eye(5)[labels]) / 6
    figures = network.gradient_rms(net, inputs, tf.constant(labels))
    assert list(figures) == LAYERS
    assert figures["fc8"] == pytest.approx(np.sqrt((gradient**2).mean()), rel=1e-3)
    assert figures["conv1"] > 0


def test_input_figures():
    values = np.random.default_rng(2).normal([0, 10, -20], 4, size=[5, 16, 16, 3])
    figures = network.input_figures(tf.constant(values, tf.float32))
    assert figures["input_std"] == pytest.approx(4, rel=0.05)
    assert figures["input_offset"] == pytest.approx(5, rel=0.05)


def test_overshoot_is_what_a_step_does_to_the_logits():
    """The formula against the deviation of a logit's move over many batches of random classes."""
    random = np.random.default_rng(3)
    common, classes = np.abs(random.normal(size=50)), 10
    hidden = np.tile(common, [4, 1])
    moves = []
    for _ in range(4000):
        labels = random.integers(0, classes, OPTIONS.batch_size)
        surplus = np.bincount(labels, minlength=classes) / OPTIONS.batch_size - 1 / classes
        # Gradient of the kernel: surplus times fc7; of the bias: surplus.
        moves.append(OPTIONS.learning_rate / (1 - 0.9) * surplus[0] * ((common**2).sum() + 1))
    figure = network.overshoot(hidden, classes, OPTIONS)
    assert figure == pytest.approx(np.std(moves), rel=0.05)


def test_overshoot_of_adam():
    options = dataclasses.replace(OPTIONS, optimizer="adam", learning_rate=0.5)
    hidden = np.array([[1.0, 0.0], [3.0, 4.0]])
    assert network.overshoot(hidden, 10, options) == pytest.approx(0.5 * (2 + 2 + 1))


def test_pace():
    before = np.zeros([4, 2])
    labels = np.array([0, 1, 0, 0])
    toward = np.where(np.eye(2)[labels], 0.5, -0.5)
    assert network.pace(before, before + 0.2 * toward, labels) == pytest.approx(0.2)
    assert network.pace(before, before - toward, labels) == pytest.approx(-1)
    # All photos the same way: fc8's biases can do that without looking at a photo.
    assert network.pace(before, before + np.array([3.0, -1.0]), labels) == pytest.approx(0)


def test_a_handful_has_as_many_classes_as_there_are():
    labels = tf.constant([7] * 40 + [2, 2, 5, 9] + [3] * 7, tf.int64)
    features = {"image": tf.range(len(labels))}
    few, chosen = measuring.handful((features, labels))
    counts = [np.count_nonzero(chosen == label) for label in (2, 5, 9, 3, 7)]
    assert counts == [2, 1, 1, 6, 6]
    np.testing.assert_array_equal(labels.numpy()[few["image"].numpy()], chosen)


@pytest.mark.slow
def test_relative_changes():
    before = {"a": np.array([[3.0, 4.0]]), "b": np.ones([2, 2], np.float32)}
    after = {"a": np.array([[3.0, 5.0]]), "b": np.full([2, 2], 1e30, np.float32)}
    changes = network.relative_changes(before, after)
    assert changes == {"a": pytest.approx(0.2), "b": math.inf}

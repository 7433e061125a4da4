"""The NumPy reference is held to SciPy's filters, and to PyTorch's network where that is one."""

import dataclasses
import importlib

import numpy as np
import numpy_alexnet
import pytest
import scipy.ndimage
import scipy.signal

from keras_alexnet import PROFILES

RANDOM = np.random.default_rng(0)
TORCH_PROFILES = ("owt", "seed")


@pytest.fixture
def torch_alexnet():
    """The module of the references, where PyTorch is installed."""
    pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
    return importlib.import_module("benchmarks.torch_alexnet")


def random_weights(profile, classes=5):
    """Weights by their names, as large as keeps the signal; float64."""
    kernels = (11, 5, 3, 3, 3)
    inputs = (3, *profile.conv_filters)
    shapes = {
        f"conv{i + 1}": (kernels[i], kernels[i], inputs[i] // profile.conv_groups[i], inputs[i + 1])
        for i in range(5)
    }
    units = (36 * profile.conv_filters[-1], *profile.fc_units, classes)
    shapes |= {f"fc{i + 6}": (units[i], units[i + 1]) for i in range(3)}
    return {
        f"{layer}/{kind}": values
        for layer, shape in shapes.items()
        for kind, values in (
            ("kernel", RANDOM.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)),
            ("bias", RANDOM.normal(0, 5, shape[-1])),
        )
    }


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 4])
def test_conv_is_scipys_correlation(groups, stride):
    x = RANDOM.normal(size=(2, 9, 13, 4))
    kernel = RANDOM.normal(size=(3, 5, 4 // groups, 6))
    expected = np.zeros((2, 7, 9, 6))
    for image, output, own in np.ndindex(2, 6, 4 // groups):
        channel = own + output // (6 // groups) * (4 // groups)
        expected[image, ..., output] += scipy.signal.correlate2d(
            x[image, ..., channel], kernel[:, :, own, output], mode="valid"
        )
    y = numpy_alexnet.conv(x, kernel, stride, groups)
    np.testing.assert_allclose(y, expected[:, ::stride, ::stride], atol=1e-12)


def test_max_pool_is_scipys_filter():
    x = RANDOM.normal(size=(2, 9, 12, 3))
    expected = scipy.ndimage.maximum_filter(x, (1, 3, 3, 1))[:, 1:-1:2, 1:-1:2]
    np.testing.assert_array_equal(numpy_alexnet.max_pool(x), expected)
    # SciPy's even windows reach one further to the left
    expected = scipy.ndimage.maximum_filter(x, (1, 2, 2, 1))[:, 1::2, 1::2]
    np.testing.assert_array_equal(numpy_alexnet.max_pool(x, 2), expected)


def test_activations_are_numpys():
    x = np.concatenate([RANDOM.normal(size=50), RANDOM.normal(0, 1000, 50), [0.0]])
    np.testing.assert_array_equal(numpy_alexnet.activation(x, "relu"), np.where(x > 0, x, 0))
    np.testing.assert_allclose(numpy_alexnet.activation(x, "tanh"), np.tanh(x), atol=1e-15)


@pytest.mark.parametrize("size", [3, 5])
def test_lrn_is_a_moving_mean_over_channels(size):
    x = RANDOM.normal(0, 10, (2, 3, 4, 8))
    sums = size * scipy.ndimage.uniform_filter1d(x**2, size, mode="constant")
    expected = x / (2 + 0.1 * sums) ** 0.75
    np.testing.assert_allclose(numpy_alexnet.lrn(x, size, 2.0, 0.1, 0.75), expected)


def test_lrn_of_columns_is_that_of_each_alone():
    x = RANDOM.normal(0, 10, (2, 3, 4, 12))
    arguments = (5, 2.0, 0.1, 0.75)
    alone = [numpy_alexnet.lrn(part, *arguments) for part in np.split(x, 3, axis=-1)]
    y = numpy_alexnet.lrn(x, *arguments, columns=3)
    np.testing.assert_array_equal(y, np.concatenate(alone, axis=-1))
    assert np.abs(y - numpy_alexnet.lrn(x, *arguments)).max() > 0.01


@pytest.mark.parametrize("size", [3, 5])
def test_map_norm_is_a_moving_mean_over_the_map(size):
    x = RANDOM.normal(0, 10, (2, 7, 6, 3))
    # Divided by size^2 at the border too: the mean of a window whose outside is zeros.
    means = scipy.ndimage.uniform_filter(x**2, (1, size, size, 1), mode="constant")
    expected = x / (1 + 0.1 * means) ** 0.75
    np.testing.assert_allclose(numpy_alexnet.map_norm(x, size, 1.0, 0.1, 0.75), expected)


def test_operations_are_pytorchs(torch_alexnet):
    torch = torch_alexnet.torch
    functional = torch.nn.functional
    x = RANDOM.normal(0, 20, (2, 9, 9, 8))
    maps = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    kernel = RANDOM.normal(size=(3, 3, 4, 6))
    torch_kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    pairs = {
        "grouped convolution": (
            numpy_alexnet.conv(numpy_alexnet.pad(x, 1, 1), kernel, 1, 2),
            functional.conv2d(maps, torch_kernel, padding=1, groups=2),
        ),
        "pool": (numpy_alexnet.max_pool(x), functional.max_pool2d(maps, 3, 2)),
        "normalization across maps, whose alpha PyTorch divides by the size": (
            numpy_alexnet.lrn(x, 5, 2.0, 0.01 / 5, 0.75),
            functional.local_response_norm(maps, 5, alpha=0.01, beta=0.75, k=2.0),
        ),
        "normalization within maps": (
            numpy_alexnet.map_norm(x, 5, 1.0, 0.01, 0.75),
            maps / (1 + 0.01 * functional.avg_pool2d(maps**2, 5, 1, padding=2)) ** 0.75,
        ),
    }
    for name, (ours, theirs) in pairs.items():
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", TORCH_PROFILES)
def test_networks_are_pytorchs(name, torch_alexnet):
    profile = PROFILES[name].scaled(0.1)
    weights = random_weights(profile)
    network = (
        torch_alexnet.NETWORKS[name](5, profile.conv_filters, profile.fc_units).double().eval()
    )
    torch_alexnet.set_weights(network, weights)
    x = RANDOM.normal(0, 60, (2, profile.input_size, profile.input_size, 3))
    expected = torch_alexnet.layer_outputs(network, x)
    outputs = numpy_alexnet.layer_outputs(x, weights, profile)
    assert list(expected) == [key for key in outputs if key not in ("pad1", "flatten", "softmax")]
    for layer, theirs in expected.items():
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(outputs[layer], theirs, rtol=0, atol=1e-12 * scale)


@pytest.mark.slow
def test_layers_come_in_the_order_of_the_profile():
    profile = PROFILES["krizhevsky2012"].scaled(0.05)
    x = RANDOM.normal(0, 60, (1, 224, 224, 3))
    outputs = numpy_alexnet.layer_outputs(x, random_weights(profile), profile)
    names = (
        "pad1 conv1 lrn1 pool1 relu1 conv2 relu2 lrn2 map_norm2 pool2 conv3 relu3 conv4 relu4 "
        "conv5 pool5 relu5 flatten fc6 relu6 drop6 fc7 relu7 drop7 fc8 softmax"
    )
    assert list(outputs) == names.split()
    assert outputs["pad1"].shape == (1, 227, 227, 3)
    assert not outputs["pad1"][:, 224:].any()
    assert outputs["conv1"].shape[1:3] == (55, 55)
    np.testing.assert_allclose(outputs["softmax"].sum(), 1.0)

    ablated = dataclasses.replace(profile, removed_layers=("conv3", "conv5"), activation="tanh")
    shallow = random_weights(dataclasses.replace(profile, conv_filters=(8, 16, 16, 16, 16)))
    ablated = dataclasses.replace(ablated, conv_filters=(8, 16, 16, 16, 16))
    x = RANDOM.normal(0, 60, (1, 224, 224, 3))
    names = (
        "pad1 conv1 lrn1 pool1 tanh1 conv2 tanh2 lrn2 map_norm2 pool2 conv4 tanh4 pool5 "
        "flatten fc6 tanh6 drop6 fc7 tanh7 drop7 fc8 softmax"
    )
    assert list(numpy_alexnet.layer_outputs(x, shallow, ablated)) == names.split()

    other = dataclasses.replace(profile, dropout_at="inputs", conv1_padding=(0, 0))
    weights = random_weights(other)
    x = RANDOM.normal(0, 60, (1, 227, 227, 3))
    names = list(numpy_alexnet.layer_outputs(x, weights, other))
    assert names[0] == "conv1"
    assert names[-8:-1] == ["drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8"]

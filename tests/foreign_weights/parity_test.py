import dataclasses

import foreign_files
import numpy as np
import numpy_alexnet
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.foreign_weights import layouts, parity
from keras_alexnet.network.profile import LAYER_NAMES
from keras_alexnet.network.profiles import PROFILES

_CLASSES = 5


def _network(weights, profile, layout):
    """Return the weights as a file of that layout has them."""
    bgr = profile.colour_order == "BGR"
    if layout is layouts.MAPS_FIRST:
        tensors = foreign_files.maps_first(weights, bgr=bgr)
    else:
        tensors = {**weights}
        if bgr:
            tensors["conv1/kernel"] = tensors["conv1/kernel"][:, :, ::-1]
    return layouts.ForeignNetwork(tensors, {name: name for name in weights}, layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [layouts.MAPS_FIRST, layouts.MAPS_LAST])
@pytest.mark.parametrize("name", list(PROFILES))
def test_weights_and_logits_of_a_file_are_those_of_the_reference(name, layout):
    profile = PROFILES[name].scaled(0.125)
    weights = foreign_files.random_weights(profile, _CLASSES)
    network = _network(weights, profile, layout)
    shapes = layouts.expected_shapes(profile, _CLASSES)
    assert list(shapes) == list(weights)
    for weight, expected in weights.items():
        assert shapes[weight] == expected.shape
        tensor = network.tensors[weight]
        assert layouts.foreign_shape(expected.shape, layout) == tensor.shape
        ours = layouts.to_ours(weight, tensor, layout, profile)
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, expected)
    images = parity.fixed_input(profile)
    logits = parity.source_logits(network, profile, images)
    expected = numpy_alexnet.logits(images, weights, profile)
    assert logits.shape == (1, _CLASSES)
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_colours_in_the_wrong_order_are_seen():
    profile = PROFILES["caffe"].scaled(0.125)
    weights = foreign_files.random_weights(profile, _CLASSES)
    network = _network(weights, profile, layouts.MAPS_FIRST)
    images = parity.fixed_input(profile)
    right = parity.source_logits(network, profile, images)
    wrong = parity.source_logits(network, dataclasses.replace(profile, colour_order="RGB"), images)
    assert not parity.compare(wrong, right)["within_tolerance"]


@pytest.mark.parametrize("name", list(PROFILES))
def test_expected_shapes_are_those_of_the_model(name):
    profile = dataclasses.replace(PROFILES[name].scaled(0.01), input_size=80)
    model = AlexNet(profile, classes=_CLASSES)
    shapes = {
        f"{layer}/{kind}": model.get_layer(layer).weights[place].shape
        for layer in LAYER_NAMES
        for place, kind in enumerate(("kernel", "bias"))
    }
    assert layouts.expected_shapes(profile, _CLASSES) == shapes


@pytest.mark.parametrize(
    ("name", "scale", "low", "high"),
    [("caffe", 1.0, -128, 151), ("caffe", 0.5, -64, 75.5), ("seed", 1.0, -2.2, 2.7)],
)
def test_fixed_input_has_the_scale_of_the_profile(name, scale, low, high):
    profile = PROFILES[name]
    profile = dataclasses.replace(profile, pixel_scale=scale * profile.pixel_scale)
    images = parity.fixed_input(profile)
    assert images.shape == (1, profile.input_size, profile.input_size, 3)
    assert images.dtype == np.float32
    assert low <= images.min() < 0.8 * low
    assert 0.8 * high < images.max() <= high
    np.testing.assert_array_equal(images, parity.fixed_input(profile))


@pytest.mark.parametrize(
    ("ours", "theirs", "relative", "within"),
    [
        ([1.0, 2.0], [1.0, -4.0], 1.5, False),
        ([4.0003, 0.0], [4.0, 0.0], pytest.approx(7.5e-5, rel=1e-3), True),
        ([0.0, 0.0], [0.0, 0.0], 0.0, True),
        ([np.nan, 0.0], [1.0, 0.0], pytest.approx(np.nan, nan_ok=True), False),
    ],
)
def test_compare(ours, theirs, relative, within):
    figures = parity.compare(np.array([ours]), np.array([theirs]))
    assert figures["relative_difference"] == relative
    assert figures["within_tolerance"] is within
    assert figures["largest_logit"] == max(map(abs, theirs))

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
    """The weights as a file of that layout has them."""
    bgr = profile.colour_order == "BGR"
    if layout is layouts.MAPS_FIRST:
        tensors = foreign_files.maps_first(weights, bgr=bgr)
    else:
        tensors = dict(weights)
        if bgr:
            tensors["conv1/kernel"] = tensors["conv1/kernel"][:, :, ::-1]
    return layouts.ForeignNetwork(tensors, {name: name for name in weights}, layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [layouts.MAPS_FIRST, layouts.MAPS_LAST])
@pytest.mark.parametrize("name", list(PROFILES))
def test_source_logits_are_those_of_the_reference(name, layout):
    profile = PROFILES[name].scaled(0.125)
    weights = foreign_files.random_weights(profile, _CLASSES)
    images = parity.fixed_input(profile)
    logits = parity.source_logits(_network(weights, profile, layout), profile, images)
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


@pytest.mark.parametrize("layout", [layouts.MAPS_FIRST, layouts.MAPS_LAST])
@pytest.mark.parametrize("name", list(PROFILES))
def test_to_ours_gives_back_the_weights(name, layout):
    profile = PROFILES[name].scaled(0.01)
    weights = foreign_files.random_weights(profile, _CLASSES)
    network = _network(weights, profile, layout)
    for weight, expected in weights.items():
        ours = layouts.to_ours(weight, network.tensors[weight], layout, profile)
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("name", list(PROFILES))
def test_expected_shapes_are_those_of_the_model(name):
    profile = PROFILES[name].scaled(0.01)
    model = AlexNet(profile, classes=_CLASSES)
    shapes = {
        f"{layer}/{kind}": tuple(value.shape)
        for layer in LAYER_NAMES
        for kind, value in zip(
            ("kernel", "bias"), model.get_layer(layer).get_weights(), strict=True
        )
    }
    assert layouts.expected_shapes(profile, _CLASSES) == shapes
    assert list(layouts.expected_shapes(profile, _CLASSES)) == list(shapes)


def test_expected_shapes_follow_the_size_of_the_input():
    profile = dataclasses.replace(PROFILES["paper"], input_size=64)
    assert layouts.pool5_side(profile) == 1
    assert layouts.expected_shapes(profile, 10)["fc6/kernel"] == (256, 4096)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("caffe", -128, 151), ("krizhevsky2012", -128, 151), ("seed", -3, 3)]
)
def test_fixed_input_has_the_scale_of_the_profile(name, low, high):
    images = parity.fixed_input(PROFILES[name])
    size = PROFILES[name].input_size
    assert images.shape == (1, size, size, 3)
    assert images.dtype == np.float32
    assert low <= images.min() < low / 2
    assert high / 2 < images.max() <= high
    np.testing.assert_array_equal(images, parity.fixed_input(PROFILES[name]))


def test_fixed_input_heeds_pixel_scale():
    profile = dataclasses.replace(PROFILES["caffe"], pixel_scale=0.5)
    half = parity.fixed_input(PROFILES["caffe"]) / 2
    np.testing.assert_allclose(parity.fixed_input(profile), half, rtol=1e-6)


@pytest.mark.slow
def test_compare():
    figures = parity.compare(np.array([[1.0, 2.0]]), np.array([[1.0, -4.0]]))
    assert figures == {
        "largest_difference": 6.0,
        "largest_logit": 4.0,
        "relative_difference": 1.5,
        "tolerance": 1e-4,
        "within_tolerance": False,
    }
    near = parity.compare(np.array([[4.0003]]), np.array([[4.0]]))
    assert near["within_tolerance"]
    assert parity.compare(np.zeros((1, 2)), np.zeros((1, 2)))["relative_difference"] == 0.0
    assert not parity.compare(np.array([[np.nan]]), np.array([[1.0]]))["within_tolerance"]

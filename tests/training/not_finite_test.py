import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import column_devices, place_columns
from keras_alexnet.training import devices, not_finite

PROFILE = PROFILES["paper"].scaled(0.0625)
ADVICE = "the last checkpoint is whole: lower the learning rate"


def alexnet():
    return AlexNet(PROFILE, classes=7, classifier_activation=None, seed=1)


def in_columns():
    return place_columns(alexnet(), column_devices(PROFILE))


def mirrored():
    with devices.make_strategy("mirrored").scope():
        return alexnet()


def photos():
    size = PROFILE.input_size
    return np.random.default_rng(0).normal(0, 60, (2, size, size, 3)).astype(np.float32)


def fill(network, name, value):
    """Set all of a kernel, or its value at one place."""
    kernel, bias = network.get_layer(name).get_weights()
    network.get_layer(name).set_weights([np.full_like(kernel, value), bias])


def explained(network, inputs):
    error = not_finite.explain(network, inputs, step=12, learning_rate=0.5)
    assert isinstance(error, ValueError)
    begin = "the loss became not finite at step 12 with learning rate 0.5: it began at "
    assert str(error).startswith(begin)
    return str(error).removeprefix(begin)


NETWORKS = [(alexnet, ""), (mirrored, ""), (in_columns, "_b")]
IDS = ["one device", "mirrored", "columns"]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "column"), NETWORKS, ids=IDS)
def test_the_first_that_is_not_finite_is_named(make, column):
    network = make()
    inputs = photos()
    inputs[1, 100, 100, 2] = np.nan
    inputs[0, 0, 0, 0] = -np.inf
    assert explained(network, tf.constant(inputs)).startswith(
        f"the network's input, which has NaN and infinity in 2 of {inputs.size} places; "
        "check the pixel scale"
    )
    fill(network, f"conv2{column}", 3e38)  # finite, but no sum of a few is
    text = explained(network, photos())
    assert text.startswith(f"conv2{column}, whose output has infinity in "), text
    assert f"; {ADVICE}" in text
    fill(network, f"conv5{column}", np.nan)
    fill(network, f"conv3{column}", np.inf)
    size = network.get_layer(f"conv3{column}").get_weights()[0].size
    assert explained(network, inputs).startswith(
        f"conv3{column}, whose kernel has infinity in {size} of {size} places; {ADVICE}"
    )


def test_if_nothing_else_is_it_was_the_loss():
    network = alexnet()
    keras.Model(inputs := keras.Input(network.input_shape[1:]), network(inputs))  # as in training
    text = explained(network, photos())
    assert text.startswith(
        f"the loss, for on these photos all outputs of the network are finite; {ADVICE}"
    )
    assert network.get_layer("drop6").step == 0, "to look is no step of training"


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_number_format_that_is_too_small_is_seen(precision):
    devices.use_precision(precision)
    network = alexnet()
    fill(network, "conv2", 1e5)  # float16 ends at 65504
    expected = {
        "float16": "conv2, whose output has ",
        "bfloat16": "the loss, for on these photos all outputs ",
    }
    assert explained(network, photos()).startswith(expected[precision])

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.layers import GroupedConv2D

RANDOM = np.random.default_rng(0)


@pytest.fixture
def mixed_policy(request):
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy(before)


CONV_CASES = [
    {"kernel_size": 5, "padding": "same", "groups": 2},
    {"kernel_size": 3, "padding": "valid", "groups": 1, "strides": 2},
    {"kernel_size": (3, 2), "padding": "valid", "groups": 4},
]


@pytest.mark.parametrize("arguments", CONV_CASES)
def test_grouped_conv_is_keras_conv_with_the_same_weights(arguments):
    x = RANDOM.normal(size=(2, 9, 8, 8)).astype(np.float32)
    theirs = keras.layers.Conv2D(12, bias_initializer="normal", **arguments)
    ours = GroupedConv2D(12, bias_initializer="zeros", **arguments)
    expected = theirs(x)
    ours(x)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-5)
    assert ours.compute_output_shape(x.shape) == tuple(expected.shape)


def test_grouped_conv_gradient_is_that_of_each_column_alone():
    x = RANDOM.normal(size=(2, 6, 7, 4))
    kernel = RANDOM.normal(size=(3, 3, 2, 6))
    upstream = RANDOM.normal(size=(2, 4, 5, 6))
    layer = GroupedConv2D(6, 3, groups=2)
    inputs = tf.Variable(x.astype(np.float32))
    layer.build(inputs.shape)
    layer.set_weights([kernel, np.zeros(6)])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(inputs) * upstream.astype(np.float32))
    weights = layer.trainable_variables
    gradients = tape.gradient(loss, [inputs, *weights])

    of_inputs, of_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for row, column in np.ndindex(4, 5):  # each place of the output, in NumPy
        window = np.s_[:, row : row + 3, column : column + 3]
        for group in range(2):
            own, filters = np.s_[2 * group : 2 * group + 2], np.s_[3 * group : 3 * group + 3]
            errors = upstream[:, row, column, filters]
            of_kernel[..., filters] += np.einsum("bhwi,bo->hwio", x[window][..., own], errors)
            of_inputs[window][..., own] += np.einsum("hwio,bo->bhwi", kernel[..., filters], errors)
    np.testing.assert_allclose(gradients[0], of_inputs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients[1], of_kernel, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients[2], upstream.sum((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("mixed_policy", ["mixed_bfloat16"], indirect=True)
def test_grouped_conv_follows_the_policy(mixed_policy):
    layer = GroupedConv2D(4, 3, groups=2)
    x = RANDOM.normal(size=(1, 5, 5, 4)).astype(np.float32)
    assert layer(x).dtype == "bfloat16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    expected = numpy_alexnet.conv(x.astype(float), layer.get_weights()[0].astype(float), 1, 2)
    np.testing.assert_allclose(tf.cast(layer(x), tf.float32), expected, atol=0.05)


def test_grouped_conv_survives_its_config():
    layer = GroupedConv2D(6, 3, groups=2, strides=2, kernel_regularizer=keras.regularizers.L2(0.1))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, GroupedConv2D)
    assert again.get_config() == layer.get_config()


def test_grouped_conv_is_channels_last():
    with pytest.raises(ValueError, match=r"must be 'channels_last'. Received: 'channels_first'"):
        GroupedConv2D(4, 3, data_format="channels_first")

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.network.layers import GroupedConv2D

RANDOM = np.random.default_rng(0)


def windows_and_columns(x, kernel, groups):
    """Of each place and group of the output: the place, the slice of x, that of the filters."""
    height, width, channels, filters = *kernel.shape[:3], kernel.shape[3] // groups
    for row, column in np.ndindex(x.shape[1] - height + 1, x.shape[2] - width + 1):
        for group in range(groups):
            own = slice(group * channels, (group + 1) * channels)
            window = np.s_[:, row : row + height, column : column + width, own]
            yield (row, column), window, slice(group * filters, (group + 1) * filters)


def reference_conv(x, kernel, groups):
    height, width = np.subtract(x.shape[1:3], kernel.shape[:2]) + 1
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for (row, column), window, own in windows_and_columns(x, kernel, groups):
        y[:, row, column, own] = np.einsum("bhwi,hwio->bo", x[window], kernel[..., own])
    return y


def reference_gradients(x, kernel, groups, upstream):
    of_inputs, of_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for (row, column), window, own in windows_and_columns(x, kernel, groups):
        errors = upstream[:, row, column, own]
        of_kernel[..., own] += np.einsum("bhwi,bo->hwio", x[window], errors)
        of_inputs[window] += np.einsum("hwio,bo->bhwi", kernel[..., own], errors)
    return of_inputs, of_kernel


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


def test_grouped_conv_and_its_gradient_are_those_of_each_column_alone():
    x = RANDOM.normal(size=(2, 6, 7, 4))
    kernel, bias = RANDOM.normal(size=(3, 3, 2, 6)), RANDOM.normal(size=6)
    upstream = RANDOM.normal(size=(2, 4, 5, 6))
    layer = GroupedConv2D(6, 3, groups=2)
    inputs = tf.Variable(x.astype(np.float32))
    layer.build(inputs.shape)
    layer.set_weights([kernel, bias])
    with tf.GradientTape() as tape:
        y = layer(inputs)
        loss = tf.reduce_sum(y * upstream.astype(np.float32))
    np.testing.assert_allclose(y, reference_conv(x, kernel, 2) + bias, rtol=1e-4, atol=1e-5)
    gradients = tape.gradient(loss, [inputs, *layer.trainable_variables])
    of_inputs, of_kernel = reference_gradients(x, kernel, 2, upstream)
    np.testing.assert_allclose(gradients[0], of_inputs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients[1], of_kernel, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients[2], upstream.sum((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("mixed_policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_grouped_conv_follows_the_policy(mixed_policy):
    layer = GroupedConv2D(4, 3, groups=2)
    inputs = tf.constant(RANDOM.normal(size=(1, 5, 5, 4)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = layer(inputs)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    assert y.dtype == mixed_policy.removeprefix("mixed_")
    assert {tf.as_dtype(weight.dtype) for weight in layer.weights} == {tf.float32}
    y = tf.cast(y, tf.float32).numpy()
    x, (kernel, _) = inputs.numpy(), layer.get_weights()
    np.testing.assert_allclose(y, reference_conv(x, kernel, 2), atol=0.05)
    of_inputs, of_kernel, _ = tape.gradient(loss, [inputs, *layer.trainable_variables])
    expected = reference_gradients(x, kernel, 2, 2 * y)
    np.testing.assert_allclose(of_inputs, expected[0], atol=0.02 * np.abs(expected[0]).max())
    np.testing.assert_allclose(of_kernel, expected[1], atol=0.02 * np.abs(expected[1]).max())


def test_grouped_conv_survives_its_config():
    layer = GroupedConv2D(6, 3, groups=2, strides=2, kernel_regularizer=keras.regularizers.L2(0.1))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, GroupedConv2D)
    assert again.get_config() == layer.get_config()


def test_grouped_conv_is_channels_last():
    with pytest.raises(ValueError, match=r"must be 'channels_last'. Received: 'channels_first'"):
        GroupedConv2D(4, 3, data_format="channels_first")

"""The layers of network/layers.py; normalization_test.py has the normalizations."""

import math
import random

import keras
import numpy as np
import numpy_alexnet
import pytest
import tensorflow as tf

from keras_alexnet.network.layers import GroupedConv2D, SeededDropout

RANDOM = np.random.default_rng(0)

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
    x = RANDOM.normal(size=(2, 6, 7, 4)).astype(np.float32)
    kernel, bias = RANDOM.normal(size=(3, 3, 2, 6)), RANDOM.normal(size=6)
    upstream = RANDOM.normal(size=(2, 4, 5, 6)).astype(np.float32)
    layer = GroupedConv2D(6, 3, groups=2)
    layer.build(x.shape)
    layer.set_weights([kernel, bias])
    inputs = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = layer(inputs)
        loss = tf.reduce_sum(y * upstream)
    np.testing.assert_allclose(y, numpy_alexnet.conv(x, kernel, 1, 2) + bias, rtol=1e-4, atol=1e-5)
    of_inputs, of_kernel, of_bias = tape.gradient(loss, [inputs, *layer.trainable_variables])
    np.testing.assert_allclose(of_bias, upstream.sum((0, 1, 2)), rtol=1e-4)
    # The convolution is linear in either: each number's slope is what it alone adds.
    for gradient, shape, conv in (
        (of_inputs, x.shape, lambda one: numpy_alexnet.conv(one, kernel, 1, 2)),
        (of_kernel, kernel.shape, lambda one: numpy_alexnet.conv(x, one, 1, 2)),
    ):
        ones = np.eye(math.prod(shape)).reshape(-1, *shape)
        slopes = np.reshape([np.sum(conv(one) * upstream) for one in ones], shape)
        np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixed_policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_grouped_conv_follows_the_policy(mixed_policy):
    half = GroupedConv2D(4, 3, groups=2)
    full = GroupedConv2D(4, 3, groups=2, dtype="float32")
    inputs = tf.constant(RANDOM.normal(size=(1, 5, 5, 4)).astype(np.float32))
    results = []
    for layer in (half, full):
        layer.build(inputs.shape)
        layer.set_weights(half.get_weights())
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = tf.cast(layer(inputs), tf.float32)
            loss = tf.reduce_sum(y**2)
        results.append([y, *tape.gradient(loss, [inputs, *layer.trainable_variables])])
    assert half(inputs).dtype == mixed_policy.removeprefix("mixed_")
    assert {tf.as_dtype(weight.dtype) for weight in half.weights} == {tf.float32}
    for found, expected in zip(*results, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * scale)
        assert not np.array_equal(found, expected)


@pytest.mark.parametrize(
    "layer",
    [
        GroupedConv2D(6, 3, groups=2, strides=2, kernel_regularizer=keras.regularizers.L2(0.1)),
        SeededDropout(0.3, name="drop"),
    ],
)
def test_a_layer_survives_its_config(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def test_grouped_conv_is_channels_last():
    with pytest.raises(ValueError, match=r"must be 'channels_last'. Received: 'channels_first'"):
        GroupedConv2D(4, 3, data_format="channels_first")


# SeededDropout


def two_replicas():
    # A second strategy with TensorFlow's default, collective operations on these devices would
    # run into the first one's, of another test: their keys count from 100 in each strategy.
    alone = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], alone)


def masks(layer, steps=1, shape=(4, 50)):
    return [np.asarray(layer(tf.ones(shape), training=True)) for _ in range(steps)]


def test_dropout_keeps_the_share_and_the_sum():
    for rate in (0.5, 0.2):
        (y,) = masks(SeededDropout(rate, seed=1), shape=(400, 500))
        assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - rate))}
        # 200,000 draws: five standard deviations are about half a percent
        assert np.mean(y == 0) == pytest.approx(rate, abs=0.006)


def test_dropout_masks_are_a_function_of_seed_and_step():
    layer = SeededDropout(0.5, seed=1)
    first, second, third = masks(layer, 3)
    assert layer.step == 3
    assert not (first == second).all()
    assert not (second == third).all()
    layer.step = 1
    np.testing.assert_array_equal(masks(layer, 2), [second, third])
    np.testing.assert_array_equal(masks(SeededDropout(0.5, seed=1)), [first])
    assert not (masks(SeededDropout(0.5, seed=2))[0] == first).all()
    in_graph = tf.function(SeededDropout(0.5, seed=1))
    np.testing.assert_array_equal(in_graph(tf.ones([4, 50]), training=True), first)
    np.testing.assert_array_equal(in_graph(tf.ones([4, 50]), training=True), second)


def test_dropout_without_a_seed_follows_pythons_random():
    seeds = []
    for state in (3, 3, 4):
        random.seed(state)
        seeds.append(SeededDropout(0.5).seed)
    assert seeds[0] == seeds[1] != seeds[2]


def test_dropout_does_nothing_at_inference_or_with_rate_0():
    x = tf.constant(RANDOM.normal(size=(3, 5)).astype(np.float32))
    layer = SeededDropout(0.5, seed=1)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer(x, training=False), x)
    np.testing.assert_array_equal(SeededDropout(0.0)(x, training=True), x)
    assert layer.step == 0


def test_dropout_gradient_is_its_mask():
    x = tf.Variable(RANDOM.normal(size=(3, 50)).astype(np.float32))
    with tf.GradientTape() as tape:
        y = SeededDropout(0.5, seed=1)(x, training=True)
    np.testing.assert_allclose(tape.gradient(y, x), y / x, rtol=1e-6)


@pytest.mark.parametrize("mixed_policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_dropout_masks_are_those_of_float32(mixed_policy):
    y = SeededDropout(0.5, seed=1)(tf.ones([4, 50]), training=True)
    assert y.dtype == mixed_policy.removeprefix("mixed_")
    expected = masks(SeededDropout(0.5, seed=1, dtype="float32"))[0]
    np.testing.assert_array_equal(tf.cast(y, tf.float32), expected)


def test_dropouts_step_is_state_but_no_weight():
    inputs = keras.Input([8])
    model = keras.Model(inputs, SeededDropout(0.5, seed=1, name="drop")(inputs))
    assert model.count_params() == 0
    assert model.weights == []
    (step,) = model.get_layer("drop").state
    masks(model, 2, shape=(1, 8))
    assert int(step.numpy()) == model.get_layer("drop").step == 2
    step.assign(7)
    assert model.get_layer("drop").step == 7


def test_dropout_differs_by_replica_and_repeats_after_a_resume():
    strategy = two_replicas()
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        layer = SeededDropout(0.5, seed=1)
        inputs = keras.Input([50])
        model = keras.Model(inputs, layer(inputs))

    @tf.function
    def run_step():
        return strategy.run(lambda: model(tf.ones([4, 50]), training=True))

    def step():
        return np.stack(strategy.experimental_local_results(run_step()))

    first, second = step(), step()
    assert not (first[0] == first[1]).all()
    assert not (second[0] == second[1]).all()
    assert not (first == second).all()
    assert layer.step == 2
    layer.step = 1
    np.testing.assert_array_equal(step(), second)
    np.testing.assert_array_equal(masks(SeededDropout(0.5, seed=1))[0], first[0])


@pytest.mark.parametrize(
    "wrong", [{"rate": 1.0}, {"rate": -0.1}, {"rate": float("nan")}, {"seed": -1}]
)
def test_dropout_refuses_a_rate_that_is_no_share_and_a_negative_seed(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be .*Received: {value}"):
        SeededDropout(**{"rate": 0.5} | wrong)

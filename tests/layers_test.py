import random

import keras
import numpy as np
import numpy_alexnet
import pytest
import tensorflow as tf

from keras_alexnet.layers import GroupedConv2D, LocalResponseNormalization, SeededDropout

RANDOM = np.random.default_rng(0)


def two_replicas():
    # A second strategy with TensorFlow's default, collective operations on these devices would
    # run into the first one's, of another test: their keys count from 100 in each strategy.
    alone = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], alone)


@pytest.fixture
def mixed_policy(request):
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy(before)


# ------------------------------------------------------------- LocalResponseNormalization

LRN_CASES = [
    {"size": 5, "k": 2.0, "alpha": 0.03, "beta": 0.75},
    {"size": 5, "k": 1.0, "alpha": 0.03, "beta": 0.75, "alpha_divided_by_size": True},
    {"size": 3, "k": 0.5, "alpha": 0.2, "beta": 0.5},
    {"size": 1, "k": 1.0, "alpha": 0.2, "beta": 1.25},
    {"size": 9, "k": 1.0, "alpha": 0.05, "beta": 0.75},  # wider than the 6 channels
]


def reference_lrn(x, *, size, k, alpha, beta, alpha_divided_by_size=False):
    return numpy_alexnet.lrn(x, size, k, alpha / size if alpha_divided_by_size else alpha, beta)


@pytest.mark.parametrize("arguments", LRN_CASES)
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (5, 6)])
def test_lrn_is_the_formula(arguments, shape):
    x = RANDOM.normal(0, 10, shape)
    y = LocalResponseNormalization(**arguments)(x.astype(np.float32))
    np.testing.assert_allclose(y, reference_lrn(x, **arguments), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arguments", LRN_CASES)
def test_lrn_gradient_is_the_slope_of_the_formula(arguments):
    x = RANDOM.normal(0, 10, (2, 6))
    upstream = RANDOM.normal(size=x.shape)
    layer = LocalResponseNormalization(**arguments)
    variable = tf.Variable(x.astype(np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(variable) * upstream.astype(np.float32))
    gradient = tape.gradient(loss, variable)

    step = 1e-5
    slopes = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[place] = step
        rise = reference_lrn(x + shift, **arguments) - reference_lrn(x - shift, **arguments)
        slopes[place] = np.sum(rise * upstream) / (2 * step)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divided", [False, True])
def test_lrn_is_tensorflows_with_its_alpha(divided):
    x = tf.Variable(RANDOM.normal(0, 50, (2, 5, 5, 32)), dtype=tf.float32)
    layer = LocalResponseNormalization(alpha_divided_by_size=divided)
    alpha = 2e-5 if divided else 1e-4
    with tf.GradientTape(persistent=True) as tape:
        ours = layer(x)
        theirs = tf.nn.local_response_normalization(x, 2, 2.0, alpha, 0.75)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(ours, x), tape.gradient(theirs, x), rtol=1e-4)


@pytest.mark.parametrize("mixed_policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_lrn_computes_in_float32(mixed_policy):
    # 1000 squared is not a float16; in bfloat16 the small neighbours would be rounded away.
    x = tf.constant([[1000.0, 60.0, 60.0, 60.0, -1000.0]])
    arguments = {"size": 5, "k": 1.0, "alpha": 0.01, "beta": 0.75}
    y = LocalResponseNormalization(**arguments)(x)
    half = mixed_policy.removeprefix("mixed_")
    assert y.dtype == half
    rounded = tf.cast(tf.cast(x, half), tf.float64).numpy()
    expected = tf.cast(reference_lrn(rounded, **arguments), half)
    np.testing.assert_array_equal(tf.cast(y, tf.float32), tf.cast(expected, tf.float32))


def test_lrn_survives_its_config():
    layer = LocalResponseNormalization(3, 1.0, 0.5, 0.6, True, name="lrn")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, LocalResponseNormalization)
    assert again.get_config() == layer.get_config()
    x = RANDOM.normal(size=(2, 8)).astype(np.float32)
    np.testing.assert_array_equal(again(x), layer(x))


@pytest.mark.parametrize("size", [0, 4, -1])
def test_lrn_size_is_odd(size):
    with pytest.raises(ValueError, match=rf"size must be odd and above 0. Received: {size}"):
        LocalResponseNormalization(size=size)


@pytest.mark.parametrize("wrong", [{"k": 0.0}, {"alpha": -1e-4}, {"beta": 0.0}])
def test_lrn_constants_leave_a_root_to_draw(wrong):
    with pytest.raises(ValueError, match="k and beta must be above 0, and alpha at least 0"):
        LocalResponseNormalization(**wrong)


def test_lrn_needs_to_know_the_channels():
    with pytest.raises(ValueError, match="the channels, must be known"):
        LocalResponseNormalization()(keras.Input([4, 4, None]))


# --------------------------------------------------------------------------- GroupedConv2D

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


# --------------------------------------------------------------------------- SeededDropout


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
    random.seed(3)
    one, other = SeededDropout(0.5), SeededDropout(0.5)
    assert one.seed != other.seed
    random.seed(3)
    assert SeededDropout(0.5).seed == one.seed


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
    (step,) = model.get_layer("drop").variables
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


def test_dropout_counts_the_steps_of_fit():
    with two_replicas().scope():
        layer = SeededDropout(0.5, seed=1)
        model = keras.Sequential([keras.Input([8]), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    x, y = np.ones([12, 8], np.float32), np.ones([12, 1], np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    model.fit(data, validation_data=data, verbose=0)
    assert layer.step == int(model.optimizer.iterations.numpy()) == 3


def test_dropout_survives_its_config():
    layer = SeededDropout(0.3, name="drop")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(masks(again), masks(layer))


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_dropout_rate_is_a_share(rate):
    with pytest.raises(ValueError, match=r"rate must be at least 0 and below 1. Received: "):
        SeededDropout(rate)


def test_dropout_seed_is_not_negative():
    with pytest.raises(ValueError, match=r"seed must be None or at least 0. Received: -1"):
        SeededDropout(0.5, seed=-1)

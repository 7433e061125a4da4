import keras
import numpy as np
import numpy_alexnet
import pytest
import tensorflow as tf

from keras_alexnet.network.layers import LocalResponseNormalization, SameMapNormalization

RANDOM = np.random.default_rng(0)


def reference_lrn(x, *, size, k, alpha, beta, alpha_divided_by_size=False, columns=1):
    weight = alpha / size if alpha_divided_by_size else alpha
    return numpy_alexnet.lrn(x, size, k, weight, beta, columns)


def slopes(function, x, upstream, step=1e-5):
    """Return the gradient of sum(function(x) * upstream), from differences in float64."""
    result = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[place] = step
        rise = function(x + shift) - function(x - shift)
        result[place] = np.sum(rise * upstream) / (2 * step)
    return result


def gradient(layer, x, upstream):
    variable = tf.Variable(x.astype(np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer(variable), tf.float32) * upstream.astype(np.float32))
    return tape.gradient(loss, variable)


def in_float32(tensor):
    return tf.cast(tensor, tf.float32).numpy()


LRN_CASES = [
    {"size": 5, "k": 2.0, "alpha": 0.03, "beta": 0.75},
    {"size": 5, "k": 1.0, "alpha": 0.03, "beta": 0.75, "alpha_divided_by_size": True},
    {"size": 5, "k": 2.0, "alpha": 0.03, "beta": 0.75, "columns": 2},
    {"size": 3, "k": 0.5, "alpha": 0.2, "beta": 0.5},
    {"size": 3, "k": 0.5, "alpha": 0.2, "beta": 0.5, "columns": 3},
    {"size": 1, "k": 1.0, "alpha": 0.2, "beta": 1.25},
    {"size": 9, "k": 1.0, "alpha": 0.05, "beta": 0.75},  # wider than the 6 channels
    {"size": 17, "k": 1.0, "alpha": 0.05, "beta": 0.75},  # just reaches the next 8 channels
    {"size": 19, "k": 1.0, "alpha": 0.05, "beta": 0.75},
]
MAP_NORM_CASES = [
    {"size": 5, "k": 1.0, "alpha": 0.5, "beta": 0.75},
    {"size": 3, "k": 2.0, "alpha": 0.2, "beta": 0.5},
    {"size": 1, "k": 0.5, "alpha": 0.1, "beta": 1.25},
    {"size": 9, "k": 1.0, "alpha": 0.5, "beta": 0.75},  # wider than the map
]
LRN, MAP_NORM = BOTH = (LocalResponseNormalization, SameMapNormalization)
REFERENCES = {LRN: reference_lrn, MAP_NORM: numpy_alexnet.map_norm}


def cases(layer_class, all_arguments, shapes):
    return [(layer_class, arguments, shape) for arguments in all_arguments for shape in shapes]


@pytest.mark.parametrize(
    ("layer_class", "arguments", "shape"),
    [
        # 72 channels, and two columns of 72, are summed 8 at a time, the others all at once.
        *cases(LRN, LRN_CASES, [(2, 3, 4, 6), (5, 6), (2, 2, 3, 72), (3, 144), (3, 90)]),
        *cases(MAP_NORM, MAP_NORM_CASES, [(2, 7, 6, 3), (1, 1, 5, 2)]),
    ],
)
def test_a_normalization_is_the_formula(layer_class, arguments, shape):
    x = RANDOM.normal(0, 10, shape)
    y = layer_class(**arguments)(x.astype(np.float32))
    expected = REFERENCES[layer_class](x, **arguments)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer_class", "arguments", "shape"),
    [
        *cases(LRN, LRN_CASES, [(2, 6), (1, 72)]),
        *cases(LRN, LRN_CASES[2:3], [(1, 144)]),
        *cases(MAP_NORM, MAP_NORM_CASES, [(1, 6, 5, 2)]),
    ],
)
def test_the_gradient_is_the_slope_of_the_formula(layer_class, arguments, shape):
    x = RANDOM.normal(0, 10, shape)
    upstream = RANDOM.normal(size=x.shape)
    expected = slopes(lambda x: REFERENCES[layer_class](x, **arguments), x, upstream)
    ours = gradient(layer_class(**arguments), x, upstream)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("channels", [32, 96])
def test_lrn_is_tensorflows_with_its_alpha(divided, channels):
    x = tf.Variable(RANDOM.normal(0, 50, (2, 5, 5, channels)), dtype=tf.float32)
    layer = LocalResponseNormalization(alpha_divided_by_size=divided)
    alpha = 2e-5 if divided else 1e-4
    with tf.GradientTape(persistent=True) as tape:
        ours = layer(x)
        theirs = tf.nn.local_response_normalization(x, 2, 2.0, alpha, 0.75)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(ours, x), tape.gradient(theirs, x), rtol=1e-4)


def test_lrn_takes_any_batch():
    layer = LocalResponseNormalization()
    inputs = keras.Input([5, 4, 96])
    assert keras.Model(inputs, layer(inputs)).output_shape == (None, 5, 4, 96)
    assert layer(tf.zeros([0, 5, 4, 96])).shape == (0, 5, 4, 96)
    assert layer(tf.zeros([2, 1, 3, 96])).shape == (2, 1, 3, 96)


def test_lrn_without_columns_is_one_column():
    # What was saved before there were columns.
    config = LocalResponseNormalization().get_config()
    del config["columns"]
    assert LocalResponseNormalization.from_config(config).columns == 1


def test_map_norm_is_the_2012_programs():
    # One unit of 1000 and zeros: its neighbours do not change, itself by the program's constants.
    x = np.zeros([1, 5, 5, 1], np.float32)
    x[0, 2, 2] = 1000.0
    y = SameMapNormalization()(x)
    np.testing.assert_allclose(y[0, 2, 2, 0], 1000 / (1 + 0.001 / 25 * 1e6) ** 0.75, rtol=1e-6)
    assert np.count_nonzero(y) == 1


def test_map_norm_takes_any_map():
    layer = SameMapNormalization()
    inputs = keras.Input([None, None, 4])
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, None, 4)
    x = RANDOM.normal(0, 100, (2, 3, 7, 4))
    expected = numpy_alexnet.map_norm(x, size=5, k=1.0, alpha=1e-3, beta=0.75)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5)
    assert layer(tf.zeros([0, 5, 5, 4])).shape == (0, 5, 5, 4)


@pytest.mark.parametrize("mixed_policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize(
    ("layer_class", "shape"),
    [(LocalResponseNormalization, [1, 5]), (SameMapNormalization, [1, 1, 5, 1])],
)
def test_normalizations_compute_in_float32(layer_class, shape, mixed_policy):
    # 1000 squared is not a float16; in bfloat16 the small neighbours would be rounded away.
    x = tf.constant([1000.0, 60.0, 60.0, 60.0, -1000.0], shape=shape)
    arguments = {"size": 5, "k": 1.0, "alpha": 0.01, "beta": 0.75}
    y = layer_class(**arguments)(x)
    half = mixed_policy.removeprefix("mixed_")
    assert y.dtype == half
    rounded = tf.cast(tf.cast(x, half), tf.float64).numpy()
    expected = tf.cast(REFERENCES[layer_class](rounded, **arguments), half)
    np.testing.assert_array_equal(in_float32(y), in_float32(expected))


@pytest.mark.parametrize(
    "layer",
    [
        LocalResponseNormalization(3, 1.0, 0.5, 0.6, True, 2, name="lrn"),
        SameMapNormalization(3, 2.0, 0.5, 0.6, name="map_norm"),
    ],
)
def test_normalizations_survive_their_config(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    x = RANDOM.normal(size=(2, 4, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(again(x), layer(x))


@pytest.mark.parametrize("mixed_policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("layer_class", BOTH)
def test_mixed_precision_gradient_is_that_of_float32(layer_class, mixed_policy):
    half = mixed_policy.removeprefix("mixed_")
    x = in_float32(tf.cast(RANDOM.normal(0, 300, (2, 6, 5, 96)), half))  # squares beyond float16
    upstream = in_float32(tf.cast(RANDOM.normal(size=x.shape), half))
    ours = gradient(layer_class(), x, upstream)
    expected = gradient(layer_class(dtype="float32"), x, upstream)
    tolerance = {"float16": 2**-10, "bfloat16": 2**-7}[half]
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance * 1e-3)


@pytest.mark.parametrize("layer_class", BOTH)
def test_arguments_leave_a_root_to_draw_and_channels_are_known(layer_class):
    for wrong in ({"k": 0.0}, {"alpha": -1e-4}, {"beta": 0.0}):
        with pytest.raises(ValueError, match="k and beta must be above 0, and alpha at least 0"):
            layer_class(**wrong)
    for size in (0, 4, -1):
        with pytest.raises(ValueError, match=rf"size must be odd and above 0. Received: {size}"):
            layer_class(size=size)
    with pytest.raises(ValueError, match="the channels, must be known"):
        layer_class()(keras.Input([4, 4, None]))


def test_inputs_fit_the_columns_and_are_maps():
    with pytest.raises(ValueError, match=r"columns must be at least 1. Received: 0"):
        LocalResponseNormalization(columns=0)
    with pytest.raises(ValueError, match="Received: 9 channels, columns=2"):
        LocalResponseNormalization(columns=2)(keras.Input([4, 4, 9]))
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=2"):
        SameMapNormalization()(tf.zeros([2, 8]))

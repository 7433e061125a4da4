import dataclasses
import gc
import weakref

import keras
import numpy as np
import numpy_alexnet
import pytest
import tensorflow as tf
from random_networks import difference, layer_outputs, photos, random_network

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import read_weights
from keras_alexnet.network.keras_compat import tf_variable

RANDOM = np.random.default_rng(0)
NARROW = {name: profile.scaled(0.05) for name, profile in PROFILES.items()}
SMALL = dataclasses.replace(NARROW["paper"], input_size=64)  # pool5 is 1x1


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"lrn_size": 3},
        {"lrn_k": 1.0},
        {"lrn_alpha": 1e-3},
        {"lrn_beta": 0.5},
        {"lrn_alpha_divided_by_size": True},
        {"conv1_order": ("relu", "pool", "lrn")},
        {"conv1_order": ("lrn", "relu", "pool")},
        {"conv2_order": ("lrn", "pool", "relu")},
        {"conv1_padding": (3, 0)},
        {"lrn_crosses_columns": False, "lrn_alpha": 1e-2},
        {"conv2_order": ("relu", "map_norm", "pool")},
        {"conv2_order": ("relu", "map_norm", "lrn", "pool")},
        {"map_norm_size": 3},
        {"map_norm_k": 0.5},
        {"map_norm_alpha": 0.1},
        {"map_norm_beta": 0.5},
        {"conv5_order": ("relu", "pool", "lrn")},
        {"activation": "tanh"},
        {"pool_size": 2},
        {"removed_layers": ("conv5",)},
    ],
    ids=str,
)
def test_every_detail_reaches_the_network_and_would_be_missed(change):
    x = photos(2, 64)
    whole = dataclasses.replace(SMALL, conv2_order=("map_norm", "relu", "pool"))
    before = whole if "map_norm" in str(change) and "conv2_order" not in change else SMALL
    profile = dataclasses.replace(before, **change)
    model, weights = random_network(profile)
    expected = numpy_alexnet.layer_outputs(x, weights, profile)["fc8"]
    assert difference(layer_outputs(model, x)["fc8"], expected) < 1e-4
    if "removed_layers" not in change:  # the same weights fit, and give something else
        other = numpy_alexnet.layer_outputs(x, weights, before)["fc8"]
        assert difference(other, expected) > 1e-3


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        (
            NARROW["krizhevsky2012"],
            "pad1 conv1 lrn1 pool1 relu1 conv2 relu2 lrn2 map_norm2 pool2 conv3 relu3 conv4 relu4 "
            "conv5 pool5 relu5 flatten fc6 relu6 drop6 fc7 relu7 drop7 fc8 softmax",
        ),
        (
            dataclasses.replace(
                NARROW["seed"], removed_layers=("conv4", "conv5"), activation="tanh"
            ),
            "conv1 tanh1 lrn1 pool1 conv2 tanh2 lrn2 pool2 conv3 tanh3 pool5 "
            "flatten drop6 fc6 tanh6 drop7 fc7 tanh7 fc8 softmax",
        ),
    ],
)
def test_layers_come_in_the_order_of_the_profile(profile, names):
    assert [layer.name for layer in AlexNet(profile, classes=2).layers[1:]] == names.split()


def test_outputs():
    x = photos(2, 64)
    model = AlexNet(SMALL, classes=7, seed=1)
    np.testing.assert_allclose(tf.reduce_sum(model(x), axis=1), [1, 1], rtol=1e-5)
    logits = AlexNet(SMALL, classes=7, seed=1, classifier_activation=None)
    assert logits.layers[-1].name == "fc8"
    np.testing.assert_allclose(tf.nn.softmax(logits(x)), model(x), rtol=1e-5)
    features = AlexNet(SMALL, include_top=False, seed=1, name="features")
    assert features.output_shape == (None, 1, 1, SMALL.conv_filters[-1])
    assert features.name == "features"
    pool5 = keras.Model(model.input, model.get_layer("pool5").output)
    np.testing.assert_array_equal(features(x), pool5(x))


@pytest.mark.parametrize(("pooling", "reduced"), [("avg", np.mean), ("max", np.max)])
def test_without_the_top_the_pixels_may_be_pooled(pooling, reduced):
    profile = dataclasses.replace(SMALL, input_size=112)  # pool5 is 2x2
    x = photos(2, 112)
    maps = AlexNet(profile, include_top=False, seed=1)(x).numpy()
    assert maps.shape[1:3] == (2, 2)
    pooled = AlexNet(profile, include_top=False, pooling=pooling, seed=1)
    np.testing.assert_allclose(pooled(x), reduced(maps, (1, 2)), rtol=1e-5)
    assert pooled.layers[-1].name == f"{pooling}_pool"


def test_an_input_of_another_shape():
    model = AlexNet(SMALL, classes=7, input_shape=(96, 128, 3), seed=1)
    assert model.input_shape == (None, 96, 128, 3)
    assert model.get_layer("pool5").output.shape[1:3] == (2, 3)
    assert model.get_layer("fc6").kernel.shape[0] == 2 * 3 * SMALL.conv_filters[-1]
    assert model(RANDOM.normal(size=(2, 96, 128, 3)).astype(np.float32)).shape == (2, 7)
    # 64 + 3 rows are the fewest that leave pool5 a pixel
    assert AlexNet(SMALL, include_top=False, input_shape=(64, 64, 3)).output_shape[1:3] == (1, 1)


def test_an_input_that_is_there_already():
    x = photos(2, 64)
    pixels = keras.Input([64, 64, 3], name="pixels")
    doubled = keras.layers.Rescaling(2.0)(pixels)
    model = AlexNet(SMALL, classes=7, input_tensor=doubled, input_shape=(64, 64, 3), seed=1)
    assert [tensor.name for tensor in model.inputs] == ["pixels"]
    np.testing.assert_allclose(model(x), AlexNet(SMALL, classes=7, seed=1)(2 * x), rtol=1e-5)
    own = AlexNet(SMALL, classes=7, input_tensor=pixels, seed=1)
    np.testing.assert_allclose(own(2 * x), model(x), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mixed_policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.parametrize("activation", ["softmax", None])
def test_output_is_float32_in_mixed_precision(mixed_policy, activation):
    x = photos(4, 64)
    mixed = AlexNet(SMALL, classes=7, seed=1, classifier_activation=activation)
    keras.mixed_precision.set_global_policy("float32")
    exact = AlexNet(SMALL, classes=7, seed=1, classifier_activation=activation)
    assert mixed(x).dtype == "float32"
    assert mixed.get_layer("conv1").compute_dtype == mixed_policy.removeprefix("mixed_")
    assert {tf.as_dtype(weight.dtype) for weight in mixed.weights} == {tf.float32}
    logits = mixed.get_layer("fc8").output
    assert logits.dtype == "float32"
    np.testing.assert_allclose(mixed(x), exact(x), atol=0.02 * np.abs(exact(x)).max())


def test_weights_start_as_an_initializer_of_keras_does():
    profile = PROFILES["paper"].scaled(0.3)
    profile = dataclasses.replace(profile, kernel_init=("he_normal",) * 7 + ("glorot_uniform",))
    weights = read_weights(AlexNet(profile, classes=100, seed=1))
    fan_in = 5 * 5 * profile.conv_filters[0] // 2  # of one column
    assert np.std(weights["conv2/kernel"]) == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)
    limit = (6 / (profile.fc_units[1] + 100)) ** 0.5
    assert 0.99 * limit < np.abs(weights["fc8/kernel"]).max() <= limit


def test_the_seed_decides_the_weights_and_the_masks():
    profile = dataclasses.replace(SMALL, conv_filters=(16,) * 5, conv_groups=(1,) * 5)
    model, same, other = (AlexNet(profile, seed=seed) for seed in (5, 5, 6))
    weights = read_weights(model)
    for name, value in read_weights(same).items():
        np.testing.assert_array_equal(value, weights[name])
    assert not np.array_equal(read_weights(other)["fc8/kernel"], weights["fc8/kernel"])
    unseeded = [read_weights(AlexNet(profile))["fc8/kernel"] for _ in range(2)]
    assert not np.array_equal(*unseeded)
    # kernels of one shape, in layers of their own
    kernels = [weights[f"conv{number}/kernel"] for number in (3, 4, 5)]
    assert kernels[0].shape == kernels[1].shape == kernels[2].shape
    assert len({kernel.tobytes() for kernel in kernels}) == 3

    seeds = [[net.get_layer(name).seed for name in ("drop6", "drop7")] for net in (model, same)]
    assert seeds[0] == seeds[1]
    assert seeds[0][0] != seeds[0][1]


def test_dropout_at_the_inputs_drops_pixels_of_pool5():
    profile = dataclasses.replace(SMALL, dropout_at="inputs", input_size=112)
    model = AlexNet(profile, seed=1)
    outputs = [model.get_layer(name).output for name in ("flatten", "drop6", "relu6", "drop7")]
    pool5, drop6, relu6, drop7 = keras.Model(model.input, outputs)(photos(2, 112), training=True)
    for before, after in ((pool5, drop6), (relu6, drop7)):
        before, after = np.array(before), np.array(after)
        kept = after != 0
        np.testing.assert_allclose(after[kept], 2 * before[kept], rtol=1e-6)
        assert 0.3 < np.mean(kept[before != 0]) < 0.7


@pytest.mark.slow
def test_a_saved_model_is_the_same_model(tmp_path):
    """Layers of this project and the masks that its dropouts draw included."""
    profile = dataclasses.replace(SMALL, conv2_order=("relu", "lrn", "map_norm", "pool"))
    model, _ = random_network(profile)
    x = photos(2, 64)
    model.save(tmp_path / "model.keras")
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    again = keras.models.load_model(tmp_path / "model.keras")
    kinds = [[(type(layer), layer.name) for layer in net.layers] for net in (again, model)]
    assert kinds[0] == kinds[1]
    loaded = AlexNet(profile, weights=path, classes=20, seed=0)
    masked = model(x, training=True)
    for net in (again, loaded):
        np.testing.assert_array_equal(net(x, training=True), masked)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"profile": "alexnet"}, r"profile must be one of paper, .*Received: 'alexnet'"),
        ({"pooling": "avg"}, r"or without the top one of avg, max. Received: pooling='avg', incl"),
        ({"pooling": "sum", "include_top": False}, r"one of avg, max. Received: pooling='sum'"),
        ({"input_shape": (63, 64, 3)}, r"sides of at least 64 pixels. Received: \(63, 64, 3\)"),
        ({"input_shape": (64, 64)}, r"must be \(height, width, 3\).*Received: \(64, 64\)"),
        (
            {"input_tensor": keras.Input([64, 64, 3]), "input_shape": (64, 65, 3)},
            r"must agree. Received: \(64, 65, 3\) and \(64, 64, 3\)",
        ),
        ({"classes": 0}, r"classes must be at least 1. Received: 0"),
        ({"seed": -1}, r"seed must be None or at least 0. Received: -1"),
        ({"weights": "imagenet"}, r"\(none are downloaded\). Received: 'imagenet'"),
        ({"weights": "no/such.weights.h5"}, r"Received: 'no/such.weights.h5'. Check the path"),
    ],
)
def test_a_wrong_argument_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AlexNet(**{"profile": SMALL, "classes": 2} | wrong)


def test_weight_decay_is_the_optimizers():
    with pytest.raises(TypeError, match=r"weight_decay.*0\.01.*optimizer"):
        AlexNet(SMALL, classes=2, weight_decay=0.01)


def predict(model, images):
    model.predict(images, verbose=0)


def differentiate(model, images):
    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    gradients()


def differentiate_from_outside(model, images):
    function = tf.function(lambda: model(images, training=True))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(function())
    tape.gradient(loss, model.trainable_variables)


def handles_of_a_dropped_network(name, use):
    """Return the owners of the weights' memory; graphs hold it too, without the variables."""
    model = AlexNet(NARROW[name], classes=3)
    if use:
        use(model, photos(2, NARROW[name].input_size))
    handles = [weakref.ref(tf_variable(weight).handle) for weight in model.weights]
    assert all(handle() is not None for handle in handles)
    return handles


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "krizhevsky2012"])  # one normalization, and both
@pytest.mark.parametrize("use", [None, predict, differentiate, differentiate_from_outside])
def test_the_weights_of_a_network_go_with_it(name, use):
    """TensorFlow keeps every custom gradient of a graph for good: it must not hold the network."""
    handles = handles_of_a_dropped_network(name, use)
    gc.collect()
    assert [handle() for handle in handles] == [None] * len(handles)

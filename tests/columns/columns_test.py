"""Two columns on two devices: the same network, and each half of it where it belongs."""

import collections
import dataclasses
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context  # the only way to the graphs that are run

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import (
    assign_weights,
    column_devices,
    merge,
    place_columns,
    read_weights,
    split,
)
from keras_alexnet.network import variables
from keras_alexnet.training.optimizers import OPTIMIZERS, MomentumSGD
from keras_alexnet.training.update_rules import SharedRules

pytestmark = pytest.mark.slow

DEVICES = ("CPU:0", "CPU:1")
NARROW = {
    name: dataclasses.replace(profile.scaled(0.05), input_size=67 - sum(profile.conv1_padding) + 64)
    for name, profile in PROFILES.items()
    if profile.columns == 2
}
# Kernels that keep photos alive through all layers, and make the neighbours of a map count.
LIVELY = {
    name: dataclasses.replace(profile, kernel_init=("he_normal",) * 8)
    for name, profile in NARROW.items()
}
CLASSES = 7


def photos(count, profile):
    size = profile.input_size
    numbers = np.random.default_rng(0).normal(0, 60, (count, size, size, 3)).astype(np.float32)
    return numbers, np.arange(count) % CLASSES


def alexnet(profile, **options):
    return AlexNet(profile, CLASSES, classifier_activation=None, seed=3, **options)


def value_of(variable):
    return variable if isinstance(variable, tf.Variable) else variable.value


def device_of(variable):
    return value_of(variable).device[-5:]


def gradients(model, profile):
    """Return logits, and gradients by "layer/variable", of a training step with dropout."""
    x, labels = photos(4, profile)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    values = tape.gradient(loss, [value_of(variable) for variable in model.trainable_variables])
    names = {id(variable): name for name, variable in variables.named_variables(model).items()}
    return logits.numpy(), {
        names[id(variable)]: gradient.numpy()
        for variable, gradient in zip(model.trainable_variables, values, strict=True)
    }


def assert_same_step(network, columns, profile):
    expected_logits, expected = gradients(network, profile)
    logits, found = gradients(columns, profile)
    np.testing.assert_allclose(
        logits, expected_logits, rtol=0, atol=1e-5 * np.abs(expected_logits).max()
    )
    found = merge(found)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = np.abs(gradient).max()
        assert scale > 0, f"{name}: nothing to compare"
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("name", NARROW)
def test_logits_and_gradients_are_those_of_one_device(name, float64):
    profile = LIVELY[name]
    network = alexnet(profile)
    assert_same_step(network, place_columns(network, DEVICES), profile)


@pytest.mark.parametrize(
    "change",
    [
        {"dropout_at": "inputs"},
        {"conv_groups": (1, 2, 2, 1, 2)},
        {"conv1_order": ("lrn", "pool", "relu"), "lrn_size": 9},
        {"lrn_size": 3, "lrn_alpha": 0.01},
    ],
)
def test_variants_are_those_of_one_device(change, float64):
    profile = dataclasses.replace(LIVELY["paper"], **change)
    network = alexnet(profile)
    assert_same_step(network, place_columns(network, DEVICES), profile)


def test_neighbours_in_the_other_column_count():
    # or the test above would not see a halo that is left out
    crossing = alexnet(LIVELY["paper"])
    apart = alexnet(dataclasses.replace(LIVELY["paper"], lrn_crosses_columns=False))
    x, _ = photos(4, LIVELY["paper"])
    assert np.abs(crossing(x) - apart(x)).max() > 0.01 * np.abs(crossing(x)).max()


def test_without_the_top_pool5_is_on_the_first_device(float64):
    network = alexnet(LIVELY["caffe"], include_top=False)
    columns = place_columns(network, DEVICES)
    x, _ = photos(2, LIVELY["caffe"])
    assert columns.output_shape == network.output_shape
    expected = np.array(network(x))
    np.testing.assert_allclose(columns(x), expected, rtol=0, atol=1e-9 * expected.max())


def test_scores_are_those_of_one_device(float64):
    # An fc8 of small weights, so that no score is 0 or 1, which the scores of other logits are too.
    profile = dataclasses.replace(LIVELY["krizhevsky2012"], kernel_init=(*("he_normal",) * 7, 1e-3))
    network = AlexNet(profile, CLASSES, seed=3)
    columns = place_columns(network, DEVICES)
    x, _ = photos(2, profile)
    scores = np.array(network(x))
    assert 0.01 < scores.max() < 0.99
    assert np.abs(scores[0] - scores[1]).max() > 0.001
    np.testing.assert_allclose(columns(x), scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(columns(x), axis=-1), 1, atol=1e-6)
    assert columns.layers[-1].name == "softmax"


# Training. The graphs are those that TensorFlow ran, placed, optimized and cut apart by device.


def compile_and_fit(network, profile, *, steps, run_eagerly):
    """Train by the recipe of 2012, the network inside of a model as in training."""
    inputs = keras.Input((profile.input_size, profile.input_size, 3))
    model = keras.Model(inputs, network(inputs))
    model.compile(
        optimizer=MomentumSGD(1e-4, 0.9, 2.0, bias_learning_rate=2e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=run_eagerly,
    )
    model.fit(*photos(4 * steps, profile), batch_size=4, epochs=1, shuffle=False, verbose=0)
    return model


@pytest.fixture(scope="module", params=["krizhevsky2012", "paper"])
def trained(request):
    """Return columns after a step in float32, and the parts of the step's graph by device."""
    profile = LIVELY[request.param]
    columns = place_columns(alexnet(profile), DEVICES)
    context.context().enable_run_metadata()
    try:
        model = compile_and_fit(columns, profile, steps=1, run_eagerly=False)
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_run_metadata()
    step = max(graphs, key=lambda graph: sum(len(part.node) for part in graph.partition_graphs))
    return types.SimpleNamespace(
        columns=columns,
        optimizer=model.optimizer,
        parts={part.node[0].device[-5:]: part.node for part in step.partition_graphs},
        has_halo=profile.lrn_crosses_columns,
    )


@pytest.mark.parametrize(
    ("name", "columns_run_eagerly"),
    [
        ("paper", False),
        ("caffe", True),
        pytest.param("krizhevsky2012", False, marks=pytest.mark.soak),
        pytest.param("caffenet", True, marks=pytest.mark.soak),
    ],
)
def test_three_steps_end_with_the_weights_of_one_device(name, columns_run_eagerly, float64):
    profile = LIVELY[name]
    network = alexnet(profile)
    columns = place_columns(network, DEVICES)
    start = read_weights(network)
    compile_and_fit(network, profile, steps=3, run_eagerly=True)
    compile_and_fit(columns, profile, steps=3, run_eagerly=columns_run_eagerly)
    expected, found = read_weights(network), read_weights(columns)
    assert found.keys() == expected.keys() == start.keys()
    for key, value in expected.items():
        moved = np.abs(value - start[key]).max()
        assert moved > 0, f"{key} was not trained"
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-5 * moved, err_msg=key)


def test_weights_and_momentum_live_on_the_device_of_their_column(trained):
    devices = {
        name: device_of(variable)
        for name, variable in variables.named_variables(trained.columns).items()
    }
    assert len(devices) == 2 * 2 * 7 + 2 + 3  # conv1 to fc7 twice, fc8 once, the steps of dropouts
    for name, device in devices.items():
        assert device == ("CPU:1" if "_b/" in name else "CPU:0"), name
    momentum = [variable for variable in trained.optimizer.variables if len(variable.shape)]
    assert len(momentum) == 30
    for variable, belongs_to in zip(momentum, trained.columns.trainable_variables, strict=True):
        assert variable.shape == belongs_to.shape
        assert device_of(variable) == device_of(belongs_to)


def test_each_device_does_its_half_of_forward_and_backward(trained):
    assert trained.parts.keys() == set(DEVICES)
    for device, nodes in trained.parts.items():
        counts = collections.Counter(
            # with oneDNN a convolution is called _MklNativeFusedConv2D, for example
            re.sub(r"^_(Mkl)?(Native)?(Fused)?|WithBias$", "", node.op)
            for node in nodes
            if re.search(r"(conv|relu|pool|fc)\d", node.name)
        )
        assert counts["Conv2D"] == counts["Conv2DBackpropFilter"] == 5
        assert counts["Conv2DBackpropInput"] == 4  # nobody asks for the gradient of the photos
        assert counts["MaxPool"] == counts["MaxPoolGrad"] == 3
        assert counts["ReluGrad"] == 7
        # A ReLU may be a part of a fused convolution or dense layer, under its own name.
        units = [node for node in nodes if node.name.endswith("/Relu") and node.op != "_Recv"]
        assert len(units) == 7
        # a dense layer has its outputs, the gradient of its inputs, and that of its kernel
        assert counts["MatMul"] == 3 * {"CPU:0": 3, "CPU:1": 2}[device]

        other = {"CPU:0": "b", "CPU:1": "a"}[device]
        strangers = [
            node.name
            for node in nodes
            if re.search(rf"/(conv|relu|pool|fc|lrn|map_norm)\d_{other}", node.name)
            and node.op not in ("_Recv", "_HostRecv", "Const")
        ]
        assert not strangers


def test_only_maps_for_both_columns_and_single_numbers_cross(trained):
    numbers = {
        "CPU:0": r"momentum_sgd/(\w+/ReadVariableOp|SelectV2(_\d+)?)$",  # learning rates
        "CPU:1": r"/ctrl/",  # "it is done"
    }
    crossing = collections.Counter()
    for device, nodes in trained.parts.items():
        for node in nodes:
            if node.op in ("_Send", "_HostSend") and not re.search(numbers[device], node.input[0]):
                layer = re.search(r"alexnet\w*/(\w+?_[ab]|gather_drop7)(_\d+)?/", node.input[0])
                crossing[device, layer[1] if layer else node.input[0]] += 1
    photos_sent = [key for key in crossing if key[1].endswith("IteratorGetNext")]
    gathered = {"gather_conv3", "gather_flatten", "gather_drop6"}  # for conv3, fc6 and fc7
    exchanged = gathered | ({"halo_lrn1", "halo_lrn2"} if trained.has_halo else set())
    expected = {*photos_sent, ("CPU:1", "relu7_b"), ("CPU:0", "gather_drop7")}  # for fc8
    for name in exchanged:
        for device, column in (("CPU:0", "a"), ("CPU:1", "b")):
            expected.add((device, f"share_{name}_{column}"))  # forward
            expected.add((device, f"{name}_{column}"))  # the gradient, on its way back
    assert len(photos_sent) == 1
    assert set(crossing) == expected
    assert set(crossing.values()) == {1}


def test_every_optimizer_of_training_updates_in_place():
    for make in OPTIMIZERS.values():
        assert isinstance(make(0.01), SharedRules)


def test_mixed_precision_trains_as_on_one_device():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    profile = LIVELY["krizhevsky2012"]
    network = alexnet(profile)
    columns = place_columns(network, DEVICES)
    x, _ = photos(4, profile)
    logits = columns(x)
    assert logits.dtype == tf.float32
    assert columns.get_layer("conv4_b").layer.compute_dtype == "bfloat16"
    np.testing.assert_allclose(logits, network(x), rtol=0, atol=0.02 * np.abs(logits).max())
    expected, found = gradients(network, profile)[1], merge(gradients(columns, profile)[1])
    for name, gradient in expected.items():
        error = np.linalg.norm(found[name] - gradient) / np.linalg.norm(gradient)
        # Of bfloat16's 8 bits 0.02 to 0.05 remain; without the other column's gradient it is 0.95.
        assert error < 0.2, (name, error)


# Weights


def test_the_weights_are_those_of_one_device_cut_in_two():
    network = alexnet(NARROW["paper"])
    columns = place_columns(network, DEVICES)
    names = variables.named_variables(columns)
    whole = read_weights(network)
    assert whole.keys() == variables.named_variables(network).keys()
    kernel = whole["conv2/kernel"]
    np.testing.assert_array_equal(names["conv2_a/kernel"], kernel[..., : kernel.shape[-1] // 2])
    np.testing.assert_array_equal(names["conv2_b/kernel"], kernel[..., kernel.shape[-1] // 2 :])
    np.testing.assert_array_equal(names["fc8/kernel"], whole["fc8/kernel"])
    sizes = [
        sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
        for model in (network, columns)
    ]
    assert sizes[0] == sizes[1]

    parts = split(whole, names)
    assert parts.keys() == names.keys()
    for name, array in merge(parts).items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)
    for name, array in read_weights(columns).items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


def test_weights_pass_between_one_device_and_two(tmp_path, float64):
    columns = place_columns(alexnet(LIVELY["caffe"]), DEVICES)
    x, _ = photos(2, LIVELY["caffe"])
    columns(x, training=True)  # so that the dropouts have a step
    network = AlexNet(LIVELY["caffe"], CLASSES, classifier_activation=None, seed=4)
    assert np.abs(network(x) - columns(x)).max() > 0
    variables.assign(network, read_weights(columns))
    np.testing.assert_allclose(network(x), columns(x), atol=1e-5 * np.abs(columns(x)).max())
    assert network.get_layer("drop6").step == network.get_layer("drop7").step == 1

    path = str(tmp_path / "network.weights.h5")
    network.save_weights(path)
    again = place_columns(alexnet(LIVELY["caffe"], weights=path), DEVICES)
    np.testing.assert_array_equal(again(x), columns(x))

    assign_weights(again, read_weights(alexnet(LIVELY["caffe"])))
    np.testing.assert_allclose(
        again(x), alexnet(LIVELY["caffe"])(x), atol=1e-5 * np.abs(columns(x)).max()
    )


def test_weights_of_another_network_are_refused():
    columns = place_columns(alexnet(NARROW["caffe"]), DEVICES)
    weights = read_weights(columns)
    with pytest.raises(ValueError, match=r"fc8/kernel: the network has .*, the checkpoint nothing"):
        assign_weights(columns, {k: v for k, v in weights.items() if k != "fc8/kernel"})
    with pytest.raises(ValueError, match=r"conv1_a/bias: the network has .*, the checkpoint noth"):
        assign_weights(columns, {k: v for k, v in weights.items() if k != "conv1/bias"})
    with pytest.raises(ValueError, match=r"fc9/bias: the network has nothing"):
        assign_weights(columns, {**weights, "fc9/bias": np.zeros(3)})
    with pytest.raises(ValueError, match=r"conv1_b/bias: the network has \(4,\), .* \(5,\)"):
        assign_weights(columns, {**weights, "conv1/bias": np.zeros(9)})


def test_a_model_is_made_again_from_its_config():
    columns = place_columns(alexnet(LIVELY["paper"]), DEVICES)
    config = keras.saving.serialize_keras_object(columns)
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "OnDevice":  # as models of earlier versions have it
            layer["config"]["kernel_regularizer"] = None
    again = keras.saving.deserialize_keras_object(config)
    variables.assign(
        again,
        {name: v.numpy() for name, v in variables.named_variables(columns).items()},
    )
    x, _ = photos(2, LIVELY["paper"])
    np.testing.assert_array_equal(again(x), columns(x))
    assert device_of(variables.named_variables(again)["conv5_b/kernel"]) == "CPU:1"


# Errors


def test_one_column_is_refused():
    with pytest.raises(ValueError, match=r"two columns, but owt has 1; take one of paper, krizh"):
        column_devices(PROFILES["owt"])
    network = AlexNet(PROFILES["owt"].scaled(0.05), CLASSES)
    with pytest.raises(ValueError, match=r"two columns, .*groups=2\. Received: 1\."):
        place_columns(network, DEVICES)


def test_the_devices_are_the_first_two(monkeypatch):
    assert column_devices(PROFILES["paper"]) == ("/device:CPU:0", "/device:CPU:1")
    device = tf.config.list_logical_devices("CPU")[0]
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: [device] if kind == "CPU" else []
    )
    with pytest.raises(ValueError, match=r"needs two GPUs, .* there is one device, /device:CPU:0"):
        column_devices(PROFILES["paper"])


@pytest.mark.parametrize(
    "devices", [(), ("CPU:0",), ("CPU:0", "/CPU:0"), ("CPU:0", "CPU:9"), ("CPU:0", "a GPU")]
)
def test_other_devices_than_two_that_there_are_are_refused(devices):
    network = alexnet(NARROW["paper"])
    with pytest.raises(ValueError, match=r"devices must be two of /device:CPU:0, .*Received: \["):
        place_columns(network, devices)


def test_a_strategy_is_refused():
    network = alexnet(NARROW["paper"])
    with (
        tf.distribute.OneDeviceStrategy("CPU:0").scope(),
        pytest.raises(ValueError, match=r"outside of .* Received: OneDeviceStrategy\."),
    ):
        place_columns(network, DEVICES)

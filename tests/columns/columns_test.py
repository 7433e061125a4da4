"""Two columns on two devices: the same network, and each half of it where it belongs."""

import collections
import dataclasses
import re
import types

import keras
import numpy as np
import pytest
import random_networks
import tensorflow as tf
from tensorflow.python.eager import context  # the only way to the graphs that are run

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import (
    assign_weights,
    column_devices,
    merge,
    named_values,
    place_columns,
    read_weights,
    split,
)
from keras_alexnet.network import ablations, variables
from keras_alexnet.network.keras_compat import tf_variable
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
    return random_networks.photos(count, profile.input_size), np.arange(count) % CLASSES


def alexnet(profile, **options):
    return AlexNet(profile, CLASSES, classifier_activation=None, seed=3, **options)


def in_columns(profile):
    """Return a network, and the same in columns."""
    network = alexnet(profile)
    return network, place_columns(network, DEVICES)


def device_of(variable):
    return tf_variable(variable).device[-5:]


def gradients(model, profile):
    """Return logits, and gradients by "layer/variable", of a training step with dropout."""
    x, labels = photos(4, profile)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    values = tape.gradient(loss, list(map(tf_variable, model.trainable_variables)))
    return logits.numpy(), named_values(model, model.trainable_variables, values)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, {}) for name in NARROW),
        ("paper", {"dropout_at": "inputs"}),
        ("paper", {"conv_groups": (1, 2, 2, 1, 2)}),
        ("paper", {"conv1_order": ("lrn", "pool", "relu"), "lrn_size": 9}),
        ("paper", {"lrn_size": 3, "lrn_alpha": 0.01}),
        ("paper", {"activation": "tanh"}),
        ("krizhevsky2012", {"pool_size": 2}),
        ("krizhevsky2012", {"removed_layers": ("conv3",)}),
        ("paper", {"removed_layers": ("conv4", "conv5")}),
    ],
)
def test_logits_and_gradients_are_those_of_one_device(name, change, float64):
    profile = dataclasses.replace(LIVELY[name], **change)
    (logits, expected), (found_logits, found) = (
        gradients(model, profile) for model in in_columns(profile)
    )
    assert found.keys() == expected.keys()
    for key, value in {**expected, "logits": logits}.items():
        ours, scale = found.get(key, found_logits), np.abs(value).max()
        assert scale > 0, f"{key}: nothing to compare"
        np.testing.assert_allclose(ours, value, rtol=0, atol=1e-5 * scale, err_msg=key)


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
    network, columns = in_columns(profile)
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
    network, columns = in_columns(profile)
    x, _ = photos(4, profile)
    logits = columns(x)
    assert logits.dtype == tf.float32
    assert columns.get_layer("conv4_b").layer.compute_dtype == "bfloat16"
    np.testing.assert_allclose(logits, network(x), rtol=0, atol=0.02 * np.abs(logits).max())
    expected, found = (gradients(model, profile)[1] for model in (network, columns))
    for name, gradient in expected.items():
        error = np.linalg.norm(found[name] - gradient) / np.linalg.norm(gradient)
        # Of bfloat16's 8 bits 0.02 to 0.05 remain; without the other column's gradient it is 0.95.
        assert error < 0.2, (name, error)


def test_the_weights_are_those_of_one_device_cut_in_two():
    network, columns = in_columns(NARROW["paper"])
    names = variables.named_variables(columns)
    whole = read_weights(network)
    assert whole.keys() == variables.named_variables(network).keys()
    halves = np.split(whole["conv2/kernel"], 2, axis=-1)
    for column, half in zip("ab", halves, strict=True):
        np.testing.assert_array_equal(names[f"conv2_{column}/kernel"], half)
    np.testing.assert_array_equal(names["fc8/kernel"], whole["fc8/kernel"])
    assert network.count_params() == columns.count_params()
    parts = split(whole, names)
    assert parts.keys() == names.keys()
    for found in (merge(parts), read_weights(columns)):
        assert found.keys() == whole.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, whole[name], err_msg=name)


def test_weights_pass_between_one_device_and_two(tmp_path, float64):
    profile = LIVELY["caffe"]
    _, columns = in_columns(profile)
    x, _ = photos(2, profile)
    columns(x, training=True)  # so that the dropouts have a step
    network = AlexNet(profile, CLASSES, classifier_activation=None, seed=4)
    assert np.abs(network(x) - columns(x)).max() > 0
    variables.assign(network, read_weights(columns))
    np.testing.assert_allclose(network(x), columns(x), atol=1e-5 * np.abs(columns(x)).max())
    assert network.get_layer("drop6").step == network.get_layer("drop7").step == 1

    path = str(tmp_path / "network.weights.h5")
    network.save_weights(path)
    again = place_columns(alexnet(profile, weights=path), DEVICES)
    np.testing.assert_array_equal(again(x), columns(x))


def test_weights_of_another_network_are_refused():
    _, columns = in_columns(NARROW["caffe"])
    weights = read_weights(columns)
    for name, shape, message in (
        ("fc8/kernel", None, r"fc8/kernel: the network has .*, the checkpoint nothing"),
        ("conv1/bias", None, r"conv1_a/bias: the network has .*, the checkpoint nothing"),
        ("fc9/bias", 3, r"fc9/bias: the network has nothing"),
        ("conv1/bias", 9, r"conv1_b/bias: the network has \(4,\), .* \(5,\)"),
    ):
        others = {key: value for key, value in weights.items() if key != name}
        others |= {name: np.zeros(shape)} if shape else {}
        with pytest.raises(ValueError, match=message):
            assign_weights(columns, others)


def test_a_model_is_made_again_from_its_config():
    _, columns = in_columns(LIVELY["paper"])
    config = keras.saving.serialize_keras_object(columns)
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "OnDevice":  # as models of earlier versions have it
            layer["config"]["kernel_regularizer"] = None
    again = keras.saving.deserialize_keras_object(config)
    assign_weights(again, read_weights(columns))
    x, _ = photos(2, LIVELY["paper"])
    np.testing.assert_array_equal(again(x), columns(x))
    assert device_of(variables.named_variables(again)["conv5_b/kernel"]) == "CPU:1"


def test_one_column_is_refused():
    with pytest.raises(ValueError, match=r"two columns, but paper has 1"):
        column_devices(ablations.apply(PROFILES["paper"], ["columns"]))
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


def test_other_devices_than_two_that_there_are_and_a_strategy_are_refused():
    network = alexnet(NARROW["paper"])
    for devices in ((), DEVICES[:1], ("CPU:0", "/CPU:0"), ("CPU:0", "CPU:9"), ("CPU:0", "a GPU")):
        with pytest.raises(ValueError, match=r"two of /device:CPU:0, .*Received: \["):
            place_columns(network, devices)
    with (
        tf.distribute.OneDeviceStrategy("CPU:0").scope(),
        pytest.raises(ValueError, match=r"outside of .* Received: OneDeviceStrategy\."),
    ):
        place_columns(network, DEVICES)

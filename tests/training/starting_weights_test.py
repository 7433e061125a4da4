import dataclasses
import os
import pickle
import re

import h5py
import keras
import numpy as np
import pytest

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import column_devices, place_columns, read_weights
from keras_alexnet.network import ablations
from keras_alexnet.network.profile import LAYER_NAMES
from keras_alexnet.network.variables import path_of
from keras_alexnet.training import checkpoints, devices, starting_weights

pytestmark = pytest.mark.slow

PROFILE = dataclasses.replace(PROFILES["paper"].scaled(0.0625), input_size=128)
ALL_BUT_FC8 = list(LAYER_NAMES[:-1])


def alexnet(classes=7, seed=1, profile=PROFILE):
    return AlexNet(profile, classes=classes, classifier_activation=None, seed=seed)


def in_columns(**options):
    return place_columns(alexnet(**options), column_devices(PROFILE))


def mirrored(**options):
    with devices.make_strategy("mirrored").scope():
        return alexnet(**options)


NETWORKS = pytest.mark.parametrize("make", [alexnet, mirrored, in_columns])


def write_checkpoint(workdir, epoch, weights, top1, history=(), averages=None):
    history = [*history, {"epoch": epoch, "val_top1": top1}]
    checkpoints.write(
        str(workdir),
        checkpoints.Checkpoint(
            state=checkpoints.RunState(checkpoints.Place(epoch), history=history),
            weights=weights,
            averages=averages or {},
            optimizer=[np.array(epoch)],
        ),
    )
    return history


def assert_set(network, before, source, layers):
    """The layers are the source's, all else is as it was."""
    after = read_weights(network)
    assert after.keys() == before.keys()
    for name, array in after.items():
        expected = source if name.split("/")[0] in layers else before
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return weights of a network of 7 classes after a step of dropout; its file, and its run."""
    folder = tmp_path_factory.mktemp("trained")
    network = alexnet(seed=2)
    network(np.zeros([1, *network.input_shape[1:]], np.float32), training=True)
    network.save_weights(folder / "network.weights.h5")
    write_checkpoint(folder / "run", 1, read_weights(network), top1=0.5)
    sources = {"file": str(folder / "network.weights.h5"), "run": str(folder / "run")}
    return read_weights(network), sources


@NETWORKS
@pytest.mark.parametrize("kind", ["file", "run"])
@pytest.mark.parametrize("classes", [7, 11])
def test_layers_of_the_same_shapes_are_set_and_others_start_anew(
    trained, capsys, kind, make, classes
):
    weights, sources = trained
    network = make(classes=classes)
    before = read_weights(network)
    assert all(
        np.any(before[f"{name}/kernel"] != weights[f"{name}/kernel"]) for name in ALL_BUT_FC8
    )
    assert weights["drop6/step"] == 1, "which is no weight and stays 0 here"
    layers, anew = list(LAYER_NAMES), ""
    if classes != 7:
        layers = ALL_BUT_FC8
        there, here = (read["fc8/kernel"].shape for read in (weights, before))
        anew = f"; what does not fit starts anew: fc8/kernel is {there} there and {here} here"
    assert starting_weights.load(network, sources[kind]) == layers
    assert_set(network, before, weights, layers)
    said = f"weights of {' '.join(layers)} are taken from {sources[kind]}{anew}\n"
    assert capsys.readouterr().err == said


def other_network(path):
    """Save weights of a network that is no AlexNet."""
    network = keras.Sequential([keras.Input([3]), keras.layers.Dense(2, name="block1")])
    network.save_weights(path)


def test_weights_of_another_width_or_network_are_refused(trained, tmp_path):
    weights, sources = trained
    network = alexnet(profile=dataclasses.replace(PROFILES["paper"].scaled(0.2), input_size=128))
    before = read_weights(network)
    other_network(other := str(tmp_path / "other.weights.h5"))
    here, there = (read["conv1/kernel"].shape for read in (before, weights))
    for source, found in ((sources["file"], there), (sources["run"], there), (other, "absent")):
        refused = f"{source} fits: conv1/kernel is {found} there and {here} here; take"
        with pytest.raises(ValueError, match=re.escape(refused)):
            starting_weights.load(network, source)
    assert_set(network, before, {}, [])


def test_the_best_checkpoint_of_a_run_is_taken_and_its_averages(tmp_path):
    weights, others = (read_weights(alexnet(seed=seed)) for seed in (5, 6))
    averages = {"conv1/kernel": weights["conv1/kernel"] / 2}
    history = write_checkpoint(tmp_path, 1, weights, top1=0.8, averages=averages)
    write_checkpoint(tmp_path, 2, others, top1=0.3, history=history)
    network = alexnet()
    before = read_weights(network)
    starting_weights.load(network, str(tmp_path))
    assert_set(network, before, {**weights, **averages}, LAYER_NAMES)


def test_a_layer_that_the_file_lacks_starts_anew(tmp_path, capsys):
    path = str(tmp_path / "features.weights.h5")
    AlexNet(PROFILE, include_top=False, seed=3).save_weights(path)
    assert starting_weights.load(alexnet(), path) == list(LAYER_NAMES[:5])
    assert "; fc6/bias is" not in (told := capsys.readouterr().err)
    assert "starts anew: fc6/kernel is absent there and (" in told


def name_layers(path, names):
    """Write names of layers, by their kernel's shape, into a file; without any, remove them."""
    with h5py.File(path, "r+") as file:
        for group in (layer["vars"] for layer in file["layers"].values()):
            if names and len(group):
                group.attrs["name"] = names[group["0"].shape]
            else:
                group.attrs.pop("name", None)


@pytest.mark.parametrize("is_named", [True, False])
def test_files_of_both_generations_of_keras_are_read(is_named, tmp_path):
    """Keras 3 writes the layers' names, Keras 2 does not."""
    source = alexnet(seed=2)
    path = str(tmp_path / "network.weights.h5")
    source.save_weights(path)
    with_weights = [layer for layer in source.layers if layer.weights]
    kernels = {tuple(layer.weights[0].shape): layer.name for layer in with_weights}
    name_layers(path, kernels if is_named else {})
    network = alexnet()
    before = read_weights(network)
    assert starting_weights.load(network, path) == list(LAYER_NAMES)
    assert_set(network, before, read_weights(source), LAYER_NAMES)


def test_layers_without_a_name_are_not_guessed(tmp_path):
    path = str(tmp_path / "network.weights.h5")
    AlexNet(ablations.apply(PROFILE, ["conv3"]), 7, seed=2).save_weights(path)
    name_layers(path, {})
    assert starting_weights.load(alexnet(), path) == list(LAYER_NAMES[5:])


def cut_file(path):
    alexnet().save_weights(path)
    path.write_bytes(path.read_bytes()[:-1000])


def write_words(path):
    with h5py.File(path, "w") as file:
        variables = file.create_group("layers/dense/vars")
        variables.attrs["name"] = "fc8"
        variables.create_dataset("0", data=["a kernel"])


def array_at(name):
    """Return a function that writes an HDF5 file with one array."""

    def write(path):
        with h5py.File(path, "w") as file:
            file.create_dataset(name, data=np.zeros(3))

    return write


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: path.write_text("conv1 conv2\n"), id="text"),
        pytest.param(
            lambda path: path.write_bytes(pickle.dumps({"conv1/kernel": np.zeros(3)})), id="pickle"
        ),
        pytest.param(cut_file, id="cut"),
        pytest.param(lambda path: h5py.File(path, "w").close(), id="empty"),
        pytest.param(array_at("conv1/conv1/kernel:0"), id="keras 1"),
        pytest.param(array_at("layers"), id="array for a group"),
        pytest.param(array_at("layers/dense/0"), id="no variables"),
        pytest.param(write_words, id="words"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path, write):
    path = tmp_path / "other.weights.h5"
    write(path)
    network = alexnet()
    before = read_weights(network)
    with pytest.raises(ValueError, match=f"of Keras, whole, but {path} is none") as error:
        starting_weights.load(network, str(path))
    assert "\n" not in str(error.value)
    assert_set(network, before, {}, [])


def test_no_source_and_a_run_without_a_whole_checkpoint_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"or the workdir of a run, but there is no .*/absent;"):
        starting_weights.check(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        starting_weights.check(str(tmp_path))
    write_checkpoint(tmp_path, 1, read_weights(alexnet()), top1=0.5)
    os.truncate(tmp_path / "checkpoints" / "epoch-0001" / "weights.npz", 1000)
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        starting_weights.load(alexnet(), str(tmp_path))
    assert "passed over" in capsys.readouterr().err


@NETWORKS
def test_frozen_layers_are_no_longer_trained(make):
    network = make()
    before = {path_of(variable) for variable in network.trainable_variables}
    starting_weights.freeze(network, ["conv1", "fc6"])
    after = {path_of(variable) for variable in network.trainable_variables}
    frozen = {path.split("/")[-2].removesuffix("_a").removesuffix("_b") for path in before - after}
    assert frozen == {"conv1", "fc6"}
    left = {path.split("/")[-2].removesuffix("_a").removesuffix("_b") for path in after}
    assert left == {*LAYER_NAMES} - frozen


def test_something_has_to_learn():
    for names, message in (
        (LAYER_NAMES, r"can be frozen, not all; .* leave one out"),
        (["conv1", "conv9"], r"received conv1, conv9; leave conv9 out"),
    ):
        with pytest.raises(ValueError, match=message):
            starting_weights.freeze(alexnet(), names)

import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import foreign_files
import keras
import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.foreign_weights import recognition
from keras_alexnet.foreign_weights.conversion import convert
from keras_alexnet.foreign_weights.recognition import LARGEST_FILE
from keras_alexnet.network.profiles import PROFILES

_WIDTH = 0.125
_PROFILE = PROFILES["caffe"].scaled(_WIDTH)
_CLASSES = 10


@pytest.fixture(scope="module")
def weights():
    return foreign_files.random_weights(_PROFILE, _CLASSES)


@pytest.fixture
def caffemodel(tmp_path, weights):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(foreign_files.caffemodel(weights, _PROFILE))
    return str(path)


def _npy(tmp_path, dictionary) -> str:
    path = tmp_path / "net.npy"
    path.write_bytes(foreign_files.npy_header() + foreign_files.Python2Pickle().dump(dictionary))
    return str(path)


def _refusal(tmp_path, path: str, **options) -> str:
    before = sorted(os.listdir(tmp_path))
    options = {"output": str(tmp_path / "out.weights.h5"), "width": _WIDTH, **options}
    with pytest.raises(ValueError, match=r"needed|must|does not|sees") as caught:
        convert(weights=path, **options)
    assert sorted(os.listdir(tmp_path)) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["caffemodel", "npy"])
def test_alexnet_loads_the_result(tmp_path, caffemodel, weights, file_format):
    path = caffemodel
    if file_format == "npy":
        path = _npy(tmp_path, foreign_files.dictionary(weights))
    output = str(tmp_path / "new" / "out.weights.h5")
    figures = convert(weights=path, output=output, profile="caffe", width=_WIDTH)

    assert figures["format"] == file_format
    assert figures["classes"] == _CLASSES
    assert figures["tensors"] == 16
    assert figures["parameters"] == sum(value.size for value in weights.values())
    assert 0 < figures["relative_difference"] < figures["tolerance"] == 1e-4
    model = AlexNet(_PROFILE, classes=_CLASSES, weights=output)
    for name, value in weights.items():
        layer, kind = name.split("/")
        read = model.get_layer(layer).get_weights()[kind == "bias"]
        np.testing.assert_array_equal(read, value)
    assert sorted(os.listdir(tmp_path / "new")) == ["out.report.json", "out.weights.h5"]


def test_the_report_has_shapes_and_hashes(tmp_path, caffemodel, weights):
    output = tmp_path / "out.weights.h5"
    convert(weights=caffemodel, output=str(output), profile="caffe", width=_WIDTH)
    report = json.loads((tmp_path / "out.report.json").read_text())

    def sha256(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    with open(caffemodel, "rb") as file:
        content = file.read()
    assert report["source"] == {
        "file": "net.caffemodel",
        "bytes": len(content),
        "sha256": sha256(content),
        "format": "caffemodel",
        "title": "AlexNet",
        "left_out": [],
    }
    assert report["output"] == {"file": "out.weights.h5", "sha256": sha256(output.read_bytes())}
    assert report["profile"]["name"] == "caffe"
    assert report["profile"]["colour_order"] == "BGR"
    assert report["logits"]["within_tolerance"] is True
    source = foreign_files.maps_first(weights, bgr=True)
    assert [line["name"] for line in report["tensors"]] == list(weights)
    for line in report["tensors"]:
        name = line["name"]
        assert line["shape"] == list(weights[name].shape)
        assert line["sha256"] == sha256(weights[name].tobytes())
        assert line["source_shape"] == list(source[name].shape)
        assert line["source_sha256"] == sha256(source[name].tobytes())
    assert report["tensors"][2]["source"] == "conv2.blobs[0]"


@pytest.mark.slow
def test_the_same_file_gives_the_same_bytes(tmp_path, caffemodel):
    results = []
    for folder in ("one", "two"):
        output = tmp_path / folder / "out.weights.h5"
        convert(weights=caffemodel, output=str(output), profile="caffe", width=_WIDTH)
        report = tmp_path / folder / "out.report.json"
        results.append((output.read_bytes(), report.read_bytes()))
    assert results[0] == results[1]


@pytest.mark.slow
def test_an_earlier_result_is_replaced(tmp_path, caffemodel):
    output = tmp_path / "out.weights.h5"
    output.write_bytes(b"old")
    convert(weights=caffemodel, output=str(output), profile="caffe", width=_WIDTH)
    AlexNet(_PROFILE, classes=_CLASSES, weights=str(output))


@pytest.mark.slow
def test_the_command_prints_its_figures(tmp_path, caffemodel):
    output = str(tmp_path / "out.weights.h5")
    command = [sys.executable, "-m", "keras_alexnet.convert", f"--weights={caffemodel}"]
    command += [f"--output={output}", f"--width={_WIDTH}", f"--classes={_CLASSES}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["profile"] == "caffe"  # found from the order of the layers
    assert figures["output"] == output
    assert os.path.isfile(figures["report"])
    assert "16 tensors of" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_profile_of_ones_own_says_its_colours(tmp_path, weights):
    """A caffemodel of another network: the fields decide, not a name."""
    profile = dataclasses.replace(
        PROFILES["krizhevsky2012"].scaled(_WIDTH), name="mine", colour_order="BGR"
    )
    path = tmp_path / "net.caffemodel"
    path.write_bytes(foreign_files.caffemodel(weights, profile, only_weights=True))
    output = str(tmp_path / "out.weights.h5")
    figures = convert(weights=str(path), output=output, profile=profile)
    assert figures["profile"] == "mine"
    np.testing.assert_array_equal(
        AlexNet(profile, classes=_CLASSES, weights=output).get_layer("conv1").get_weights()[0],
        weights["conv1/kernel"],
    )


def test_the_order_of_the_layers_must_be_the_profiles(tmp_path, caffemodel):
    text = _refusal(tmp_path, caffemodel, profile="caffenet")
    assert text.endswith(
        "must hold the network caffenet; conv1 must be followed by relu, pool, lrn and is followed "
        "by relu, lrn, pool in 'AlexNet'; at width 0.125 its layers fit caffe"
    )


def test_colours_must_be_those_of_the_format(tmp_path, caffemodel):
    text = _refusal(tmp_path, caffemodel, profile="paper")
    assert "conv1 sees BGR in files of this format, and the profile paper reads RGB" in text


def test_an_ungrouped_kernel_is_named(tmp_path, weights):
    weights = foreign_files.random_weights(PROFILES["seed"].scaled(_WIDTH), _CLASSES)
    path = _npy(tmp_path, foreign_files.dictionary(weights))
    text = _refusal(tmp_path, path, profile="caffe")
    assert (
        "conv2/weights must be [5, 5, 8, 32] and is [5, 5, 16, 32]; "
        "at width 0.125 its layers fit no profile"
    ) in text
    assert text == _refusal(tmp_path, path)  # the closest profile is named without --profile too


def test_another_width_is_named(tmp_path, caffemodel):
    text = _refusal(tmp_path, caffemodel, profile="caffe", width=1.0)
    assert (
        "conv1.blobs[0] must be [96, 3, 11, 11] and is [16, 3, 11, 11]; "
        "at width 1 its layers fit no profile"
    ) in text


def test_other_classes_are_named(tmp_path, caffemodel):
    text = _refusal(tmp_path, caffemodel, profile="caffe", classes=11)
    assert "fc8.blobs[0] must be [11, 512] and is [10, 512]" in text


def test_a_missing_tensor_is_named(tmp_path, weights):
    dictionary = foreign_files.dictionary(weights)
    dictionary["fc8_flickr"] = dictionary.pop("fc8")
    del dictionary["conv4"]
    text = _refusal(tmp_path, _npy(tmp_path, dictionary), profile="caffe")
    assert "conv4/weights [3, 3, 24, 48] is missing, there are: 'conv1/weights', 'conv1/" in text
    dictionary = {}
    text = _refusal(tmp_path, _npy(tmp_path, dictionary), profile="caffe")
    assert "conv1/weights [11, 11, 3, 16] is missing, there are: no tensors" in text


def test_tensors_of_other_layers_are_named(tmp_path, weights):
    dictionary = foreign_files.dictionary(weights)
    dictionary["conv6"] = dictionary["conv5"]
    text = _refusal(tmp_path, _npy(tmp_path, dictionary), profile="caffe")
    assert "it has tensors of no layer of that network: 'conv6/weights', 'conv6/biases'" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_must_be_finite_float32(tmp_path, weights, value):
    dictionary = foreign_files.dictionary(weights)
    bias = dictionary["fc7"][1].astype(np.float64)
    bias[[3, 5]] = value
    dictionary["fc7"][1] = bias
    text = _refusal(tmp_path, _npy(tmp_path, dictionary), profile="caffe")
    assert "fc7/biases must hold finite float32 numbers; 2 of its 512 are not" in text


def test_other_logits_than_before_are_refused(tmp_path, weights):
    """In float32 the squares of these activations are infinite, in float64 they are not."""
    wild = {**weights, "conv1/kernel": weights["conv1/kernel"] * np.float32(1e20)}
    text = _refusal(tmp_path, _npy(tmp_path, foreign_files.dictionary(wild)), profile="caffe")
    assert "the same logits before and after are needed, to 0.0001 of the largest; they" in text


def test_logits_that_are_no_numbers_are_refused(tmp_path, weights):
    wild = {name: value * np.float32(1e37) for name, value in weights.items()}
    text = _refusal(tmp_path, _npy(tmp_path, foreign_files.dictionary(wild)), profile="caffe")
    assert "the same logits before and after are needed" in text


@pytest.mark.parametrize("output", ["out.h5", ".weights.h5", "out"])
def test_the_outputs_name_must_be_keras(tmp_path, caffemodel, output):
    text = _refusal(tmp_path, caffemodel, output=str(tmp_path / output))
    assert "output must be NAME.weights.h5, which Keras requires; it is" in text


def test_there_must_be_a_file(tmp_path):
    text = _refusal(tmp_path, str(tmp_path))
    assert f"a file of weights is needed; {tmp_path} is none" in text


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "net.npy"
    with open(path, "wb") as file:
        file.truncate(LARGEST_FILE + 1)  # sparse: takes no disk
    text = _refusal(tmp_path, str(path))
    assert "a file of at most 2147483647 bytes is needed;" in text


def test_the_format_is_told_by_bytes_first_then_by_name(tmp_path, weights):
    npy = _npy(tmp_path, foreign_files.dictionary(weights))
    renamed = tmp_path / "weights.caffemodel"
    os.rename(npy, renamed)
    assert recognition.recognize(str(renamed), "auto")[0] == "npy"
    assert recognition.recognize(str(renamed), "torch")[0] == "torch"
    renamed.write_bytes(foreign_files.bytes_field(1, b"AlexNet"))
    assert recognition.recognize(str(renamed), "auto")[0] == "caffemodel"
    unknown = tmp_path / "weights.bin"
    unknown.write_bytes(b"?")
    text = _refusal(tmp_path, str(unknown))
    assert "bytes of " in text
    assert text.endswith("say which it is; state the format: caffemodel, torch, npy")


def test_names_in_a_file_are_no_paths(tmp_path):
    blob = foreign_files.blob(np.ones(1))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(foreign_files.layer("../../escape\x1b[31m\n", "Convolution", [blob]))
    text = _refusal(tmp_path, str(path), profile="caffe")
    assert "is missing, there are: '../../escape\\x1b[31m\\n.blobs[0]'" in text


@pytest.mark.slow
def test_a_mixed_precision_policy_does_not_matter(tmp_path, caffemodel):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    output = str(tmp_path / "out.weights.h5")
    figures = convert(weights=caffemodel, output=output, profile="caffe", width=_WIDTH)
    assert figures["relative_difference"] < 1e-4
    assert keras.mixed_precision.global_policy().name == "mixed_bfloat16"

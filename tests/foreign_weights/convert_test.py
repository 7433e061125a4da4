import dataclasses
import hashlib
import json
import os

import commands
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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def weights():
    return foreign_files.random_weights(_PROFILE, _CLASSES)


@pytest.fixture(scope="module")
def caffemodel(tmp_path_factory, weights):
    path = tmp_path_factory.mktemp("caffe") / "net.caffemodel"
    path.write_bytes(foreign_files.caffemodel(weights, _PROFILE))
    return path


@pytest.fixture(scope="module")
def converted(caffemodel, tmp_path_factory):
    """Return convert's figures for the caffemodel, and the folder that it made."""
    folder = tmp_path_factory.mktemp("converted") / "new"
    output = str(folder / "out.weights.h5")
    return convert(weights=str(caffemodel), output=output, profile="caffe", width=_WIDTH), folder


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


def _require_same(model, weights):
    for name, value in weights.items():
        layer, kind = name.split("/")
        read = model.get_layer(layer).get_weights()[kind == "bias"]
        np.testing.assert_array_equal(read, value)


def test_alexnet_loads_the_result(converted, weights):
    figures, folder = converted
    assert figures["format"] == "caffemodel"
    assert figures["classes"] == _CLASSES
    assert figures["tensors"] == 16
    assert figures["parameters"] == sum(value.size for value in weights.values())
    assert 0 < figures["relative_difference"] < figures["tolerance"] == 1e-4
    _require_same(AlexNet(_PROFILE, classes=_CLASSES, weights=figures["output"]), weights)
    assert sorted(os.listdir(folder)) == ["out.report.json", "out.weights.h5"]


def test_the_report_has_shapes_and_hashes(converted, caffemodel, weights):
    _, folder = converted
    report = json.loads((folder / "out.report.json").read_text())
    content = caffemodel.read_bytes()
    assert report["source"] == {
        "file": "net.caffemodel",
        "bytes": len(content),
        "sha256": _sha256(content),
        "format": "caffemodel",
        "title": "AlexNet",
        "left_out": [],
    }
    output = (folder / "out.weights.h5").read_bytes()
    assert report["output"] == {"file": "out.weights.h5", "sha256": _sha256(output)}
    assert report["profile"]["name"] == "caffe"
    assert report["profile"]["colour_order"] == "BGR"
    assert report["logits"]["within_tolerance"] is True
    source = foreign_files.maps_first(weights, bgr=True)
    assert [line["name"] for line in report["tensors"]] == list(weights)
    for line in report["tensors"]:
        name = line["name"]
        assert line["shape"] == list(weights[name].shape)
        assert line["sha256"] == _sha256(weights[name].tobytes())
        assert line["source_shape"] == list(source[name].shape)
        assert line["source_sha256"] == _sha256(source[name].tobytes())
    assert report["tensors"][2]["source"] == "conv2.blobs[0]"


@pytest.mark.slow
def test_the_same_bytes_whatever_was_there_and_whatever_the_precision(
    tmp_path, converted, caffemodel
):
    (tmp_path / "out.weights.h5").write_bytes(b"old")
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    output = str(tmp_path / "out.weights.h5")
    convert(weights=str(caffemodel), output=output, profile="caffe", width=_WIDTH)
    assert keras.mixed_precision.global_policy().name == "mixed_bfloat16"
    for name in ("out.weights.h5", "out.report.json"):
        assert (tmp_path / name).read_bytes() == (converted[1] / name).read_bytes()


@pytest.mark.slow
def test_the_command_prints_its_figures(tmp_path, weights):
    path = _npy(tmp_path, foreign_files.dictionary(weights))
    output = str(tmp_path / "out.weights.h5")
    done = commands.in_process(
        "keras_alexnet.convert",
        *(f"--weights={path}", f"--output={output}", "--profile=caffe"),
        *(f"--width={_WIDTH}", f"--classes={_CLASSES}"),
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["format"], figures["output"]) == ("npy", output)
    assert os.path.isfile(figures["report"])
    assert "16 tensors of" in done.stderr.splitlines()[-1]
    _require_same(AlexNet(_PROFILE, classes=_CLASSES, weights=output), weights)


@pytest.mark.slow
def test_a_profile_of_ones_own_says_its_colours(tmp_path, weights):
    """A caffemodel of another network: the fields decide, not a name."""
    profile = dataclasses.replace(
        PROFILES["krizhevsky2012"].scaled(_WIDTH), name="mine", colour_order="BGR"
    )
    path = tmp_path / "net.caffemodel"
    path.write_bytes(foreign_files.caffemodel(weights, profile, only_weights=True))
    output = str(tmp_path / "out.weights.h5")
    assert convert(weights=str(path), output=output, profile=profile)["profile"] == "mine"
    _require_same(AlexNet(profile, classes=_CLASSES, weights=output), weights)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"profile": "caffenet"},
            "must hold the network caffenet; conv1 must be followed by relu, pool, lrn and is "
            "followed by relu, lrn, pool in 'AlexNet'; at width 0.125 its layers fit caffe",
        ),
        (
            {"profile": "paper"},
            "conv1 sees BGR in files of this format, and the profile paper reads RGB",
        ),
        ({"classes": 11}, "fc8.blobs[0] must be [11, 512] and is [10, 512]"),
        ({"output": "out.h5"}, "output must be NAME.weights.h5, which Keras requires; it is out"),
        ({"output": "a/.weights.h5"}, "output must be NAME.weights.h5"),
    ],
)
def test_another_request_is_refused(tmp_path, caffemodel, options, text):
    assert text in _refusal(tmp_path, str(caffemodel), **options)


def _with_bias(value):
    bias = np.zeros(512)
    bias[[3, 5]] = value
    text = "fc7/biases must hold finite float32 numbers; 2 of its 512 are not"
    return {"fc7": lambda pair: [pair[0], bias]}, text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"conv4": lambda pair: {}},
            "conv4/weights [3, 3, 24, 48] is missing, there are: 'conv1/weights', 'conv1/biases'",
        ),
        (
            {"conv6": lambda _: [np.ones(1)] * 2},
            "it has tensors of no layer of that network: 'conv6/weights', 'conv6/biases'",
        ),
        *map(_with_bias, (np.nan, np.inf, 1e300)),
    ],
)
def test_a_dictionary_of_another_network_is_refused(tmp_path, weights, changes, text):
    dictionary = foreign_files.dictionary(weights)
    for layer, change in changes.items():
        dictionary[layer] = change(dictionary.get(layer))
    assert text in _refusal(tmp_path, _npy(tmp_path, dictionary), profile="caffe")


def test_the_closest_profile_is_named(tmp_path):
    weights = foreign_files.random_weights(PROFILES["seed"].scaled(_WIDTH), _CLASSES)
    path = _npy(tmp_path, foreign_files.dictionary(weights))
    text = _refusal(tmp_path, path, profile="caffe")
    assert text.endswith(
        "conv2/weights must be [5, 5, 8, 32] and is [5, 5, 16, 32]; "
        "at width 0.125 its layers fit no profile"
    )
    assert text == _refusal(tmp_path, path)


# In float32 the squares of the first's activations are infinite, in float64 they are not.
@pytest.mark.parametrize(("factor", "names"), [(1e20, ["conv1/kernel"]), (1e37, None)])
def test_other_logits_than_before_are_refused(tmp_path, weights, factor, names):
    wild = {name: weights[name] * np.float32(factor) for name in names or weights}
    path = _npy(tmp_path, foreign_files.dictionary(weights | wild))
    text = _refusal(tmp_path, path, profile="caffe")
    assert "the same logits before and after are needed, to 0.0001 of the largest; they" in text


def test_there_must_be_a_file_and_no_larger_than_any_network(tmp_path):
    assert f"a file of weights is needed; {tmp_path} is none" in _refusal(tmp_path, str(tmp_path))
    path = tmp_path / "net.npy"
    with open(path, "wb") as file:
        file.truncate(LARGEST_FILE + 1)  # sparse: takes no disk
    assert "a file of at most 2147483647 bytes is needed;" in _refusal(tmp_path, str(path))


@pytest.mark.parametrize(
    ("name", "content", "asked", "found"),
    [
        ("weights.caffemodel", foreign_files.npy_header(), "auto", "npy"),
        ("weights.caffemodel", foreign_files.npy_header(), "torch", "torch"),
        ("weights.caffemodel", foreign_files.bytes_field(1, b"AlexNet"), "auto", "caffemodel"),
        ("weights.bin", b"?", "auto", None),
    ],
)
def test_the_format_is_known_by_bytes_first_then_by_name(tmp_path, name, content, asked, found):
    (tmp_path / name).write_bytes(content)
    path = str(tmp_path / name)
    if found:
        assert recognition.recognize(path, asked) == (found, _sha256(content))
    else:
        text = _refusal(tmp_path, path)
        assert text.endswith("say which it is; state the format: caffemodel, torch, npy")

import io
import os
import pickle
import re
import tracemalloc

import foreign_files
import numpy as np
import pytest

from keras_alexnet.foreign_weights import npy_dictionary, recognition
from keras_alexnet.network.profiles import PROFILES

_PROFILE = PROFILES["caffe"].scaled(0.01)
_CLASSES = 7


@pytest.fixture(scope="module")
def weights():
    return foreign_files.random_weights(_PROFILE, _CLASSES)


def _read(tmp_path, content: bytes):
    path = tmp_path / "net.npy"
    path.write_bytes(content)
    return npy_dictionary.read(str(path))


def _refusal(tmp_path, pickled: bytes, header: bytes | None = None) -> str:
    with pytest.raises(ValueError, match=r"needed|must|does not|sees") as caught:
        _read(tmp_path, (foreign_files.npy_header() if header is None else header) + pickled)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _python2(dictionary) -> bytes:
    return foreign_files.npy_header() + foreign_files.Python2Pickle().dump(dictionary)


def _require_equal(network, dictionary):
    assert len(network.tensors) == 2 * len(dictionary)
    for layer, entry in dictionary.items():
        pair = entry.values() if isinstance(entry, dict) else entry
        for kind, array in zip(("weights", "biases"), pair, strict=True):
            read = network.tensors[f"{layer}/{kind}"]
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5, None])
def test_reads_what_numpy_saves(tmp_path, weights, protocol, named):
    dictionary = foreign_files.dictionary(weights, named=named)
    assert dictionary["fc8"]["weights" if named else 0].flags.f_contiguous
    if protocol:
        content = foreign_files.npy(dictionary, protocol)
    else:
        file = io.BytesIO()
        np.save(file, dictionary)
        content = file.getvalue()
    network = _read(tmp_path, content)
    _require_equal(network, dictionary)
    assert network.names["conv1/kernel"] == "conv1/weights"
    assert network.layout.conv == "hwio"


@pytest.mark.parametrize("named", [False, True])
def test_reads_what_python_2_wrote(tmp_path, weights, named):
    dictionary = foreign_files.dictionary(weights, named=named)
    dictionary["fc7"] = list(dictionary["fc7"].values() if named else dictionary["fc7"])
    content = _python2(dictionary)
    # The writer is right: NumPy reads it as users of the real file are told to.
    loaded = np.load(io.BytesIO(content), allow_pickle=True, encoding="latin1").item()
    np.testing.assert_array_equal(loaded["fc7"][0], dictionary["fc7"][0])
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    _require_equal(_read(tmp_path, content), dictionary)


@pytest.mark.parametrize("old", [True, False])
def test_reads_the_names_of_both_generations_of_numpy(tmp_path, weights, old):
    dictionary = foreign_files.dictionary(weights)
    content = foreign_files.npy(dictionary, 2)
    wanted = b"cnumpy.core.multiarray\n" if old else b"cnumpy._core.multiarray\n"
    content = re.sub(rb"cnumpy\._?core\.multiarray\n", wanted, content)
    assert wanted in content
    _require_equal(_read(tmp_path, content), dictionary)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_reads_other_floats_and_the_other_byte_order(tmp_path, dtype):
    dictionary = {"fc8": [np.arange(6, dtype=dtype).reshape(2, 3), np.ones(3, dtype)]}
    _require_equal(_read(tmp_path, foreign_files.npy(dictionary, 4)), dictionary)
    _require_equal(_read(tmp_path, _python2(dictionary)), dictionary)


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ([1], "a dictionary, layer -> .* is needed; the file's object is list"),
        ({3: [1, 2]}, "the file's object is dict, or has keys that are no text"),
        ({"conv1": 5}, "'conv1' is int"),
        ({"conv1": [1, 2, 3]}, "'conv1' is list"),
        ({"conv1": [1, 2]}, "'conv1/weights' must be an array; it is int"),
        ({"conv1": {"mean": None}}, "'conv1/mean' must be an array; it is NoneType"),
        ({"conv1": [np.ones(2, int)] * 2}, "'conv1/weights' must be an array of .* dtype is 'i8'"),
        ({"conv1": [np.array([None])] * 2}, r"dtype is 'O8', its shape \[1\], and it holds 0"),
    ],
)
def test_other_objects_are_refused(tmp_path, held, text):
    assert re.search(text, _refusal(tmp_path, b"", foreign_files.npy(held, 4)))


def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "was_run"

    class Exploit:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    text = _refusal(tmp_path, pickle.dumps({"conv1": Exploit()}))
    assert re.search(r"it names '(posix|nt)\.system'; nothing that it names was run", text)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04 and more",
        foreign_files.npy_header("<f4"),
        foreign_files.npy_header(shape="(2,)"),
        b"\x93NUMPY\x07\x00" + foreign_files.npy_header()[8:],
        b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\x7f" + b"{}",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    text = _refusal(tmp_path, b"", content)
    assert "an .npy file of one object, a dictionary of layers, is needed; it" in text


@pytest.mark.slow
def test_300_damaged_files_end_well_or_in_a_value_error(tmp_path, weights):
    def attempt(path):
        network = npy_dictionary.read(path)
        recognition.choose_profile(network, "caffe", "npy", 0.01, _CLASSES, "FILE")

    dictionary = foreign_files.dictionary(weights)
    contents = [_python2(dictionary), foreign_files.npy(dictionary, 4)]
    texts = []
    tracemalloc.start()
    for content in contents:
        texts += foreign_files.refusals(content, 150, str(tmp_path / "damaged.npy"), attempt)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 100 < len(texts) < 300
    assert not any("\n" in text for text in texts)
    assert peak < 20 * max(map(len, contents)) + 2**22

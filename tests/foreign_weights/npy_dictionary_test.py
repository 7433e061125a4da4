import io
import os
import pickle
import re
import struct
import tracemalloc

import foreign_files
import numpy as np
import pytest

from data_prep.command_line import UserError
from keras_alexnet.foreign_weights import npy_dictionary, pickle_opcodes, recognition
from keras_alexnet.network.profiles import PROFILES

_PROFILE = PROFILES["caffe"].scaled(0.01)
_CLASSES = 7
_DAMAGED = r"a whole pickle is needed; it is damaged behind byte \d+; get it again"


@pytest.fixture(scope="module")
def weights():
    return foreign_files.random_weights(_PROFILE, _CLASSES)


def _read(tmp_path, content: bytes):
    path = tmp_path / "net.npy"
    path.write_bytes(content)
    return npy_dictionary.read(str(path))


def _refusal(tmp_path, pickled: bytes, header: bytes | None = None) -> str:
    with pytest.raises(UserError) as caught:
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
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_numpy_saves(tmp_path, weights, protocol, named):
    dictionary = foreign_files.dictionary(weights, named=named)
    assert dictionary["fc8"]["weights" if named else 0].flags.f_contiguous
    network = _read(tmp_path, foreign_files.npy(dictionary, protocol))
    _require_equal(network, dictionary)
    assert network.names["conv1/kernel"] == "conv1/weights"
    assert network.layout.conv == "hwio"


def test_reads_np_save_itself(tmp_path, weights):
    dictionary = foreign_files.dictionary(weights)
    file = io.BytesIO()
    np.save(file, dictionary)
    _require_equal(_read(tmp_path, file.getvalue()), dictionary)


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


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path, protocol):
    marker = tmp_path / "was_run"

    class Exploit:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    text = _refusal(tmp_path, pickle.dumps({"conv1": Exploit()}, protocol))
    assert re.search(r"(GLOBAL|DICT|STACK_GLOBAL|EMPTY_DICT|MARK|PUT) at byte \d+", text)
    if protocol >= 2:
        assert re.search(r"GLOBAL at byte \d+ names '(posix|nt)\.system'; it is not carried", text)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("pickled", "text"),
    [
        (b"\x80\x02cbuiltins\neval\n.", r"GLOBAL at byte 82 names 'builtins.eval'; it is not"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"STACK_GLOBAL at byte 94 names 'os.system'"),
        (b"\x80\x02I1\n.", r"INT at byte 82 is none that such a pickle needs"),
        (b"\x80\x02Q.", r"BINPERSID at byte 82 is none that such a pickle needs"),
        (b"\x80\x02\x81.", r"NEWOBJ at byte 82 is none that such a pickle needs"),
        (b"\x80\x02K\x01K\x02R.", r"REDUCE at byte 86 calls what a dictionary of arrays does"),
        (b"\x80\x02cnumpy\ndtype\n).", r"STOP at byte 96 is not the end of one object"),
        (b"\x80\x02cnumpy\ndtype\n)R.", r"REDUCE at byte 96 calls what a dictionary of arrays"),
        (b"\x80\x02cnumpy\ndtype\nK\x01K\x00K\x01\x87R.", r"REDUCE .* has int where a text"),
        (b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R."
         , r"REDUCE .* writes bytes as text that is not latin-1"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.", r"REDUCE .*"),
        (b"\x80\x02cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01?tb.", r"BUILD .* has a state"),
        (b"\x80\x02}K\x01b.", r"BUILD .* needs PickledArray or PickledDtype on the stack"),
        (b"\x80\x02}K\x01K\x02s.", r"SETITEM .* has int where a text is needed"),
        (b"\x80\x02}(K\x01u.", r"SETITEMS .* has a key without a value"),
        (b"\x80\x02K\x01(K\x01e.", r"APPENDS .* needs list on the stack"),
        (b"\x80\x02h\x05.", r"BINGET at byte 82 recalls a value that was never kept"),
        (b"\x80\x02q\x05.", r"BINPUT at byte 82 needs object on the stack"),
        (b"\x80\x02t.", r"TUPLE at byte 82 takes a value that is not there"),
        (b"\x80\x02}.}", r"STOP at byte 83 is not the end of one object"),
        (b"\x80\x02}", r"a whole pickle is needed; it is damaged behind byte 82"),
        (b"\x80\x02T\xff\xff\xff\x7fabc.", _DAMAGED),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x3f.", _DAMAGED),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", _DAMAGED),
        (b"\x80\x02c" + b"a" * 5000 + b"\n\n.", _DAMAGED),
    ],
)  # fmt: skip
def test_what_no_dictionary_of_arrays_needs_is_refused_by_name(tmp_path, pickled, text):
    assert re.search(text, _refusal(tmp_path, pickled, foreign_files.npy_header()[:6] + _HEADER))


# 80 bytes with the magic, so that offsets are easy to count.
_TEXT = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
_HEADER = b"\x01\x00" + struct.pack("<H", 70) + _TEXT + b" " * (69 - len(_TEXT)) + b"\n"


def test_a_pickle_of_too_many_operations_is_refused(tmp_path):
    pickled = b"\x80\x02" + b"]" * pickle_opcodes.MOST_OPCODES + b"."
    assert "far fewer than 100000 pickle operations" in _refusal(tmp_path, pickled)


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ([1], "a dictionary, layer -> .* is needed; the file's object is list"),
        (3, "the file's object is int"),
        ({"conv1": 5}, r"each layer must be \[weights, biases\] or .*; 'conv1' is int"),
        ({"conv1": [1, 2, 3]}, r"each layer must be .*; 'conv1' is list"),
        ({"conv1": [1, 2]}, "'conv1/weights' must be an array; it is int"),
        ({"conv1": {"mean": None}}, "'conv1/mean' must be an array; it is NoneType"),
        ({"conv1": [np.ones(2, int)] * 2}, r"'conv1/weights' must be .* floating .* dtype is 'i8'"),
        (
            {"conv1": [np.array([None])] * 2},
            r"dtype is 'O8', its shape \[1\], and it holds 0",
        ),
    ],
)
def test_other_objects_are_refused(tmp_path, held, text):
    file = io.BytesIO()
    array = np.empty((), dtype=object)
    array[()] = held
    np.save(file, array)
    assert re.search(text, _refusal(tmp_path, b"", file.getvalue()))


@pytest.mark.parametrize("shape", [(2**31 - 1, 2**31 - 1), (4,), (5, -1), (2, 3)])
def test_a_shape_is_never_believed(tmp_path, shape):
    good = _python2({"fc8": [np.ones(5, np.float32), np.ones(5, np.float32)]})
    sizes = b"".join(b"J" + struct.pack("<i", size) for size in shape)
    damaged = good.replace(b"(K\x05t", b"(" + sizes + b"t", 1)
    assert damaged != good
    text = _refusal(tmp_path, b"", damaged)
    assert f"its shape {list(shape)}, and it holds 20 bytes" in text


def test_a_shape_that_is_none_is_refused(tmp_path):
    good = _python2({"fc8": [np.ones(5, np.float32)] * 2})
    assert "its shape no shape" in _refusal(tmp_path, b"", good.replace(b"(K\x05t", b"(Nt", 1))


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
def test_300_damaged_files_end_well_or_in_a_user_error(tmp_path, weights):
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

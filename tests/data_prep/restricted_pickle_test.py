import io
import os
import pickle
import re
import tracemalloc

import numpy as np
import pytest

from data_prep import restricted_pickle

_DTYPE = b"cnumpy\ndtype\n"
_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def _load(pickled: bytes) -> object:
    return restricted_pickle.load(io.BytesIO(pickled), len(pickled), "FILE")


def _refusal(pickled: bytes) -> str:
    with pytest.raises(ValueError, match=r"^FILE: ") as caught:
        _load(pickled)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_in_plain_containers_are_read(protocol):
    """Pickle as in a batch of CIFAR-10, with numbers and texts beside the array."""
    data = np.arange(6, dtype=np.uint8).reshape(2, 3)
    loaded = _load(
        pickle.dumps({"data": data, "labels": [1, 2.5, None], b"x": ("a", b"b")}, protocol)
    )
    array = loaded["data"].to_numpy(("u1",), "FILE")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, data)
    assert loaded["labels"] == [1, 2.5, None]
    assert loaded[b"x"] == ("a", b"b")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("call", [os.system, eval, print, np.load, getattr, pickle.loads])
def test_a_call_is_refused_and_not_made(protocol, call, tmp_path):
    marker = tmp_path / "was_run"

    class Exploit:
        def __reduce__(self):
            return call, (f"touch {marker}",)

    text = _refusal(pickle.dumps([Exploit()], protocol))
    assert re.search(rf"it names '[\w.]+\.{call.__name__}'; nothing that it names was run", text)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("pickled", "text"),
    [
        (b"\x80\x04\x8c\x05numpy\x8c\x12dtype.__setstate__\x93.", "names 'numpy.dtype.__sets"),
        (b"(ios\nsystem\n.", "names 'os.system'"),
        (b"\x80\x02K\x01Q.", "persistent"),
        (b"\x80\x02\x82\x01.", "damaged"),  # copyreg's registry
        (b"\x80\x05\x97.", "buffer"),
        (b"\x80\x02K\x01K\x02R.", "damaged"),
        # A state for the stand-ins themselves, which would outlive the file.
        (b"\x80\x02" + _DTYPE + b"}U\x01a" + b"K\x01sb.", "damaged"),
        (b"\x80\x02" + _DTYPE + b"N}U\x0a__doc__abcK\x01s\x86b.", "damaged"),
        (b"\x80\x02c_codecs\nencode\n}b.", "damaged"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.", "latin1"),
        (b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R."
         , "UnicodeEncodeError"),
        (b"\x80\x02}].}", "damaged behind byte 5"),
        (b"\x80\x02}", "damaged behind byte 2"),
        (b"\x80\x02K\x01h\x05.", "Memo value not found"),
        (b"\x80\x02T\xff\xff\xff\x7fabc.", "damaged behind byte 0"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x3f.", "damaged behind byte 0"),
        (b"\x80\x02c" + b"a" * 5000 + b"\n\n.", "damaged behind byte 0"),
    ],
)  # fmt: skip
def test_other_pickles_are_refused(pickled, text):
    assert text in _refusal(pickled)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02" + b"]" * restricted_pickle.MOST_OPERATIONS + b".",
        b"\x80\x02]r\xff\xff\xff\x0f.",  # CPython allocates its memo by the largest index
        b"]p999999\n.",
    ],
)
def test_a_bomb_is_refused_before_it_allocates(pickled):
    tracemalloc.start()
    try:
        assert "at most 100000 operations is needed" in _refusal(pickled)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def _array(state: bytes) -> restricted_pickle.Array:
    return _load(b"\x80\x02" + _ARRAY + b"(K\x01" + state + b"tb.")


def _dtype(name: bytes, flags: int = 0) -> bytes:
    return (
        _DTYPE + b"U" + bytes([len(name)]) + name + b"K\x00K\x01\x87R(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([flags]) + b"tb"
    )


@pytest.mark.parametrize(
    ("state", "text"),
    [
        # A dtype of objects whose flags deny it: NumPy would take these bytes for pointers.
        (b"K\x01\x85" + _dtype(b"O8") + b"\x89U\x08AAAAAAAA", r"dtype is 'O8', .* \[1\]"),
        (b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86" + _dtype(b"O8", 63) + b"\x89]", "holds 0 bytes"),
        (b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86" + _dtype(b"f4") + b"\x89U\x04AAAA", "holds 4"),
        (b"J\xff\xff\xff\xff\x85" + _dtype(b"f4") + b"\x89U\x04AAAA", r"shape \[-1\]"),
        (b"K\x00\x85" + _dtype(b"f4") + b"\x89U\x00", r"shape \[0\]"),
        (b"]\x85" + _dtype(b"f4") + b"\x89U\x04AAAA", "shape none"),
        (b"N" + _dtype(b"f4") + b"\x89U\x04AAAA", "shape none"),
        (b"K\x01\x85N\x89U\x04AAAA", "dtype is ''"),
        (b"K\x01\x85" + _dtype(b"i4") + b"\x89U\x04AAAA", "dtype is 'i4'"),
        (b"K\x01\x85" + _dtype(b"f4") + b"\x89K\x07", "holds 0 bytes"),
    ],
)  # fmt: skip
def test_the_description_of_an_array_is_not_believed(state, text):
    with pytest.raises(ValueError, match=f"^a tensor must be an array of f4, f8 .*{text}"):
        _array(state).to_numpy(("f4", "f8"), "a tensor")


def test_a_described_array_is_read():
    array = _array(b"K\x01\x85" + _dtype(b"f4") + b"\x89U\x04\x00\x00\x80?")
    assert array.to_numpy(("f4",), "a tensor").tolist() == [1.0]

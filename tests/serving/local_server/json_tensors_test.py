"""The cases are those of TF Serving's own json_tensor_test.cc, with what our limits add."""

import base64
import json
import math

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.serving.local_server import json_tensors
from keras_alexnet.serving.local_server.errors import RequestError

INT, FLOAT, DOUBLE = ({"x": dtype} for dtype in (tf.int32, tf.float32, tf.float64))
TEXT, PIXELS = ({"x": dtype} for dtype in (tf.string, tf.uint8))
BOTH = {"ints": tf.int32, "texts": tf.string}


def tensors(body, dtypes):
    return json_tensors.to_tensors(json_tensors.parse(body.encode()), dtypes)


def is_right(array, expected, dtype):
    np.testing.assert_array_equal(array, np.array(expected, dtype), strict=True)


def test_rows_of_one_input():
    for row in ("[1, 2]", '{"x": [1, 2]}'):
        inputs, as_rows = tensors(f'{{"instances": [{row}, {row}, {row}]}}', INT)
        assert as_rows
        is_right(inputs["x"], [[1, 2]] * 3, np.int32)


def test_rows_of_several_inputs():
    inputs, as_rows = tensors(
        """{"instances": [{"ints": [[1, 2]], "texts": ["a", {"b64": "YsO8"}]},
                          {"texts": ["", "\\u00fc"], "ints": [[3, 4]]}]}""",
        BOTH,
    )
    assert as_rows
    is_right(inputs["ints"], [[[1, 2]], [[3, 4]]], np.int32)
    is_right(inputs["texts"], [[b"a", "bü".encode()], [b"", "ü".encode()]], object)


def test_columns():
    for value in ("[[[1, 2]]]", '{"x": [[[1, 2]]], "y": "is not looked at"}'):
        inputs, as_rows = tensors(f'{{"inputs": {value}}}', INT)
        assert not as_rows
        is_right(inputs["x"], [[[1, 2]]], np.int32)
    inputs, _ = tensors('{"inputs": [true, false]}', {"x": tf.bool})
    is_right(inputs["x"], [True, False], bool)
    inputs, _ = tensors('{"inputs": {"ints": [], "texts": {"b64": "aGVsbG8="}}}', BOTH)
    is_right(inputs["ints"], [], np.int32)
    is_right(inputs["texts"], b"hello", object)


def test_whole_and_other_numbers_for_a_decimal_tensor():
    for dtypes, dtype in ((FLOAT, np.float32), (DOUBLE, np.float64)):
        inputs, _ = tensors('{"instances": [1, 2.0, 5.003, -0.007, 1e30]}', dtypes)
        is_right(inputs["x"], [1, 2, 5.003, -0.007, 1e30], dtype)
        inputs, _ = tensors('{"inputs": [NaN, Infinity, -Infinity]}', dtypes)
        is_right(inputs["x"], [math.nan, math.inf, -math.inf], dtype)


def test_base64():
    """The padding is all there or missing; white space and a byte order mark do not count."""
    for text in ("aGVsbG8=", "aGVsbG8", " aGVs\\n\\tbG8 = "):
        inputs, _ = tensors(f'\ufeff{{"instances": [{{"b64": "{text}"}}]}}', TEXT)
        is_right(inputs["x"], [b"hello"], object)


@pytest.mark.parametrize(
    ("dtypes", "value", "field"),
    [
        (TEXT, '{"b64": "a"}', "base64"),
        (TEXT, '{"b64": "aGVsbG8=="}', "base64"),
        (TEXT, '{"b64": "YQ="}', "base64"),
        (TEXT, '{"b64": "a-_b"}', "base64"),
        (TEXT, '{"b64": "YWJj\\u00fc"}', "base64"),
        (TEXT, '{"b64": 3}', '{"b64": 3}'),
        (TEXT, '{"b64": "YQ==", "x": 1}', "base64"),
        (TEXT, "null", "null"),
        (TEXT, "3", "3"),
        (TEXT, '"\\ud800"', "ud800"),
        (INT, "1.0", "int32"),
        (INT, "2147483648", "2147483648"),
        (INT, "true", "int32"),
        (INT, '"1"', "int32"),
        (PIXELS, "256", "uint8"),
        (PIXELS, "-1", "uint8"),
        (FLOAT, "false", "float32"),
        (DOUBLE, "1" + "0" * 400, "too large"),
        ({"x": tf.bool}, "1", "bool"),
    ],
)
def test_values_that_do_not_fit(dtypes, value, field):
    with pytest.raises(RequestError) as error:
        tensors(f'{{"inputs": [{value}]}}', dtypes)
    assert error.value.code == "INVALID_ARGUMENT"
    assert field in str(error.value)


def test_floats_are_rounded_as_tensorflow_serving_does():
    inputs, _ = tensors('{"inputs": [2147483647, 16777217, 3.4028235e38, 1e39]}', FLOAT)
    is_right(inputs["x"], [2147483648, 16777216, 3.4028235e38, math.inf], np.float32)


@pytest.mark.parametrize(
    ("body", "dtypes", "field"),
    [
        ("{}", INT, "instances"),
        ('{"instances": [1], "inputs": [1]}', INT, "instances"),
        ('{"instances": 5}', INT, "instances"),
        ('{"instances": [[1, 2], [3]]}', INT, "[3]"),
        ('{"instances": [[[1], 2]]}', INT, "level 2"),
        ('{"instances": [[[], 1]]}', INT, "level"),
        ('{"instances": [1]}', BOTH, "object"),
        ('{"instances": [{"b64": "YQ=="}]}', BOTH, "'ints', 'texts'"),
        ('{"instances": [{"ints": 1, "texts": "a"}, [1]]}', BOTH, "item 1"),
        ('{"instances": [["a"], {"x": ["a"]}]}', TEXT, "item 1"),
        ('{"inputs": [1]}', BOTH, "object"),
        ('{"inputs": {"ints": [1]}}', BOTH, "texts"),
        ('{"inputs": ' + "[" * 900 + "1" + "]" * 900 + "}", INT, "900 levels"),
    ],
)
def test_forms_that_are_no_request(body, dtypes, field):
    with pytest.raises(RequestError) as error:
        tensors(body, dtypes)
    assert error.value.code == "INVALID_ARGUMENT"
    assert field in str(error.value)


def test_errors_of_large_requests():
    with pytest.raises(RequestError) as error:
        json_tensors.parse(json.dumps(["x" * 10_000]).encode())
    assert len(str(error.value)) < 200
    # More rows than a batch may have are refused unread.
    rows = ["not a number"] * 257
    with pytest.raises(RequestError, match="1 to 256 photos, received 257"):
        json_tensors.to_tensors({"instances": rows}, INT)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [1]} {}',
        b'{"x": "\xff"}',
        '{"instances": [1]}'.encode("utf-16"),
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_bodies_that_are_no_json_object(body):
    with pytest.raises(RequestError) as error:
        json_tensors.parse(body)
    assert error.value.code == "INVALID_ARGUMENT"


def body_of(outputs, as_rows):
    # Numbers as they are written: 0.2 is not 0.20000000298023224.
    return json.loads(json_tensors.from_tensors(outputs, as_rows=as_rows), parse_float=str)


def test_answer_of_one_output():
    array = np.arange(12, dtype=np.int32).reshape(2, 3, 2)
    for as_rows, key in ((True, "predictions"), (False, "outputs")):
        assert body_of({"y": array}, as_rows) == {key: array.tolist()}
    assert body_of({"y": np.int64(5)}, False) == {"outputs": 5}
    assert body_of({"y": np.array(b"a", object)}, False) == {"outputs": "a"}


def test_answer_of_several_outputs():
    outputs = {
        "ints": np.array([[1, 2], [3, 4]], np.int64),
        "flags": np.array([True, False]),
        "texts": np.array([["bü".encode()], [b"\xff"]], object),
        "texts_bytes": np.array([b"hello", b"\xff\x00"], object),
    }
    b64 = [{"b64": base64.b64encode(value).decode()} for value in outputs["texts_bytes"]]
    assert body_of(outputs, True)["predictions"] == [
        {"ints": [1, 2], "flags": True, "texts": ["bü"], "texts_bytes": b64[0]},
        {"ints": [3, 4], "flags": False, "texts": ["\ufffd"], "texts_bytes": b64[1]},
    ]
    assert body_of(outputs, False)["outputs"] == {
        "ints": [[1, 2], [3, 4]],
        "flags": [True, False],
        "texts": [["bü"], ["\ufffd"]],
        "texts_bytes": b64,
    }


def test_decimals_are_written_short():
    values = np.array([0.2, 1, 0.1 + 0.2, np.nan, np.inf, -np.inf], np.float32)
    assert json_tensors.from_tensors({"y": values}, as_rows=True) == (
        b'{"predictions": [0.2, 1.0, 0.3, NaN, Infinity, -Infinity]}'
    )
    doubles = np.array([0.2, 0.1 + 0.2])
    assert body_of({"y": doubles}, False) == {"outputs": ["0.2", "0.30000000000000004"]}


def test_every_float32_survives():
    values = np.random.default_rng(0).integers(0, 0x7F800000, 2000, np.uint32).view(np.float32)
    body = json.loads(json_tensors.from_tensors({"y": values}, as_rows=False))
    np.testing.assert_array_equal(np.array(body["outputs"], np.float32), values)


@pytest.mark.parametrize(
    ("outputs", "field"),
    [
        ({"y": np.int64(5)}, "y"),
        ({"y": np.zeros(2), "z": np.zeros(1)}, "z"),
        ({"y": np.zeros(2, np.float16)}, "float16"),
        ({"y": np.zeros(2, np.complex64)}, "complex64"),
    ],
)
def test_outputs_that_are_no_rows(outputs, field):
    with pytest.raises(RequestError, match=field) as error:
        json_tensors.from_tensors(outputs, as_rows=True)
    assert error.value.code == "INVALID_ARGUMENT"


def test_type_that_json_has_not():
    with pytest.raises(RequestError, match="float16") as error:
        tensors('{"inputs": [1]}', {"x": tf.half})
    assert error.value.code == "UNIMPLEMENTED"


def test_rows_of_an_empty_batch():
    outputs = {"y": np.zeros([0, 2]), "texts": np.zeros([0, 1], object)}
    assert body_of(outputs, True) == {"predictions": []}

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
    inputs, _ = tensors('{"inputs": {"ints": [], "texts": {"b64": "aGVsbG8="}}}', BOTH)
    is_right(inputs["ints"], [], np.int32)
    is_right(inputs["texts"], b"hello", object)


def test_whole_and_other_numbers_for_a_decimal_tensor():
    for dtypes, dtype in ((FLOAT, np.float32), (DOUBLE, np.float64)):
        inputs, _ = tensors('{"instances": [1, 2.0, 5.003, -0.007, 1e30]}', dtypes)
        is_right(inputs["x"], [1, 2, 5.003, -0.007, 1e30], dtype)
        inputs, _ = tensors('{"inputs": [NaN, Infinity, -Infinity]}', dtypes)
        is_right(inputs["x"], [math.nan, math.inf, -math.inf], dtype)


def test_true_and_false():
    inputs, _ = tensors('{"inputs": [true, false]}', {"x": tf.bool})
    is_right(inputs["x"], [True, False], bool)


@pytest.mark.parametrize(
    "text",
    # The padding is all there or missing; white space does not count.
    ["aGVsbG8=", "aGVsbG8", " aGVs\\n\\tbG8 = "],
)
def test_base64(text):
    inputs, _ = tensors(f'{{"instances": [{{"b64": "{text}"}}]}}', TEXT)
    is_right(inputs["x"], [b"hello"], object)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"b64": "a"}', "Unable to base64 decode"),
        ('{"b64": "aGVsbG8=="}', "Unable to base64 decode"),
        ('{"b64": "YQ="}', "Unable to base64 decode"),
        ('{"b64": "a-_b"}', "Unable to base64 decode"),
        ('{"b64": "YWJj\\u00fc"}', "Unable to base64 decode"),
        ('{"b64": 3}', '{"b64": 3} not formatted correctly for base64 data'),
        ('{"b64": "YQ==", "x": 1}', "not formatted correctly for base64 data"),
        ("null", "JSON Value: null Type: Null is not of expected type: string"),
        ("true", "JSON Value: true Type: True is not of expected type: string"),
        ("3", "JSON Value: 3 Type: Number is not of expected type: string"),
        ('"\\ud800"', "is no Unicode text"),
    ],
)
def test_what_is_no_bytes(value, message):
    with pytest.raises(RequestError, match=message.replace("{", r"\{")) as error:
        tensors(f'{{"inputs": [{value}]}}', TEXT)
    assert error.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("dtypes", "value", "message"),
    [
        (INT, "1.0", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        (INT, "2147483648", "is not of expected type: int32"),
        (INT, "true", "Type: True is not of expected type: int32"),
        (INT, '"1"', "Type: String is not of expected type: int32"),
        (INT, '{"b64": "YQ=="}', "Type: Object is not of expected type: int32"),
        (PIXELS, "256", "is not of expected type: uint8"),
        (PIXELS, "-1", "is not of expected type: uint8"),
        (FLOAT, "false", "Type: False is not of expected type: float"),
        (FLOAT, "16777216", "Cannot convert JSON value: 16777216 to float without loss of"),
        (FLOAT, "-16777216", "to float without loss of precision"),
        (FLOAT, "3.5e38", "to float without loss of precision"),
        (DOUBLE, "9007199254740993", "to double without loss of precision"),
        (DOUBLE, "1" + "0" * 400, "Number too big to be stored in double"),
        ({"x": tf.bool}, "1", "Type: Number is not of expected type: bool"),
    ],
)
def test_numbers_that_do_not_fit(dtypes, value, message):
    with pytest.raises(RequestError, match=message) as error:
        tensors(f'{{"inputs": [{value}]}}', dtypes)
    assert error.value.code == "INVALID_ARGUMENT"


def test_the_largest_whole_numbers_that_fit():
    for dtypes, dtype, number in (
        (FLOAT, np.float32, 2**24 - 1),
        (DOUBLE, np.float64, 2**53 - 1),
        (INT, np.int32, 2**31 - 1),
    ):
        inputs, _ = tensors(f'{{"inputs": [{number}, {-number}]}}', dtypes)
        is_right(inputs["x"], [number, -number], dtype)


def test_type_that_json_has_not():
    with pytest.raises(RequestError, match="Conversion of JSON Value: 1 to type: half") as error:
        tensors('{"inputs": [1]}', {"x": tf.half})
    assert error.value.code == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("body", "dtypes", "message"),
    [
        ("{}", INT, "Missing 'inputs' or 'instances' key"),
        ('{"instances": [1], "inputs": [1]}', INT, "only one of 'inputs' or 'instances' keys"),
        ('{"instances": 5}', INT, "'instances' to be an list/array"),
        ('{"instances": []}', INT, "No values in 'instances' array"),
        ('{"instances": [[1, 2], [3]]}', INT, "element: 1 of .*Expecting tensor size: 2 but got"),
        (
            '{"instances": [[1, 2], [[5, 6]]]}',
            INT,
            r"Error: INVALID_ARGUMENT: Expecting shape \[2\] but got: \[1,2\]",
        ),
        ('{"instances": [1, [1]]}', INT, r"Expecting shape \[\] but got: \[1\]"),
        ('{"instances": [[1, 2], ["a", "b"]]}', INT, "not of expected type"),
        ('{"instances": [[[1], [2, 3]]]}', INT, "list at unexpected size: 2 at level: 1 expected"),
        ('{"instances": [[[1], 2]]}', INT, "found at incorrect level: 2 in .* at level: 2"),
        ('{"instances": [[1, [2]]]}', INT, "list at unexpected level: 1 expected < 1"),
        ('{"instances": [[[], 1]]}', INT, "found at incorrect level"),
        ('{"instances": [1]}', BOTH, "expecting list of objects as multiple input tensors"),
        ('{"instances": [{"b64": "YQ=="}]}', BOTH, "is not of expected type: int32"),
        (
            '{"instances": [{"ints": 1, "texts": "a"}, [1]]}',
            BOTH,
            "Expecting object but got list at item 1 of input list",
        ),
        (
            '{"instances": [["a"], {"x": ["a"]}]}',
            TEXT,
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            '{"instances": [{"ints": 1}]}',
            BOTH,
            r'element: 0 of .*JSON object: {"ints": 1} keys must be equal to: ints,texts',
        ),
        (
            '{"instances": [{"y": 1}]}',
            INT,
            "element: 0 key: y of .*does not have named input: y",
        ),
        ('{"inputs": [1]}', BOTH, "expecting an object as multiple input tensors required"),
        ('{"inputs": {"ints": [1]}}', BOTH, "Missing named input: texts in 'inputs' object"),
        ('{"inputs": ' + "[" * 900 + "1" + "]" * 900 + "}", INT, "nested too deeply: 900 levels"),
    ],
)
def test_forms_that_are_no_request(body, dtypes, message):
    with pytest.raises(RequestError, match=message) as error:
        tensors(body, dtypes)
    assert error.value.code == "INVALID_ARGUMENT"


def test_more_rows_than_a_batch_may_have_are_refused_unread():
    rows = ["not a number"] * 257
    with pytest.raises(RequestError, match="1 to 256 photos, received 257"):
        json_tensors.to_tensors({"instances": rows}, INT)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"instances = [1, 2]", "JSON Parse error"),
        (b'{"instances": [1]} {}', "JSON Parse error"),
        (b'{"x": "\xff"}', "JSON Parse error"),
        ('{"instances": [1]}'.encode("utf-16"), "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        (b"9" * 5000, "JSON Parse error"),
        (b"[1]", r"JSON Value: \[1\] Is not object"),
        (b'{"signature_name": 5}', "'signature_name' key must be a string value"),
    ],
)
def test_bodies_that_are_no_json_object(body, message):
    with pytest.raises(RequestError, match=message) as error:
        json_tensors.parse(body)
    assert error.value.code == "INVALID_ARGUMENT"


def test_byte_order_mark():
    assert json_tensors.parse(b'\xef\xbb\xbf{"inputs": 1}') == {"inputs": 1}


def test_long_values_are_cut_in_errors():
    with pytest.raises(RequestError) as error:
        json_tensors.parse(json.dumps(["x" * 10_000]).encode())
    assert len(error.value.message) < 200


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
    ("outputs", "message"),
    [
        ({"y": np.int64(5)}, "Tensor name: y has no shape information"),
        (
            {"y": np.zeros(2), "z": np.zeros(1)},
            "Tensor name: z has inconsistent batch size: 1 expecting: 2",
        ),
        ({"y": np.zeros(2, np.float16)}, "Failed to write JSON value for tensor type: half"),
        ({"y": np.zeros(2, np.complex64)}, "for tensor type: complex64"),
    ],
)
def test_outputs_that_are_no_rows(outputs, message):
    with pytest.raises(RequestError, match=message) as error:
        json_tensors.from_tensors(outputs, as_rows=True)
    assert error.value.code == "INVALID_ARGUMENT"


def test_rows_of_an_empty_batch():
    outputs = {"y": np.zeros([0, 2]), "texts": np.zeros([0, 1], object)}
    assert body_of(outputs, True) == {"predictions": []}


def test_answer_of_classes():
    labels = np.array([[b"car", "b\u00fcs".encode()], [b"\xff", b""]], object)
    scores = np.array([[0.7, 0.2], [1, np.nan]], np.float32)
    assert json_tensors.from_classes(labels, scores) == (
        '{"results": [[["car", 0.7], ["b\u00fcs", 0.2]], [["\ufffd", 1.0], ["", NaN]]]}'.encode()
    )

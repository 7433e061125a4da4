"""JSON <-> tensors, by the rules of TF Serving's REST API (tensorflow/serving: json_tensor.cc).

A row request, {"instances": [...]}, has an entry a photo; a column request, {"inputs": ...}, a
tensor an input. Bytes are written {"b64": "..."}. The answer has the form of the request. What
has other rules than TF Serving's: an integer must fit its type, and a batch has a largest size.

Single JSON values as TF Serving's REST API takes them (tensorflow/serving: json_tensor.cc).
"""

import base64
import binascii
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pybase64
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.loaded_model import require_batch

_ROW, _COLUMN = "instances", "inputs"
# Dimensions of a tensor: as many as NumPy 1 has.
_MOST_LEVELS = 32
# What a tensor in JSON may be of: no half, no complex number.
_TYPES = frozenset(
    {tf.float32, tf.float64, tf.string, tf.bool, tf.int8, tf.int16, tf.int32, tf.int64}
    | {tf.uint8, tf.uint32, tf.uint64}
)


def parse(body: bytes) -> dict[str, object]:
    """The JSON object of a request's body.

    Raises:
        RequestError: INVALID_ARGUMENT, it is none.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        # Decoded here, as json.loads would also take UTF-16.
        document = json.loads(body.decode("utf-8-sig"))
    # RecursionError: "[[[[..."; UnicodeDecodeError is a ValueError.
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {quote(document)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid(
            f"JSON Value: {quote(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return document


def to_tensors(
    document: Mapping[str, object], dtypes: Mapping[str, tf.DType]
) -> tuple[dict[str, np.ndarray], bool]:
    """The tensors of a request.

    Args:
        document: of `parse`.
        dtypes: of the signature's inputs, at least one, by name.

    Returns:
        (an array an input, whether it is a row request).

    Raises:
        RequestError: the document is not of the form that the API asks for (INVALID_ARGUMENT), or
            an input's type cannot be written in JSON (UNIMPLEMENTED).
    """
    if _ROW in document and _COLUMN in document:
        raise invalid(
            f"JSON Value: {quote(document)} Not formatted correctly expecting only one of "
            f"'{_COLUMN}' or '{_ROW}' keys to exist "
        )
    if _ROW in document:
        return _from_rows(document, dtypes), True
    if _COLUMN in document:
        return _from_columns(document[_COLUMN], dtypes), False
    raise invalid(f"Missing '{_COLUMN}' or '{_ROW}' key")


def _from_rows(
    document: Mapping[str, object], dtypes: Mapping[str, tf.DType]
) -> dict[str, np.ndarray]:
    rows = document[_ROW]
    if not isinstance(rows, list):
        raise invalid(f"JSON Value: {quote(document)} Expecting '{_ROW}' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {quote(document)} No values in '{_ROW}' array")
    require_batch(len(rows))
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise invalid(
            f"{_ROW} is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    are_named = _is_named(rows[0])
    columns: dict[str, list[np.ndarray]] = {name: [] for name in dtypes}
    for number, row in enumerate(rows):
        _require_alike(row, are_named, number)
        _add_row(columns, row, are_named, dtypes, f"Failed to process element: {number}")
    return {name: np.stack(tensors) for name, tensors in columns.items()}


def _require_alike(row: object, are_named: bool, number: int) -> None:
    if _is_named(row) != are_named:
        wanted, got = ("object", "list") if are_named else ("value/list", "object")
        raise invalid(f"Expecting {wanted} but got {got} at item {number} of input list")


def _add_row(
    columns: Mapping[str, list[np.ndarray]],
    row: object,
    are_named: bool,
    dtypes: Mapping[str, tf.DType],
    failed: str,
) -> None:
    """Appends a tensor of one row to each input."""
    named = row if are_named else {next(iter(dtypes)): row}
    for name, value in named.items():
        try:
            if name not in dtypes:
                raise invalid(f"JSON object: does not have named input: {name}")
            tensor = _tensor(value, dtypes[name])
            if columns[name]:
                _require_same_shape(columns[name][0], tensor)
        except RequestError as error:
            key = f" key: {name}" if are_named else ""
            raise invalid(
                f"{failed}{key} of '{_ROW}' list. Error: {error.code}: {error.message}"
            ) from error
        columns[name].append(tensor)
    if set(named) != set(dtypes):
        raise invalid(
            f"{failed} of '{_ROW}' list. JSON object: {quote(row)} keys must be equal to: "
            f"{','.join(sorted(dtypes))}"
        )


def _require_same_shape(first: np.ndarray, tensor: np.ndarray) -> None:
    if tensor.size != first.size:
        raise invalid(f"Expecting tensor size: {first.size} but got: {tensor.size}")
    if tensor.shape != first.shape:
        wanted, got = (",".join(map(str, array.shape)) for array in (first, tensor))
        raise invalid(f"Expecting shape [{wanted}] but got: [{got}]")


def _from_columns(columns: object, dtypes: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    if not _is_named(columns):
        if len(dtypes) > 1:
            raise invalid(
                f"{_COLUMN} is a plain value/list, but expecting an object as multiple input "
                "tensors required as per tensorinfo_map"
            )
        columns = {next(iter(dtypes)): columns}
    for name in dtypes:
        if name not in columns:
            raise invalid(f"Missing named input: {name} in '{_COLUMN}' object.")
    return {name: _tensor(columns[name], dtype) for name, dtype in dtypes.items()}


def _is_named(value: object) -> bool:
    """Whether a value is an object of inputs by name, and not bytes."""
    return isinstance(value, dict) and not is_base64(value)


def _tensor(value: object, dtype: tf.DType) -> np.ndarray:
    """A dense tensor from nested lists: the first element of each says how many are expected."""
    shape = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > _MOST_LEVELS:
        raise invalid(f"JSON Value is nested too deeply: {len(shape)} levels")
    return _converted(_leaves(value, shape), dtype).reshape(shape)


def _leaves(value: object, shape: Sequence[int]) -> list[object]:
    """What is in nested lists of this shape, the last dimension fastest."""
    values = [value]
    for level, size in enumerate(shape):
        below = []
        for element in values:
            if not isinstance(element, list):
                raise invalid(
                    f"JSON Value: {quote(element)} found at incorrect level: {level + 1} in the "
                    f"JSON DOM. Expected at level: {len(shape)}"
                )
            if len(element) != size:
                raise invalid(
                    f"Encountered list at unexpected size: {len(element)} at level: {level} "
                    f"expected size: {size}"
                )
            below += element
        values = below
    if any(isinstance(element, list) for element in values):
        level = len(shape)
        raise invalid(f"Encountered list at unexpected level: {level} expected < {level}")
    return values


def _converted(values: Sequence[object], dtype: tf.DType) -> np.ndarray:
    """The values as a type has them: bytes objects for tf.string."""
    if values and dtype not in _TYPES:
        raise RequestError(
            "UNIMPLEMENTED",
            f"Conversion of JSON Value: {quote(values[0])} to type: {dtype_name(dtype)}",
        )
    is_right, convert = _rule(dtype)
    for value in values:
        if not is_right(value):
            raise invalid(
                f"JSON Value: {quote(value)} Type: {type_name(value)} is not of expected type: "
                f"{dtype_name(dtype)}"
            )
    array = np.empty(len(values), dtype.as_numpy_dtype)
    array[:] = [convert(value) for value in values] if convert else values
    return array


def _rule(
    dtype: tf.DType,
) -> tuple[Callable[[object], bool], Callable[[object], object] | None]:
    """Which values are of a type, and what they have to go through then."""
    if dtype == tf.string:
        return lambda value: isinstance(value, str | dict), to_bytes
    if dtype.is_bool:
        return lambda value: isinstance(value, bool), None
    if dtype.is_floating:
        return is_number, lambda value: lossless(value, dtype)
    low, high = int(dtype.min), int(dtype.max)
    return lambda value: type(value) is int and low <= value <= high, None


def from_tensors(outputs: Mapping[str, np.ndarray], *, as_rows: bool) -> bytes:
    """The body of an answer.

    Args:
        outputs: an array an output.
        as_rows: whether the request was one of rows.

    Raises:
        RequestError: INVALID_ARGUMENT, rows are asked for and the outputs differ in their number,
            or an output's type cannot be written in JSON.
    """
    if as_rows:
        _require_rows(outputs)
    values = {name: _jsonable(name, array) for name, array in outputs.items()}
    if not as_rows:
        return _dumps({"outputs": values if len(values) > 1 else next(iter(values.values()))})
    rows = zip(*values.values(), strict=True)
    return _dumps(
        {
            "predictions": [
                dict(zip(values, row, strict=True)) if len(values) > 1 else row[0] for row in rows
            ]
        }
    )


def from_classes(labels: np.ndarray, scores: np.ndarray) -> bytes:
    """The body of an answer of the Classify API.

    Args:
        labels: bytes objects [N, K].
        scores: float32 [N, K].
    """
    rows = zip(_texts(labels), _short_floats(scores).tolist(), strict=True)
    return _dumps({"results": [list(zip(*row, strict=True)) for row in rows]})


def _require_rows(outputs: Mapping[str, np.ndarray]) -> None:
    expected = None
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        expected = len(array) if expected is None else expected
        if len(array) != expected:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} "
                f"expecting: {expected}"
            )


def _jsonable(name: str, array: np.ndarray) -> object:
    if array.dtype == object:
        return _base64_objects(array) if name.endswith("_bytes") else _texts(array)
    dtype = tf.as_dtype(array.dtype)
    if dtype not in _TYPES:
        raise invalid(f"Failed to write JSON value for tensor type: {dtype_name(dtype)}")
    return _short_floats(array).tolist()


def _short_floats(array: np.ndarray) -> np.ndarray:
    """The same numbers; those of float32 become the doubles that are written as short as they are.

    0.2 instead of 0.20000000298023224.
    """
    if array.dtype != np.float32:
        return array
    return array.astype("U").astype(np.float64)


def _texts(array: np.ndarray) -> object:
    """Strings of a model; what is not UTF-8 in them becomes a replacement character."""
    return _nested(array, lambda value: value.decode("utf-8", "replace"))


def _base64_objects(array: np.ndarray) -> object:
    return _nested(array, lambda value: {"b64": base64.b64encode(value).decode()})


def _nested(array: np.ndarray, convert: Callable[[bytes], object]) -> object:
    """Lists of what becomes of each bytes object."""
    values = np.empty(array.size, object)
    values[:] = [convert(value) for value in array.ravel()]
    return values.reshape(array.shape).tolist()


def _dumps(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


# Of a value that is quoted in an error.
_QUOTED_CHARACTERS = 80


def is_base64(value: object) -> bool:
    """Whether a value is {"b64": "..."} and nothing more."""
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def is_number(value: object) -> bool:
    """Whether a value is a JSON number; NaN and Infinity, which are none, are taken for one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: object) -> bool:
    """Whether TF Serving's parser has an integer for a JSON number, and not a double.

    It has 64 bits, with a sign or without; larger whole numbers are doubles.
    """
    return type(value) is int and -(2**63) <= value < 2**64


def lossless(value: float, dtype: tf.DType) -> float:
    """A number that the type can hold: of whole ones, those that it tells from their neighbours.

    Raises:
        RequestError: INVALID_ARGUMENT, it cannot.
    """
    double = _as_double(value)
    largest_whole, largest = _largest(dtype)
    if is_integer(value):
        largest = largest_whole
    if math.isfinite(double) and abs(value) > largest:
        raise invalid(
            f"Cannot convert JSON value: {quote(value)} to {dtype_name(dtype)} without loss of "
            "precision."
        )
    return double


def _as_double(value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise invalid("JSON Parse error: Number too big to be stored in double.") from error


@functools.cache
def _largest(dtype: tf.DType) -> tuple[int, float]:
    """The largest integer that a floating type tells from its neighbours, and its maximum."""
    return 2 ** (np.finfo(dtype.as_numpy_dtype).nmant + 1) - 1, float(dtype.max)


def to_bytes(value: object) -> bytes:
    """The bytes of a JSON string or of {"b64": "..."}.

    Raises:
        RequestError: INVALID_ARGUMENT, they cannot be had.
    """
    return utf8(value) if isinstance(value, str) else _decode_base64(value)


def utf8(text: str) -> bytes:
    """The bytes of a JSON string.

    Raises:
        RequestError: INVALID_ARGUMENT, it has one half of a surrogate pair without the other.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"JSON Value: {quote(text)} is no Unicode text") from error


def _decode_base64(value: object) -> bytes:
    if not is_base64(value):
        raise invalid(f"JSON Value: {quote(value)} not formatted correctly for base64 data")
    # As in TF Serving: white space does not count, and the padding is all there or missing.
    encoded = b"".join(utf8(value["b64"]).split())
    if not encoded.endswith(b"="):
        encoded += b"=" * (-len(encoded) % 4)
    try:
        # Twenty times as fast as Python's own, which took half of a request's time.
        return pybase64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise invalid("Unable to base64 decode") from error


def dtype_name(dtype: tf.DType) -> str:
    """What TF Serving's errors call a type: "float" is of 32 bits."""
    return types_pb2.DataType.Name(dtype.as_datatype_enum).removeprefix("DT_").lower()


def type_name(value: object) -> str:
    """What JSON calls the type of a value, as TF Serving's errors write it."""
    names = {dict: "Object", list: "Array", str: "String", type(None): "Null"}
    return str(value) if isinstance(value, bool) else names.get(type(value), "Number")


def quote(value: object) -> str:
    """A value for an error, cut if it is long."""
    text = ""
    # Piece by piece: a document of megabytes is not written to be thrown away.
    for piece in json.JSONEncoder().iterencode(value):
        text += piece
        if len(text) > _QUOTED_CHARACTERS:
            return f"{text[:_QUOTED_CHARACTERS]}..."
    return text


def invalid(message: str) -> RequestError:
    """The error of a request that is not of the form that is asked for."""
    return RequestError("INVALID_ARGUMENT", message)

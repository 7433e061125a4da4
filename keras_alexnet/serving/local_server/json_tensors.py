"""JSON <-> tensors, by the rules of TF Serving's REST API (tensorflow/serving: json_tensor.cc).

A row request, {"instances": [...]}, has an entry a photo; a column request, {"inputs": ...}, a
tensor an input. Bytes are written {"b64": "..."}. The answer has the form of the request. Unlike
in TF Serving, an integer must fit its type, and a batch has a largest size.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pybase64
import tensorflow as tf

from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.loaded_model import require_batch

_ROW, _COLUMN = "instances", "inputs"
_QUOTED_CHARACTERS = 80  # of a value in an error
# Dimensions of a tensor: as many as NumPy 1 has.
_MOST_LEVELS = 32
# What a tensor in JSON may be of: no half, no complex number.
_TYPES = frozenset(
    {tf.float32, tf.float64, tf.string, tf.bool, tf.int8, tf.int16, tf.int32, tf.int64}
    | {tf.uint8, tf.uint32, tf.uint64}
)


def parse(body: bytes) -> dict[str, object]:
    """Return the JSON object of a request's body.

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
    """Return the tensors of a request.

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
    if not isinstance(rows, list) or not rows:
        raise invalid(f"JSON value {quote(document)}: '{_ROW}' must be a list with entries")
    require_batch(len(rows))
    are_named = _is_named(rows[0])
    if not are_named and len(dtypes) > 1:
        raise invalid(f"'{_ROW}' must be objects with {','.join(sorted(dtypes))}, one an input")
    columns: dict[str, list[object]] = {name: [] for name in dtypes}
    for number, row in enumerate(rows):
        if _is_named(row) != are_named:
            wanted = "an object" if are_named else "a value or list"
            raise invalid(f"item {number} of '{_ROW}' must be {wanted}, as item 0 is")
        named = row if are_named else {next(iter(dtypes)): row}
        if set(named) != set(dtypes):
            raise invalid(
                f"item {number} of '{_ROW}' must have the inputs {','.join(sorted(dtypes))}, "
                f"received {quote(sorted(named))}"
            )
        for name, value in named.items():
            columns[name].append(value)
    return {name: _tensor(values, dtypes[name]) for name, values in columns.items()}


def _from_columns(columns: object, dtypes: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    if not _is_named(columns) and len(dtypes) == 1:
        columns = {next(iter(dtypes)): columns}
    if not isinstance(columns, dict) or not set(dtypes) <= set(columns):
        raise invalid(f"'{_COLUMN}' must be an object with the inputs {','.join(sorted(dtypes))}")
    return {name: _tensor(columns[name], dtype) for name, dtype in dtypes.items()}


def _is_named(value: object) -> bool:
    """Return whether a value is an object of inputs by name, and not bytes."""
    return isinstance(value, dict) and not _is_base64(value)


def _tensor(value: object, dtype: tf.DType) -> np.ndarray:
    """Return a dense tensor; the first element at each level says how long its lists are."""
    shape = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > _MOST_LEVELS:
        raise invalid(f"JSON value is nested too deeply: {len(shape)} levels")
    values = [value]
    for level, size in enumerate(shape):
        for element in values:
            if not isinstance(element, list) or len(element) != size:
                raise invalid(
                    f"JSON value {quote(element)} at level {level} must be a list of size {size}, "
                    "as the first one is"
                )
        values = [element for part in values for element in part]
    return _converted(values, dtype).reshape(shape)


def _converted(values: Sequence[object], dtype: tf.DType) -> np.ndarray:
    """Return the values as a type has them: bytes objects for tf.string."""
    if values and dtype not in _TYPES:
        raise RequestError("UNIMPLEMENTED", f"JSON has no values of the type {dtype.name}")
    is_right, convert = _rule(dtype)
    for value in values:
        if not is_right(value):
            raise invalid(f"JSON value {quote(value)} is not of the expected type {dtype.name}")
    array = np.empty(len(values), dtype.as_numpy_dtype)
    with np.errstate(over="ignore"):  # 1e39 is infinite as float32
        array[:] = [convert(value) for value in values] if convert else values
    return array


def _rule(
    dtype: tf.DType,
) -> tuple[Callable[[object], bool], Callable[[object], object] | None]:
    """Return which values are of a type, and the function that converts them."""
    if dtype == tf.string:
        return lambda value: isinstance(value, str | dict), _to_bytes
    if dtype.is_bool:
        return lambda value: isinstance(value, bool), None
    if dtype.is_floating:  # NaN and Infinity are no JSON, and taken as in TF Serving
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool), _double
    if dtype not in _TYPES:
        return lambda value: False, None
    low, high = int(dtype.min), int(dtype.max)
    return lambda value: type(value) is int and low <= value <= high, None


def from_tensors(outputs: Mapping[str, np.ndarray], *, as_rows: bool) -> bytes:
    """Return the body of an answer.

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


def _require_rows(outputs: Mapping[str, np.ndarray]) -> None:
    expected = max((len(array) for array in outputs.values() if array.ndim), default=0)
    for name, array in outputs.items():
        if not array.ndim or len(array) != expected:
            rows = f"{len(array)} rows" if array.ndim else "no rows"
            raise invalid(f"output {name} has {rows}, expected {expected}; ask with '{_COLUMN}'")


def _jsonable(name: str, array: np.ndarray) -> object:
    if array.dtype == object:
        if name.endswith("_bytes"):
            return _nested(array, lambda value: {"b64": base64.b64encode(value).decode()})
        return _nested(array, lambda value: value.decode("utf-8", "replace"))
    dtype = tf.as_dtype(array.dtype)
    if dtype not in _TYPES:
        raise invalid(f"Failed to write JSON value for tensor type: {dtype.name}")
    return _short_floats(array).tolist()


def _short_floats(array: np.ndarray) -> np.ndarray:
    """Return float32 as the doubles that are written as short: 0.2, not 0.20000000298023224."""
    if array.dtype != np.float32:
        return array
    return array.astype("U").astype(np.float64)


def _nested(array: np.ndarray, convert: Callable[[bytes], object]) -> object:
    """Return nested lists with a function of each bytes object."""
    values = np.empty(array.size, object)
    values[:] = [convert(value) for value in array.ravel()]
    return values.reshape(array.shape).tolist()


def _dumps(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _is_base64(value: object) -> bool:
    """Return whether a value is {"b64": "..."} and nothing more."""
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise invalid(f"number {quote(value)} is too large for a double") from error


def _to_bytes(value: object) -> bytes:
    """Return the bytes of a JSON string or of {"b64": "..."}."""
    if not isinstance(value, str) and not _is_base64(value):
        raise invalid(f"JSON value {quote(value)} is not formatted correctly for base64 data")
    try:
        text = (value if isinstance(value, str) else value["b64"]).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise invalid(f"JSON value {quote(value)} is no Unicode text") from error
    if isinstance(value, str):
        return text
    # As in TF Serving: white space does not count, and the padding is all there or missing.
    encoded = b"".join(text.split())
    if not encoded.endswith(b"="):
        encoded += b"=" * (-len(encoded) % 4)
    try:
        # Twenty times as fast as Python's own, which took half of a request's time.
        return pybase64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise invalid(f"JSON value {quote(value)}: base64 cannot be decoded") from error


def quote(value: object) -> str:
    """Return a value for an error, cut if it is long."""
    text = ""
    # Piece by piece: a document of megabytes is not written to be thrown away.
    for piece in json.JSONEncoder().iterencode(value):
        text += piece
        if len(text) > _QUOTED_CHARACTERS:
            return f"{text[:_QUOTED_CHARACTERS]}..."
    return text


def invalid(message: str) -> RequestError:
    """Return the error for a request of a wrong form."""
    return RequestError("INVALID_ARGUMENT", message)

"""JSON <-> tensors, by the rules of TF Serving's REST API (tensorflow/serving: json_tensor.cc).

A row request, {"instances": [...]}, has an entry a photo; a column request, {"inputs": ...}, a
tensor an input. Bytes are written {"b64": "..."}. The answer has the form of the request. Unlike
in TF Serving, an integer must fit its type, and a batch has a largest size.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pybase64
import tensorflow as tf

from keras_alexnet.serving.local_server.errors import RequestError, invalid
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
    try:
        # Decoded here, as json.loads would also take UTF-16.
        document = json.loads(body.decode("utf-8-sig"))
    # RecursionError: "[[[[..."; UnicodeDecodeError is a ValueError.
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_quote(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid(f"JSON Value: {_quote(document)}: 'signature_name' must be a string")
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
        raise invalid(f"JSON Value: {_quote(document)}: only one of '{_COLUMN}' and '{_ROW}' goes")
    if _ROW in document:
        columns = _columns_of_rows(document[_ROW], dtypes)
    elif _COLUMN in document:
        columns = document[_COLUMN]
        if not _is_named(columns) and len(dtypes) == 1:
            columns = {next(iter(dtypes)): columns}
        if not isinstance(columns, dict) or not set(dtypes) <= set(columns):
            raise invalid(f"'{_COLUMN}' must be an object with the inputs {sorted(dtypes)}")
    else:
        raise invalid(f"Missing '{_COLUMN}' or '{_ROW}' key")
    tensors = {name: _tensor(columns[name], dtype) for name, dtype in dtypes.items()}
    return tensors, _ROW in document


def _columns_of_rows(rows: object, dtypes: Mapping[str, tf.DType]) -> dict[str, list[object]]:
    if not isinstance(rows, list) or not rows:
        raise invalid(f"JSON value {_quote(rows)}: '{_ROW}' must be a list with entries")
    require_batch(len(rows))
    are_named = _is_named(rows[0]) or len(dtypes) > 1
    columns: dict[str, list[object]] = {name: [] for name in dtypes}
    for number, row in enumerate(rows):
        named = row if are_named else {next(iter(dtypes)): row}
        if _is_named(row) != are_named or set(named) != set(dtypes):
            wanted = f"an object with the inputs {sorted(dtypes)}" if are_named else "a value"
            raise invalid(f"item {number} of '{_ROW}' must be {wanted}, received {_quote(row)}")
        for name, value in named.items():
            columns[name].append(value)
    return columns


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
                    f"JSON value {_quote(element)} at level {level} must be a list of size {size}, "
                    "as the first one is"
                )
        values = [element for part in values for element in part]
    return _converted(values, dtype).reshape(shape)


def _converted(values: Sequence[object], dtype: tf.DType) -> np.ndarray:
    """Return the values as a type has them: bytes objects for tf.string."""
    if dtype not in _TYPES:
        raise RequestError("UNIMPLEMENTED", f"JSON has no values of the type {dtype.name}")
    convert = low = high = None
    if dtype == tf.string:
        types, convert = {str, dict}, _to_bytes
    elif dtype.is_bool:
        types = {bool}
    elif dtype.is_floating:  # NaN and Infinity are no JSON, and taken as in TF Serving
        types, convert = {int, float}, float
    else:
        types, low, high = {int}, dtype.min, dtype.max
    for value in values:
        if type(value) not in types or (low is not None and not low <= value <= high):
            raise invalid(f"JSON value {_quote(value)} is not of the expected type {dtype.name}")
    array = np.empty(len(values), dtype.as_numpy_dtype)
    try:
        with np.errstate(over="ignore"):  # 1e39 is infinite as float32
            array[:] = [convert(value) for value in values] if convert else values
    except OverflowError as error:
        raise invalid(f"a number is too large for a double: {error}") from error
    return array


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
        shapes = {name: array.shape for name, array in outputs.items()}
        if () in shapes.values() or len({shape[0] for shape in shapes.values()}) > 1:
            raise invalid(f"the outputs have no rows alike: {shapes}; ask with '{_COLUMN}'")
    values = {name: _jsonable(name, array) for name, array in outputs.items()}
    is_alone = len(values) == 1
    if as_rows:
        rows = zip(*values.values(), strict=True)
        document = {
            "predictions": [
                row[0] if is_alone else dict(zip(values, row, strict=True)) for row in rows
            ]
        }
    else:
        document = {"outputs": next(iter(values.values())) if is_alone else values}
    return json.dumps(document, ensure_ascii=False).encode()


def _jsonable(name: str, array: np.ndarray) -> object:
    if array.dtype == object:
        values = np.empty(array.size, object)
        values[:] = [
            {"b64": base64.b64encode(value).decode()}
            if name.endswith("_bytes")
            else value.decode("utf-8", "replace")
            for value in array.ravel()
        ]
        return values.reshape(array.shape).tolist()
    dtype = tf.as_dtype(array.dtype)
    if dtype not in _TYPES:
        raise invalid(f"Failed to write JSON value for tensor type: {dtype.name}")
    if dtype == tf.float32:  # as the doubles that are short: 0.2, not 0.20000000298023224
        array = array.astype("U").astype(np.float64)
    return array.tolist()


def _is_base64(value: object) -> bool:
    """Return whether a value is {"b64": "..."} and nothing more."""
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _to_bytes(value: object) -> bytes:
    """Return the bytes of a JSON string or of {"b64": "..."}."""
    if not isinstance(value, str) and not _is_base64(value):
        raise invalid(f"JSON value {_quote(value)} is not formatted correctly for base64 data")
    try:
        text = (value if isinstance(value, str) else value["b64"]).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise invalid(f"JSON value {_quote(value)} is no Unicode text") from error
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
        raise invalid(f"JSON value {_quote(value)}: base64 cannot be decoded") from error


def _quote(value: object) -> str:
    """Return a value for an error, cut if it is long."""
    text = ""
    # Piece by piece: a document of megabytes is not written to be thrown away.
    for piece in json.JSONEncoder().iterencode(value):
        text += piece
        if len(text) > _QUOTED_CHARACTERS:
            return f"{text[:_QUOTED_CHARACTERS]}..."
    return text

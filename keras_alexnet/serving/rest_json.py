"""JSON <-> tensors, by the rules of TF Serving's REST API (tensorflow/serving: json_tensor.cc).

A row request, {"instances": [...]}, has an entry a photo; a column request, {"inputs": ...}, a
tensor an input. Bytes are written {"b64": "..."}. The answer has the form of the request.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_alexnet.serving.loaded_model import RequestError

_ROW, _COLUMN = "instances", "inputs"
# Of a value that is quoted in an error.
_QUOTED_CHARACTERS = 80


def parse(body: bytes) -> dict[str, object]:
    """The JSON object of a request's body.

    Raises:
        RequestError: INVALID_ARGUMENT, it is none.
    """
    if not body:
        raise _invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    # RecursionError: "[[[[..."; UnicodeDecodeError is a ValueError.
    except (ValueError, RecursionError) as error:
        raise _invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise _invalid(f"JSON Value: {_quote(document)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise _invalid(
            f"JSON Value: {_quote(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return document


def to_tensors(
    document: Mapping[str, object], dtypes: Mapping[str, tf.DType]
) -> tuple[dict[str, np.ndarray], bool]:
    """The tensors of a request.

    Args:
        document: of `parse`.
        dtypes: of the signature's inputs, by name.

    Returns:
        (an array an input, whether it is a row request).

    Raises:
        RequestError: INVALID_ARGUMENT, the document is not of the form that the API asks for.
    """
    if _ROW in document and _COLUMN in document:
        raise _invalid("Not formatted correctly expecting only one of 'inputs' or 'instances'")
    try:
        if _ROW in document:
            return _from_rows(document[_ROW], dtypes), True
        if _COLUMN in document:
            return _from_columns(document[_COLUMN], dtypes), False
    except RecursionError as error:
        raise _invalid("JSON Value is nested too deeply") from error
    raise _invalid("Missing 'inputs' or 'instances' key")


def _from_rows(rows: object, dtypes: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    if not isinstance(rows, list):
        raise _invalid("Expecting 'instances' to be an list/array")
    if not rows:
        raise _invalid("No values in 'instances' array")
    are_named = _is_named(rows[0])
    if not are_named and len(dtypes) > 1:
        raise _invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    columns: dict[str, list[np.ndarray]] = {name: [] for name in dtypes}
    for number, row in enumerate(rows):
        place = f"Failed to process element: {number} of 'instances' list."
        if _is_named(row) != are_named:
            raise _invalid(f"{place} Expecting objects only, or values only")
        named = row if are_named else {next(iter(dtypes)): row}
        if set(named) != set(dtypes):
            raise _invalid(
                f"{place} JSON object: {_quote(row)} keys must be equal to: "
                f"{','.join(sorted(dtypes))}"
            )
        for name, value in named.items():
            try:
                tensor = _tensor(value, dtypes[name])
            except RequestError as error:
                raise _invalid(f"{place} Error: {error.message}") from error
            if columns[name] and columns[name][0].shape != tensor.shape:
                wanted = list(columns[name][0].shape)
                raise _invalid(f"{place} Expecting shape {wanted} but got: {list(tensor.shape)}")
            columns[name].append(tensor)
    return {name: np.stack(tensors) for name, tensors in columns.items()}


def _from_columns(columns: object, dtypes: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    if not _is_named(columns):
        if len(dtypes) > 1:
            raise _invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        columns = {next(iter(dtypes)): columns}
    for name in dtypes:
        if name not in columns:
            raise _invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(columns[name], dtype) for name, dtype in dtypes.items()}


def _is_base64(value: object) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _is_named(value: object) -> bool:
    """Whether a value is an object of inputs by name, and not bytes."""
    return isinstance(value, dict) and not _is_base64(value)


def _tensor(value: object, dtype: tf.DType) -> np.ndarray:
    """A dense tensor from nested lists: the first element of each says how many are expected."""
    shape = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    leaves: list[object] = []
    _collect(value, shape, 0, dtype, leaves)
    numpy_type = object if dtype == tf.string else dtype.as_numpy_dtype
    tensor = np.empty(len(leaves), numpy_type)
    tensor[:] = leaves
    return tensor.reshape(shape)


def _collect(
    value: object, shape: Sequence[int], level: int, dtype: tf.DType, leaves: list[object]
) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise _invalid(
                f"JSON Value: {_quote(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise _invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise _invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for element in value:
        _collect(element, shape, level + 1, dtype, leaves)


def _leaf(value: object, dtype: tf.DType) -> object:
    """One value of a tensor: a bytes object for tf.string."""
    if dtype == tf.string:
        if isinstance(value, str):
            return _utf8(value)
        if isinstance(value, dict):
            return _from_base64(value)
    elif dtype.is_bool:
        if isinstance(value, bool):
            return value
    elif isinstance(value, int) and not isinstance(value, bool):
        if dtype.min <= value <= dtype.max:
            return value
    elif isinstance(value, float) and dtype.is_floating and _fits(value, dtype):
        return value
    raise _invalid(f"JSON Value: {_quote(value)} is not of expected type: {dtype.name}")


def _fits(value: float, dtype: tf.DType) -> bool:
    # JSON has no infinity and no NaN, but TF Serving's parser does, as Python's.
    return not math.isfinite(value) or abs(value) <= dtype.max


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # half of a pair, "\ud800"
        raise _invalid(f"JSON Value: {_quote(text)} is no Unicode text") from error


def _from_base64(value: Mapping[str, object]) -> bytes:
    if not _is_base64(value):
        raise _invalid(f"JSON Value: {_quote(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        # As in TF Serving, the padding may be missing.
        return base64.b64decode(_utf8(text + "=" * (-len(text) % 4)), validate=True)
    except binascii.Error as error:
        raise _invalid("Unable to base64 decode") from error


def from_tensors(outputs: Mapping[str, np.ndarray], *, as_rows: bool) -> bytes:
    """The body of an answer.

    Args:
        outputs: an array an output.
        as_rows: whether the request was one of rows.

    Raises:
        RequestError: INVALID_ARGUMENT, rows are asked for and the outputs differ in their number.
    """
    values = {name: _jsonable(name, array) for name, array in outputs.items()}
    if not as_rows:
        answer = {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    else:
        sizes = {name: array.shape[:1] for name, array in outputs.items()}
        if len(set(sizes.values())) != 1 or () in sizes.values():
            raise _invalid(f"outputs have inconsistent batch sizes: {sizes}; use 'inputs'")
        rows = zip(*values.values(), strict=True)
        answer = {
            "predictions": [
                dict(zip(values, row, strict=True)) if len(values) > 1 else row[0] for row in rows
            ]
        }
    return json.dumps(answer, ensure_ascii=False).encode()


def _jsonable(name: str, array: np.ndarray) -> object:
    if array.dtype == object:
        as_bytes = name.endswith("_bytes")
        convert = np.frompyfunc(_base64_object if as_bytes else _text, 1, 1)
        return convert(array).tolist()
    if array.dtype == np.float32:
        # By way of the shortest text that is this float32: 0.2 instead of 0.20000000298023224.
        return array.astype("U").astype(np.float64).tolist()
    return array.tolist()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _base64_object(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _quote(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."


def _invalid(message: str) -> RequestError:
    return RequestError("INVALID_ARGUMENT", message)

"""JSON -> tf.train.Example, by the rules of TF Serving's Classify API (json_tensor.cc).

    {"context": {FEATURE: VALUE, ...}, "examples": [{FEATURE: VALUE, ...}, ...]}

A value is a number, a string, true, false or {"b64": "..."}, or a list of such: whole numbers
become int64, others float, strings and base64 bytes.
"""

from collections.abc import Mapping

import tensorflow as tf

from keras_alexnet.serving.local_server import json_tensors
from keras_alexnet.serving.local_server.json_tensors import invalid
from keras_alexnet.serving.local_server.loaded_model import require_batch

_CONTEXT, _EXAMPLES = "context", "examples"
# The kinds of a tf.train.Feature, with what TF Serving calls them.
_BYTES, _FLOAT, _INT64 = "bytes_list", "float_list", "int64_list"
_KIND_NAMES = {_BYTES: "bytes", _FLOAT: "float", _INT64: "int64"}


def serialized_examples(document: Mapping[str, object]) -> list[bytes]:
    """The examples of a request, each a serialized tf.train.Example.

    What is in the context is in each of them, unless the example has a feature of that name.

    Args:
        document: of `json_tensors.parse`.

    Raises:
        RequestError: INVALID_ARGUMENT, the document is not of the form that the API asks for.
    """
    context = _serialized(document[_CONTEXT]) if _CONTEXT in document else b""
    if _EXAMPLES not in document:
        raise invalid(
            f"JSON Value: {json_tensors.quote(document)} When method is classify, key "
            f"'{_EXAMPLES}' is expected and was not found"
        )
    examples = document[_EXAMPLES]
    if not isinstance(examples, list):
        raise invalid(
            f"JSON Value: {json_tensors.quote(document)} Expecting '{_EXAMPLES}' value to be an "
            "list/array"
        )
    if not examples:
        raise invalid(
            f"JSON Value: {json_tensors.quote(document)} '{_EXAMPLES}' value is an empty array"
        )
    require_batch(len(examples))
    # One message behind another is their merger, in which the last of a name counts.
    return [context + _serialized(example) for example in examples]


def _serialized(example: object) -> bytes:
    if not isinstance(example, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_tensors.type_name(example)}")
    features = {}
    for name, value in example.items():
        json_tensors.utf8(name)
        features[name] = _feature(name, value if isinstance(value, list) else [value])
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _feature(name: str, values: list[object]) -> tf.train.Feature:
    feature = tf.train.Feature()
    for value in values:
        kind = _kind(name, value)
        known = feature.WhichOneof("kind")
        if known not in (None, kind):
            raise invalid(
                f"Unexpected element type in feature: {name} expecting type: {_KIND_NAMES[known]}"
            )
        if kind == _INT64 and value >= 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        getattr(feature, kind).value.append(_CONVERSIONS[kind](value))
    return feature


def _kind(name: str, value: object) -> str:
    """Which list of a tf.train.Feature a value goes into."""
    if isinstance(value, str) or json_tensors.is_base64(value):
        return _BYTES
    if isinstance(value, bool):
        return _INT64
    if json_tensors.is_number(value):
        return _INT64 if json_tensors.is_integer(value) else _FLOAT
    raise invalid(
        f"Feature: {name} has element with unexpected JSON type: {json_tensors.type_name(value)}"
    )


def _float(value: float) -> float:
    return json_tensors.lossless(value, tf.float32)


# How a value becomes an element of each kind of list; true is 1.
_CONVERSIONS = {_BYTES: json_tensors.to_bytes, _FLOAT: _float, _INT64: int}

"""The client's side of TF Serving's gRPC service, without TensorFlow.

The official modules (tensorflow_serving.apis) import all of TensorFlow: seconds before the first
photo is sent, where this takes milliseconds. Here is what is needed of their wire format
(tensorflow/serving: prediction_service, predict, classification, input, model.proto; tensorflow:
tensor, tensor_shape, example.proto); the tests hold it against the official modules.
"""

import itertools
import math
import ssl
import struct
import time
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import SplitResult

import grpc
from google.protobuf.message import DecodeError, Message

from data_prep import protobuf
from keras_alexnet.serving.client import connection
from keras_alexnet.serving.client.connection import CLASSIFY, CallFailed, ModelSpec

# On the wire, a map is a list of entries with key (1) and value (2), and so it is here.
MESSAGES = protobuf.message_classes(
    {
        "Int64Value": {"value": (1, "int64")},
        "ModelSpec": {
            "name": (1, "string"),
            "version": (2, "Int64Value"),
            "signature_name": (3, "string"),
        },
        "Dim": {"size": (1, "int64")},
        "TensorShapeProto": {"dim": (2, "repeated Dim"), "unknown_rank": (3, "bool")},
        "TensorProto": {
            "dtype": (1, "int32"),  # an enum: the same on the wire
            "tensor_shape": (2, "TensorShapeProto"),
            "tensor_content": (4, "bytes"),
            "float_val": (5, "repeated float"),
            "int_val": (7, "repeated int32"),
            "string_val": (8, "repeated bytes"),
            "int64_val": (10, "repeated int64"),
            "bool_val": (11, "repeated bool"),
        },
        "TensorEntry": {"key": (1, "string"), "value": (2, "TensorProto")},
        "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "repeated TensorEntry")},
        "PredictResponse": {"outputs": (1, "repeated TensorEntry")},
        "BytesList": {"value": (1, "repeated bytes")},
        "Feature": {"bytes_list": (1, "BytesList")},
        "FeatureEntry": {"key": (1, "string"), "value": (2, "Feature")},
        "Features": {"feature": (1, "repeated FeatureEntry")},
        "Example": {"features": (1, "Features")},
        "ExampleList": {"examples": (1, "repeated Example")},
        "Input": {"example_list": (1, "ExampleList")},
        "ClassificationRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
        # A label is text in classification.proto; here, one that is not UTF-8 breaks nothing else.
        "Class": {"label": (1, "bytes"), "score": (2, "float")},
        "Classifications": {"classes": (1, "repeated Class")},
        "ClassificationResult": {"classifications": (1, "repeated Classifications")},
        "ClassificationResponse": {"result": (1, "ClassificationResult")},
    }
)
_DT_STRING = 7  # types.proto
# By DataType: (field of the values, letter of `struct` for a value in tensor_content), for the
# types that the signatures of an export put out.
_KINDS = {
    1: ("float_val", "f"),
    3: ("int_val", "i"),
    _DT_STRING: ("string_val", None),
    9: ("int64_val", "q"),
    10: ("bool_val", "?"),
}
# A tensor of a few bytes may claim to have any number of values, all alike.
_MAX_VALUES = 1 << 20
_MAX_RANK = 254  # tensor_shape.h
_VARINT_BITS = 63


def to_lists(tensor: Message) -> object:
    """Return the values of a tensor, in nested lists of its shape; strings decoded.

    The values may be in the field of their type or, if TF Serving runs with
    --enable_serialization_as_tensor_content, in tensor_content.

    Raises:
        ValueError: it is broken, or of a type that no signature of an export puts out.
    """
    sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
    if tensor.dtype not in _KINDS:
        raise ValueError(f"a tensor of DataType {tensor.dtype}")
    if tensor.tensor_shape.unknown_rank or min(sizes, default=0) < 0:
        raise ValueError("a tensor without a shape")
    # Without its zeros, which would hide how many empty lists there are.
    if len(sizes) > _MAX_RANK or math.prod(max(size, 1) for size in sizes) > _MAX_VALUES:
        raise ValueError(f"a tensor of the shape {sizes[:_MAX_RANK]}")
    count = math.prod(sizes)
    values = _values(tensor, count)
    if tensor.dtype == _DT_STRING:
        values = [value.decode("utf-8", "replace") for value in values]
    return _nested(values, sizes)


def _values(tensor: Message, count: int) -> list[object]:
    field, letter = _KINDS[tensor.dtype]
    content = tensor.tensor_content
    if not content:
        values = list(getattr(tensor, field))
        if len(values) > count or (count and not values):
            raise ValueError(f"a tensor of {count} values with {len(values)}")
        # The last one stands for all that follow.
        return values + values[-1:] * (count - len(values))
    if letter is None:
        return _strings(content, count)
    if len(content) != count * struct.calcsize(f"<{letter}"):
        raise ValueError(f"a tensor of {count} values in {len(content)} bytes")
    return list(struct.unpack(f"<{count}{letter}", content))


def _strings(content: bytes, count: int) -> list[bytes]:
    """Split strings as EncodeStringList writes them: all lengths, as varints, then all bytes."""
    lengths, length, shift, at = [], 0, 0, 0
    while len(lengths) < count and at < len(content) and shift <= _VARINT_BITS:
        length |= (content[at] & 0x7F) << shift
        shift += 7
        if content[at] < 0x80:  # the last byte of this number
            lengths.append(length)
            length, shift = 0, 0
        at += 1
    if len(lengths) < count or at + sum(lengths) != len(content):
        raise ValueError(f"a tensor of {count} strings in {len(content)} bytes")
    ends = [at, *(at + total for total in itertools.accumulate(lengths))]
    return [content[begin:end] for begin, end in itertools.pairwise(ends)]


def _nested(values: list[object], sizes: Sequence[int]) -> object:
    """Return nested lists of a shape; a value alone for a scalar."""
    if not sizes:
        return values[0]
    length = math.prod(sizes[1:])
    return [_nested(values[at * length : (at + 1) * length], sizes[1:]) for at in range(sizes[0])]


_SERVICE = "/tensorflow.serving.PredictionService"
_OPTIONS = [
    ("grpc.max_send_message_length", -1),  # the caller has a limit of its own
    ("grpc.max_receive_message_length", connection.MAX_ANSWER_BYTES),
    ("grpc.enable_http_proxy", 0),
    # How long a channel waits, after it could not connect, before it looks again. gRPC's own
    # values, up to two minutes, would let a retry fail without having looked.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
# By gRPC's code: the status that TF Serving's REST has for it (http_server.cc), others 400.
# CANCELLED comes from a server that ends with the request in its hands.
_STATUSES = {
    "NOT_FOUND": HTTPStatus.NOT_FOUND,
    "UNIMPLEMENTED": HTTPStatus.NOT_IMPLEMENTED,
    "RESOURCE_EXHAUSTED": HTTPStatus.TOO_MANY_REQUESTS,
    "CANCELLED": HTTPStatus.SERVICE_UNAVAILABLE,
    "INTERNAL": HTTPStatus.INTERNAL_SERVER_ERROR,
    "DEADLINE_EXCEEDED": HTTPStatus.GATEWAY_TIMEOUT,
}
# gRPC's words for a message above a limit; RESOURCE_EXHAUSTED alone may be a full queue.
_TOO_LARGE = "larger than max"
# gRPC's words for certificates that do not fit, beside UNAVAILABLE.
_DISTRUST = "handshake failed"


class Connection(connection.Connection):
    """A connection by gRPC; no proxy is used."""

    def __init__(self, address: SplitResult, spec: ModelSpec, ca_file: str | None) -> None:
        super().__init__(address, spec)
        if address.scheme == "grpcs":
            # gRPC does not know the system's authorities; it uses its own where OpenSSL lists none.
            trusted = connection.tls_context(ca_file).get_ca_certs(binary_form=True)
            pem = "".join(map(ssl.DER_cert_to_PEM_cert, trusted)).encode() or None
            credentials = grpc.ssl_channel_credentials(pem)
            self._channel = grpc.secure_channel(address.netloc, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address.netloc, _OPTIONS)
        method = "Classify" if spec.signature == CLASSIFY else "Predict"
        # Without a serializer it takes and gives bytes.
        self._call = self._channel.unary_unary(f"{_SERVICE}/{method}")

    def _encode(self, photos: Sequence[bytes]) -> bytes:
        if self._spec.signature == CLASSIFY:
            message = MESSAGES["ClassificationRequest"]()
            for photo in photos:
                features = message.input.example_list.examples.add().features
                feature = features.feature.add(key=connection.PHOTO_FEATURE)
                feature.value.bytes_list.value.append(photo)
        else:
            message = MESSAGES["PredictRequest"]()
            tensor = message.inputs.add(key=connection.PHOTO_INPUT).value
            tensor.dtype = _DT_STRING
            tensor.string_val.extend(photos)
            tensor.tensor_shape.dim.add(size=len(photos))
        message.model_spec.name = self._spec.name
        message.model_spec.signature_name = self._spec.signature
        if self._spec.version is not None:
            message.model_spec.version.value = self._spec.version
        return message.SerializeToString()

    def _exchange(self, request: bytes, seconds: float) -> object:
        started = time.monotonic()
        try:
            content = self._call(request, timeout=seconds)
        except grpc.RpcError as error:
            is_late = time.monotonic() - started >= seconds
            raise self._failure(error.code().name, error.details(), seconds, is_late) from error
        try:
            if self._spec.signature != CLASSIFY:
                response = MESSAGES["PredictResponse"].FromString(content)
                return {entry.key: to_lists(entry.value) for entry in response.outputs}
            response = MESSAGES["ClassificationResponse"].FromString(content)
            return [
                [(entry.label.decode("utf-8", "replace"), entry.score) for entry in photo.classes]
                for photo in response.result.classifications
            ]
        except (ValueError, DecodeError) as error:
            raise CallFailed(
                f"{self._server} sent a broken message ({error}); check model"
            ) from error

    def close(self) -> None:
        """End the connection, and the request under way."""
        self._channel.close()

    def _failure(self, code: str, details: str | None, seconds: float, is_late: bool) -> CallFailed:
        details = details or "(nothing)"
        if code == "DEADLINE_EXCEEDED" and is_late:
            return self._late(seconds)
        if code == "UNAVAILABLE" and _DISTRUST in details.lower():
            return self._distrusted(details)
        if code == "UNAVAILABLE":
            # gRPC's own word for no connection, and TF Serving's for a full queue.
            return CallFailed(
                f"{self._server} cannot be reached, or is not available ({details}); start the "
                f"server, check that server is a gRPC port, or look into the server's log",
                is_transient=True,
            )
        is_too_large = code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in details
        status = _STATUSES.get(code, HTTPStatus.BAD_REQUEST)
        return self._refusal(code, status, details, is_too_large=is_too_large)

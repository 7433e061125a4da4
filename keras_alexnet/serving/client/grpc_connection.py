"""The client's side of TF Serving's gRPC service. Imports gRPC when it is used, TensorFlow never.

The calls are those of tensorflow/serving: prediction_service.proto.
"""

import os
import time
from collections.abc import Sequence

from keras_alexnet.serving.client import rest_connection
from keras_alexnet.serving.client.connection import (
    CLASSIFY,
    MAX_ANSWER_BYTES,
    ONLY_TF_SERVING,
    PHOTO_FEATURE,
    PHOTO_INPUT,
    Answer,
    CallFailed,
    ModelSpec,
    Request,
    read_answers,
)
from keras_alexnet.serving.client.rest_connection import Address

_SERVICE = "/tensorflow.serving.PredictionService"
_OPTIONS = [
    ("grpc.max_send_message_length", -1),  # the caller has a limit of its own
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.enable_http_proxy", 0),
    # How long a channel waits, after it could not connect, before it looks again. gRPC's own
    # values, up to two minutes, would let a retry fail without having looked.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
# Beside UNAVAILABLE: a full queue, and a server that ends with the request in its hands.
_TRANSIENT = ("RESOURCE_EXHAUSTED", "CANCELLED")
# gRPC's words for a message above a limit; RESOURCE_EXHAUSTED alone may be a full queue.
_TOO_LARGE = "larger than max"
# gRPC's words for certificates that do not fit, beside UNAVAILABLE.
_DISTRUST = "handshake failed"
_ADVICE = {
    "NOT_FOUND": "check model, model_version and server",
    "CANCELLED": "try again, or look into the server's log",
    "RESOURCE_EXHAUSTED": "try again, or look into the server's log",
    "INTERNAL": "try again, or look into the server's log",
    "DEADLINE_EXCEEDED": "try again, or look into the server's log",
}
_OTHER_ADVICE = "check that the model was exported by keras_alexnet.export, and signature"


class Connection:
    """A connection.Connection by gRPC; no proxy is used."""

    def __init__(self, address: Address, spec: ModelSpec, ca_file: str | None) -> None:
        # Read when gRPC is imported: it would write beside what the command says of a failure.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        try:
            import grpc
            from google.protobuf import message

            from keras_alexnet.serving.client import protos
        except ImportError as error:
            raise ValueError(
                f"grpcio is needed for {address.text} ({error}); "
                f"pip install 'keras-alexnet[serving]', or ask by http://"
            ) from error
        self._protos = protos
        self._rpc_error = grpc.RpcError
        self._decode_error = message.DecodeError
        self._server = address.text
        self._spec = spec
        host = f"[{address.host}]" if ":" in address.host else address.host
        target = f"{host}:{address.port}"
        if address.is_tls:
            credentials = grpc.ssl_channel_credentials(rest_connection.root_certificates(ca_file))
            self._channel = grpc.secure_channel(target, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, _OPTIONS)
        method = "Classify" if spec.signature == CLASSIFY else "Predict"
        # Without a serializer it takes and gives bytes.
        self._call = self._channel.unary_unary(f"{_SERVICE}/{method}")

    def encode(self, photos: Sequence[bytes]) -> Request:
        """See connection.Connection."""
        if self._spec.signature == CLASSIFY:
            message = self._protos.ClassificationRequest()
            for photo in photos:
                features = message.input.example_list.examples.add().features
                feature = features.feature.add(key=PHOTO_FEATURE)
                feature.value.bytes_list.value.append(photo)
        else:
            message = self._protos.PredictRequest()
            message.inputs.add(key=PHOTO_INPUT, value=self._protos.from_photos(photos))
        message.model_spec.name = self._spec.name
        message.model_spec.signature_name = self._spec.signature
        if self._spec.version is not None:
            message.model_spec.version.value = self._spec.version
        return Request(message.SerializeToString(), len(photos))

    def ask(self, request: Request, seconds: float) -> list[Answer]:
        """See connection.Connection."""
        started = time.monotonic()
        try:
            content = self._call(request.content, timeout=seconds)
        except self._rpc_error as error:
            is_late = time.monotonic() - started >= seconds
            raise self._failure(error.code().name, error.details(), seconds, is_late) from error
        try:
            if self._spec.signature == CLASSIFY:
                outputs = self._classifications(content)
            else:
                outputs = self._outputs(content)
        except (ValueError, self._decode_error) as error:
            raise CallFailed(
                f"{self._server} sent a broken message ({error}); check model"
            ) from error
        return read_answers(outputs, request, self._spec, self._server)

    def close(self) -> None:
        """See connection.Connection."""
        self._channel.close()

    def _outputs(self, content: bytes) -> dict[str, object]:
        response = self._protos.PredictResponse.FromString(content)
        return {entry.key: self._protos.to_lists(entry.value) for entry in response.outputs}

    def _classifications(self, content: bytes) -> list[list[tuple[str, float]]]:
        response = self._protos.ClassificationResponse.FromString(content)
        return [
            [(entry.label.decode("utf-8", "replace"), entry.score) for entry in photo.classes]
            for photo in response.result.classifications
        ]

    def _failure(self, code: str, details: str | None, seconds: float, is_late: bool) -> CallFailed:
        details = details or "(nothing)"
        if code == "DEADLINE_EXCEEDED" and is_late:
            return CallFailed(f"{self._server} did not answer in {seconds:.3g} s; raise deadline")
        if code == "UNAVAILABLE" and _DISTRUST in details.lower():
            return CallFailed(
                f"{self._server} cannot be trusted ({details}); check ca_file, and that "
                f"server speaks TLS"
            )
        if code == "UNAVAILABLE":
            # gRPC's own word for no connection, and TF Serving's for a full queue.
            return CallFailed(
                f"{self._server} cannot be reached, or is not available ({details}); start the "
                f"server, check that server is a gRPC port, or look into the server's log",
                is_transient=True,
            )
        is_too_large = code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in details
        advice = (
            "raise the limit of the server, or send a smaller photo"
            if is_too_large
            else _ADVICE.get(code, _OTHER_ADVICE)
        )
        if code == "UNIMPLEMENTED" and self._spec.signature == CLASSIFY:
            advice = ONLY_TF_SERVING
        return CallFailed(
            f"{self._server} answers {code}: {details}; {advice}",
            is_transient=code in _TRANSIENT and not is_too_large,
            is_too_large=is_too_large,
        )

"""TF Serving's gRPC services over the versions of a model, on its own protocol buffers.

PredictionService has Predict and GetModelMetadata, ModelService has GetModelStatus; the other
calls are UNIMPLEMENTED. The statuses of errors are TF Serving's (predict_util.cc,
get_model_metadata_impl.cc, server_core.cc).
"""


# The methods are called by the names that the .proto files give them.
# ruff: noqa: N802

import collections
import concurrent.futures
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import error_codes_pb2, meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_alexnet.serving.local_server import rest_api
from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.loaded_model import (
    DEFAULT_SIGNATURE,
    LoadedModel,
    require_inputs,
    require_tensor,
    shape_of,
)
from keras_alexnet.serving.local_server.served_versions import Activity, ServedVersions

_THREADS = 16
_SIGNATURE_DEF = "signature_def"
# Where a TensorProto keeps its values; of a type that is not named here, as bytes.
_VALUE_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int64: "int64_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}


def _refusal(call: str) -> Callable[..., None]:
    """Return the method of a call that TF Serving alone answers."""

    def refuse(self: "Services", request: message.Message, context: grpc.ServicerContext) -> None:
        del request
        with self._request(context):
            raise RequestError("UNIMPLEMENTED", rest_api.only_tensorflow_serving(call))

    return refuse


class Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Both services; `versions` is to be set before they are called.

    Args:
        activity: counts the requests.
        timeout: seconds that a request waits for others, unless the client sets less.
    """

    def __init__(self, *, activity: Activity, timeout: float) -> None:
        self.versions: ServedVersions | None = None
        self._activity = activity
        self._timeout = timeout

    Classify = _refusal("Classify")
    Regress = _refusal("Regress")
    MultiInference = _refusal("MultiInference")
    HandleReloadConfigRequest = _refusal("HandleReloadConfigRequest")

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Run a signature."""
        with self._request(context), self._model(request) as model:
            signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            outputs = model.predict(
                signature,
                _inputs(model.signature_inputs(signature), request.inputs),
                _output_filter(request.output_filter),
                self._seconds(context),
            )
            response = predict_pb2.PredictResponse(model_spec=_own_spec(model, signature))
            for name, array in outputs.items():
                response.outputs[name].CopyFrom(_to_proto(array))
            return response

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures."""
        with self._request(context):
            _require_spec(request)
            _require_signature_def(request.metadata_field)
            with self._model(request) as model:
                signatures = get_model_metadata_pb2.SignatureDefMap()
                for name, signature in model.signature_defs.items():
                    signatures.signature_def[name].CopyFrom(signature)
                response = get_model_metadata_pb2.GetModelMetadataResponse(
                    model_spec=_own_spec(model)
                )
            response.metadata[_SIGNATURE_DEF].Pack(signatures)
            return response

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the states of all versions, or of one; as in TF Serving, labels are ignored."""
        with self._request(context):
            _require_spec(request)
            spec = request.model_spec
            response = get_model_status_pb2.GetModelStatusResponse()
            for status in self.versions.statuses(spec.name, _version(spec)):
                response.model_version_status.add(
                    version=status.version,
                    state=status.state,
                    status={
                        "error_code": error_codes_pb2.Code.Value(status.error_code),
                        "error_message": status.error_message,
                    },
                )
            return response

    @contextlib.contextmanager
    def _request(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count a call, and turn what goes wrong into a status."""
        try:
            with self._activity.request("grpc"):
                yield
        except RequestError as error:
            context.abort(grpc.StatusCode[error.code], error.message)
        except Exception as error:  # a fault of ours; gRPC would print a traceback and say UNKNOWN
            context.abort(grpc.StatusCode.INTERNAL, repr(error))

    @contextlib.contextmanager
    def _model(self, request: message.Message) -> Iterator[LoadedModel]:
        """Return the version that a request is for."""
        _require_spec(request)
        spec = request.model_spec
        if not spec.name:
            raise RequestError("INVALID_ARGUMENT", "ModelSpec has no name specified.")
        rest_api.require_no_label(spec.version_label)
        with self.versions.use(spec.name, _version(spec)) as model:
            yield model

    def _seconds(self, context: grpc.ServicerContext) -> float:
        """Return the seconds that a request may wait for others."""
        left = context.time_remaining()
        return self._timeout if left is None else min(self._timeout, max(0.0, left))


def _inputs(
    declared: Mapping[str, meta_graph_pb2.TensorInfo] | None,
    protos: Mapping[str, tensor_pb2.TensorProto],
) -> dict[str, np.ndarray]:
    if declared is None:
        return {}  # predict says which signature is missing
    require_inputs(declared, protos)
    arrays = {}
    for name, proto in protos.items():
        # Before it is unpacked: a shape of a billion with one value is some bytes long.
        require_tensor(name, declared[name], _dtype(proto.dtype), shape_of(proto.tensor_shape))
        try:
            arrays[name] = tf.make_ndarray(proto)
        except (ValueError, TypeError) as error:
            raise RequestError(
                "INVALID_ARGUMENT", f"tensor parsing error: {name} ({error})"
            ) from error
    return arrays


def _output_filter(names: Sequence[str]) -> list[str]:
    for name, count in collections.Counter(names).items():
        if count > 1:
            raise RequestError("INVALID_ARGUMENT", f"duplicate output tensor alias: {name}")
    return list(names)


def _require_signature_def(fields: Sequence[str]) -> None:
    if not fields:
        raise RequestError(
            "INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in fields:
        if field != _SIGNATURE_DEF:
            raise RequestError("INVALID_ARGUMENT", f"Metadata field {field} is not supported")


def _own_spec(model: LoadedModel, signature: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model.name, signature_name=signature)
    spec.version.value = model.version
    return spec


def _dtype(number: int) -> tf.DType:
    try:
        return tf.as_dtype(number)
    except TypeError as error:
        raise RequestError("INVALID_ARGUMENT", f"there is no DataType {number}") from error


def _require_spec(request: message.Message) -> None:
    if not request.HasField("model_spec"):
        raise RequestError("INVALID_ARGUMENT", "Missing ModelSpec")


def _version(spec: model_pb2.ModelSpec) -> int | None:
    return spec.version.value if spec.HasField("version") else None


def _to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Return a TensorProto with its values in the field of their type, as TF Serving does.

    tf.make_tensor_proto packs them into tensor_content, which a client that reads float_val does
    not look into.
    """
    # NumPy's array of bytes objects is of dtype object, which TensorFlow calls string.
    dtype = tf.as_dtype(array.dtype)
    if dtype not in _VALUE_FIELDS:
        return tf.make_tensor_proto(array)
    proto = tf.make_tensor_proto([], dtype, [0])
    del proto.tensor_shape.dim[:]
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, _VALUE_FIELDS[dtype]).extend(array.ravel().tolist())
    return proto


def start(host: str, port: int, services: Services, max_body_bytes: int) -> tuple[grpc.Server, int]:
    """Return a server that has its port and does not serve yet, and the number of the port.

    Raises:
        RuntimeError: the port cannot be had.
    """
    # What is no protocol buffer is refused with a status; the traceback that gRPC logs besides
    # would let any client fill the disk.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", max_body_bytes),
            ("grpc.max_send_message_length", -1),
            # Without this, a second server on the same port takes half of the requests.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    bound = server.add_insecure_port(f"{host}:{port}")
    if not bound:
        raise RuntimeError(f"{host}:{port} cannot be bound")
    return server, bound

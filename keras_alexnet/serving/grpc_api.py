"""TF Serving's gRPC services over a loaded model, on its own protocol buffers.

PredictionService has Predict and GetModelMetadata, ModelService has GetModelStatus; the other
calls answer UNIMPLEMENTED.
"""

import concurrent.futures
import contextlib
from collections.abc import Iterator

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_alexnet.serving import rest_api
from keras_alexnet.serving.activity import Activity
from keras_alexnet.serving.loaded_model import (
    DEFAULT_SIGNATURE,
    LoadedModel,
    RequestError,
    require_inputs,
    require_tensor,
    shape_of,
)

_THREADS = 16
_SIGNATURE_DEF = "signature_def"
# Where a TensorProto keeps its values.
_VALUE_FIELDS = {
    tf.float32: "float_val",
    tf.int64: "int64_val",
    tf.int32: "int_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}


class Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Both services; `model` is to be set before they are called.

    Args:
        activity: counts the requests.
        timeout: seconds that a request waits for others, unless the client sets less.
    """

    def __init__(self, *, activity: Activity, timeout: float) -> None:
        self.model: LoadedModel | None = None
        self._activity = activity
        self._timeout = timeout

    def Predict(  # noqa: N802 (called by this name)
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs a signature."""
        with self._request(context):
            _require_spec(request)
            self.model.require(request.model_spec.name, _version(request.model_spec))
            signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            outputs = self.model.predict(
                signature,
                self._inputs(signature, request),
                request.output_filter,
                min(self._timeout, context.time_remaining() or self._timeout),
            )
            response = predict_pb2.PredictResponse()
            response.model_spec.CopyFrom(self._own_spec(signature))
            for name, array in outputs.items():
                response.outputs[name].CopyFrom(_to_proto(array))
            return response

    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures."""
        with self._request(context):
            _require_spec(request)
            if not request.metadata_field:
                raise RequestError(
                    "INVALID_ARGUMENT",
                    "GetModelMetadataRequest must specify at least one metadata_field",
                )
            for field in request.metadata_field:
                if field != _SIGNATURE_DEF:
                    raise RequestError(
                        "INVALID_ARGUMENT", f"Metadata field {field} is not supported"
                    )
            self.model.require(request.model_spec.name, _version(request.model_spec))
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in self.model.signature_defs.items():
                signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=self._own_spec())
            response.metadata[_SIGNATURE_DEF].Pack(signatures)
            return response

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """That the version is there."""
        with self._request(context):
            _require_spec(request)
            rest_api.require_known(
                self.model, request.model_spec.name, _version(request.model_spec)
            )
            response = get_model_status_pb2.GetModelStatusResponse()
            response.model_version_status.add(
                version=self.model.version,
                state=get_model_status_pb2.ModelVersionStatus.AVAILABLE,
                status={"error_code": 0},
            )
            return response

    @contextlib.contextmanager
    def _request(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Around a call: counts it, and turns what goes wrong into a status."""
        try:
            with self._activity.request():
                yield
        except RequestError as error:
            context.abort(grpc.StatusCode[error.code], error.message)
        except Exception as error:  # a fault of ours; gRPC would print a traceback and say UNKNOWN
            context.abort(grpc.StatusCode.INTERNAL, repr(error))

    def _own_spec(self, signature: str = "") -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self.model.name, signature_name=signature)
        spec.version.value = self.model.version
        return spec

    def _inputs(self, signature: str, request: predict_pb2.PredictRequest) -> dict[str, np.ndarray]:
        declared = self.model.signature_inputs(signature)
        if declared is None:
            return {}  # predict says which signature is missing
        require_inputs(declared, request.inputs)
        arrays = {}
        for name, proto in request.inputs.items():
            dtype = _dtype(proto.dtype)
            # Before it is unpacked: a shape of a billion with one value is some bytes long.
            require_tensor(name, declared[name], dtype, shape_of(proto.tensor_shape))
            try:
                arrays[name] = tf.make_ndarray(proto)
            except (ValueError, TypeError) as error:
                raise RequestError(
                    "INVALID_ARGUMENT", f"input {name} is a broken TensorProto: {error}"
                ) from error
        return arrays


def _dtype(number: int) -> tf.DType:
    try:
        return tf.as_dtype(number)
    except TypeError as error:
        raise RequestError("INVALID_ARGUMENT", f"there is no DataType {number}") from error


def _require_spec(request: object) -> None:
    if not request.HasField("model_spec"):
        raise RequestError("INVALID_ARGUMENT", "Missing ModelSpec")
    if request.model_spec.version_label:
        raise RequestError(
            "INVALID_ARGUMENT",
            f"Unrecognized servable version label: {request.model_spec.version_label}",
        )


def _version(spec: model_pb2.ModelSpec) -> int | None:
    return spec.version.value if spec.HasField("version") else None


def _to_proto(array: np.ndarray) -> object:
    """A TensorProto with its values in the field of their type, where TF Serving puts them.

    tf.make_tensor_proto packs them into tensor_content, which a client that reads float_val does
    not look into.
    """
    dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
    proto = tf.make_tensor_proto([], dtype, [0])
    del proto.tensor_shape.dim[:]
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, _VALUE_FIELDS[dtype]).extend(array.ravel().tolist())
    return proto


def start(host: str, port: int, services: Services, max_body_bytes: int) -> tuple[grpc.Server, int]:
    """A server that has its port and does not serve yet, and the number of the port.

    Raises:
        RuntimeError: the port cannot be had.
    """
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

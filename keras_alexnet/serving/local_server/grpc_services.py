"""TF Serving's gRPC services over the versions of a model, on its own protocol buffers.

PredictionService has Predict and GetModelMetadata, ModelService has GetModelStatus; the other
calls are UNIMPLEMENTED. The statuses of errors are TF Serving's (predict_util.cc,
get_model_metadata_impl.cc, server_core.cc).
"""


# The methods are called by the names that the .proto files give them.
# ruff: noqa: N802

import concurrent.futures
import contextlib
import logging
from collections.abc import Iterator

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_alexnet.serving.local_server import rest_api
from keras_alexnet.serving.local_server.errors import RequestError, invalid
from keras_alexnet.serving.local_server.loaded_model import (
    DEFAULT_SIGNATURE,
    LoadedModel,
    shape_of,
)
from keras_alexnet.serving.local_server.metrics import Activity
from keras_alexnet.serving.local_server.served_versions import ServedVersions

_THREADS = 16
_SIGNATURE_DEF = "signature_def"
# Where a TensorProto keeps its values; of a type that is not named here, as bytes.
_VALUE_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
    **dict.fromkeys((tf.int32, tf.int16, tf.int8, tf.uint8), "int_val"),
}


class Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Both services; `versions` is to be set before they are called.

    Args:
        activity: counts the requests.
        timeout: seconds that a request waits for others, unless the client sets less.
    """

    def __init__(self, activity: Activity, timeout: float) -> None:
        self.versions: ServedVersions | None = None
        self._activity = activity
        self._timeout = timeout

    def _refuse(self, request: message.Message, context: grpc.ServicerContext) -> None:
        """Refuse a call that TF Serving alone answers."""
        del request
        with self._request(context):
            raise RequestError("UNIMPLEMENTED", rest_api.ONLY_TENSORFLOW_SERVING)

    Classify = Regress = MultiInference = HandleReloadConfigRequest = _refuse

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Run a signature."""
        with self._request(context), self._model(request) as model:
            signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            left = context.time_remaining()
            outputs = model.predict(
                signature,
                _inputs(model, signature, request),
                list(request.output_filter),
                self._timeout if left is None else min(self._timeout, left),
            )
            response = predict_pb2.PredictResponse(model_spec=_own_spec(model, signature))
            for name, array in outputs.items():
                response.outputs[name].CopyFrom(_to_proto(array))
            return response

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures."""
        with self._request(context), self._model(request) as model:
            if set(request.metadata_field) != {_SIGNATURE_DEF}:
                raise invalid(
                    f"metadata_field must be {_SIGNATURE_DEF}, received {request.metadata_field}"
                )
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in model.signature_defs.items():
                signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_own_spec(model))
            response.metadata[_SIGNATURE_DEF].Pack(signatures)
            return response

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the states of all versions, or of one; as in TF Serving, labels are ignored."""
        with self._request(context):
            name, version, _ = _asked(request)
            response = get_model_status_pb2.GetModelStatusResponse()
            for status in self.versions.statuses(name, version):
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
        end, code = lambda code: None, "OK"
        try:
            end = self._activity.begin("grpc")
            yield
        except RequestError as error:
            code = error.code
            context.abort(grpc.StatusCode[code], str(error))
        except Exception as error:  # a fault of ours; gRPC would print a traceback and say UNKNOWN
            code = "INTERNAL"
            context.abort(grpc.StatusCode.INTERNAL, repr(error))
        finally:
            end(code)

    @contextlib.contextmanager
    def _model(self, request: message.Message) -> Iterator[LoadedModel]:
        """Return the version that a request is for."""
        name, version, label = _asked(request)
        if not name:
            raise invalid("ModelSpec has no name specified.")
        with self.versions.use(name, version, label) as model:
            yield model


def _inputs(
    model: LoadedModel, signature: str, request: predict_pb2.PredictRequest
) -> dict[str, np.ndarray]:
    protos = request.inputs.items()
    try:
        given = {name: (tf.as_dtype(proto.dtype), shape_of(proto)) for name, proto in protos}
        # Before they are unpacked: a shape of a billion with one value is some bytes long.
        model.require_inputs(signature, given)
        return {name: tf.make_ndarray(proto) for name, proto in protos}
    except (ValueError, TypeError) as error:
        raise invalid(f"tensor parsing error: {error}") from error


def _own_spec(model: LoadedModel, signature: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model.name, signature_name=signature)
    spec.version.value = model.version
    return spec


def _asked(request: message.Message) -> tuple[str, int | None, str]:
    """Return name, version and label of the model that a request is for."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec = request.model_spec
    return spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label


def _to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Return a TensorProto with its values in the field of their type, as TF Serving does.

    tf.make_tensor_proto packs them into tensor_content, which a client that reads float_val does
    not look into.
    """
    # NumPy's array of bytes objects is of dtype object, which TensorFlow calls string.
    dtype = tf.as_dtype(array.dtype)
    if dtype not in _VALUE_FIELDS:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(
        dtype=dtype.as_datatype_enum, tensor_shape=tf.TensorShape(array.shape).as_proto()
    )
    getattr(proto, _VALUE_FIELDS[dtype]).extend(array.ravel().tolist())
    return proto


def start(address: str, services: Services, max_body_bytes: int) -> tuple[grpc.Server, int]:
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
    bound = server.add_insecure_port(address)
    if not bound:
        raise RuntimeError(f"{address} cannot be bound")
    return server, bound

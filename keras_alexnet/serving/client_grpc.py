"""The client's side of TF Serving's gRPC service. Imports gRPC and TensorFlow when it is used."""

from collections.abc import Mapping, Sequence

from data_prep.command_line import UserError


def predict(
    server: str, model: str, signature: str, photos: Sequence[bytes], timeout: float
) -> Mapping[str, Sequence[object]]:
    """Sends photos to a signature whose input is `image_bytes`.

    Args:
        server: "grpc://HOST:PORT".
        model: its name.
        signature: its name.
        photos: contents of files.
        timeout: seconds.

    Returns:
        An entry a photo, by the name of the output.

    Raises:
        UserError: no answer, an error, or the packages are not installed.
    """
    try:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
    except ImportError as error:
        raise UserError(
            f"grpcio and tensorflow-serving-api are needed for {server} ({error}); "
            f"pip install 'keras-alexnet[serving]', or ask by http://"
        ) from error
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs["image_bytes"].CopyFrom(
        tf.make_tensor_proto(list(photos), tf.string, [len(photos)])
    )
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_http_proxy", 0),
    ]
    address = server.removeprefix("grpc://").rstrip("/")
    with grpc.insecure_channel(address, options=options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            response = stub.Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            raise _user_error(server, error.code().name, error.details(), timeout) from error
    try:
        outputs = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
    except (ValueError, TypeError) as error:
        raise UserError(f"{server} sent a broken tensor ({error}); check --model") from error
    return {
        name: _decoded(array) if array.dtype == object else array.tolist()
        for name, array in outputs.items()
    }


def _decoded(array: object) -> list:
    return [[value.decode("utf-8", "replace") for value in row] for row in array.tolist()]


def _user_error(server: str, code: str, details: str, timeout: float) -> UserError:
    if code == "UNAVAILABLE":
        return UserError(
            f"{server} cannot be reached ({details}); start the server, or check that --server "
            f"is a gRPC port"
        )
    if code == "DEADLINE_EXCEEDED":
        return UserError(f"{server} did not answer in {timeout:g} s; raise --timeout")
    advice = (
        "check --model"
        if code == "NOT_FOUND"
        else "check that the model was exported by keras_alexnet.export"
    )
    return UserError(f"{server} answers {code}: {details}; {advice}")

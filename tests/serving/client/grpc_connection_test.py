"""Against TensorFlow, gRPC and the official protocol buffers."""

import concurrent.futures
import contextlib
import socket
import subprocess
import sys

import grpc
import numpy as np
import pytest
import serving_answers
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool
from serving_answers import Service, as_content, as_fields, ask, expected, grpc_server, photo
from tensorflow_serving.apis import predict_pb2

from keras_alexnet.serving.client import grpc_connection
from keras_alexnet.serving.client.connection import UNREADABLE, CallFailed

OFFICIAL = descriptor_pool.Default()
# The messages that have another name, or another package than tensorflow or tensorflow.serving.
NAMES = {
    "Dim": "tensorflow.TensorShapeProto.Dim",
    "Int64Value": "google.protobuf.Int64Value",
    "TensorEntry": "tensorflow.serving.PredictRequest.InputsEntry",
    "FeatureEntry": "tensorflow.Features.FeatureEntry",
}
# Where the two are written differently and are the same on the wire.
SAME_ON_THE_WIRE = {("TensorProto", "dtype"), ("Class", "label")}


def fields(descriptor):
    """Return fields by name as descriptors have them, in every version of protobuf."""
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    return {field.name: field for field in proto.field}


def official(name):
    for full_name in (f"tensorflow.serving.{name}", f"tensorflow.{name}"):
        with contextlib.suppress(KeyError):
            return OFFICIAL.FindMessageTypeByName(NAMES.get(name, full_name))
    raise AssertionError(name)


@pytest.mark.parametrize("name", list(grpc_connection.MESSAGES))
def test_fields_are_the_official_ones(name):
    ours, theirs = fields(grpc_connection.MESSAGES[name].DESCRIPTOR), fields(official(name))
    assert ours
    for field in ours.values():
        assert field.number == theirs[field.name].number
        assert field.label == theirs[field.name].label
        if (name, field.name) not in SAME_ON_THE_WIRE:
            assert field.type == theirs[field.name].type


ARRAYS = [
    np.array([[0.25, -1e-30, 3e38], [0.1, 0, 1]], np.float32),
    np.array([[1, -(2**62)], [2**63 - 1, 0]], np.int64),
    np.array([[7, -(2**31)]], np.int32),
    np.array([True, False, True]),
    np.array([[b"n\xc3\xa4ve", b""], [b"x" * 300, b"\x00"], [b"no \xff", b""]], "O"),
    np.full([2, 3], np.float32(2.5)),  # make_tensor_proto writes one value for all
    np.array(np.float32(0.5)),
    np.zeros([0, 5], np.float32),
]


@pytest.mark.parametrize(
    ("to_proto", "array"),
    [
        *((to_proto, array) for to_proto in (as_fields, tf.make_tensor_proto) for array in ARRAYS),
        *((as_content, array) for array in ARRAYS if array.size),
    ],
)
def test_values(to_proto, array):
    content = to_proto(array).SerializeToString()
    if array.dtype == object:
        array = np.vectorize(lambda value: value.decode("utf-8", "replace"), otypes="O")(array)
    tensor = grpc_connection.MESSAGES["TensorProto"].FromString(content)
    assert grpc_connection.to_lists(tensor) == array.tolist()


@pytest.mark.parametrize(
    ("sizes", "fields", "message"),
    [
        ([1], {"dtype": 999, "float_val": [1]}, "DataType 999"),
        ([1], {}, "DataType 0"),
        ([-1], {"dtype": 1, "float_val": [1]}, "without a shape"),
        (None, {"dtype": 1, "float_val": [1]}, "without a shape"),
        ([2**62], {"dtype": 1, "float_val": [1]}, "of the shape"),
        ([2, 2**40, 0], {"dtype": 1}, "of the shape"),
        ([1] * 300, {"dtype": 1, "float_val": [1]}, "of the shape"),
        ([2], {"dtype": 1}, "2 values with 0"),
        ([], {"dtype": 1}, "1 values with 0"),
        ([1], {"dtype": 1, "float_val": [1, 2]}, "1 values with 2"),
        ([2], {"dtype": 1, "tensor_content": b"1234567"}, "2 values in 7 bytes"),
        ([2], {"dtype": 7, "tensor_content": b"\x01"}, "2 strings in 1 bytes"),
        ([2], {"dtype": 7, "tensor_content": b"\x01\x05ab"}, "2 strings in 4 bytes"),
        ([1], {"dtype": 7, "tensor_content": b"\x01ab"}, "1 strings in 3 bytes"),
        ([1], {"dtype": 7, "tensor_content": b"\xff" * 100000}, "1 strings in 100000 bytes"),
    ],
)
def test_broken_tensors(sizes, fields, message):
    tensor = grpc_connection.MESSAGES["TensorProto"](**fields)
    tensor.tensor_shape.unknown_rank = sizes is None
    for size in sizes or []:
        tensor.tensor_shape.dim.add(size=size)
    with pytest.raises(ValueError, match=message):
        grpc_connection.to_lists(tensor)


@pytest.fixture(scope="module")
def started():
    service = Service()
    with grpc_server(service, options=[("grpc.max_receive_message_length", 30 << 20)]) as address:
        service.address = address
        yield service


@pytest.fixture
def service(started):
    """Return a server that answers rightly, until a test sets `before`."""
    started.asked.clear()
    started.before, started.to_proto = (lambda request, context: None), as_fields
    return started


@pytest.mark.parametrize("to_proto", [as_fields, as_content])
def test_predict(service, to_proto):
    photos = [photo("a"), b"\xff\x00", b"", photo("naïve")]
    service.to_proto = to_proto
    answers = ask(service.address, photos)
    assert answers == [*expected("a"), UNREADABLE, UNREADABLE, *expected("naïve")]
    (request,) = service.asked
    assert request.model_spec.name == "birds"
    assert request.model_spec.signature_name == "serving_default"
    assert not request.model_spec.HasField("version")
    assert list(request.inputs) == ["image_bytes"]
    assert tf.make_ndarray(request.inputs["image_bytes"]).tolist() == photos


def test_classify(service):
    photos = [photo("a"), b"\xff"]
    answers = ask(service.address, photos, model_version=0, signature="classify")
    assert answers == [*expected("a", ids=False), UNREADABLE]
    (request,) = service.asked
    assert request.model_spec.HasField("version")
    assert (request.model_spec.version.value, request.model_spec.signature_name) == (0, "classify")


def refuse(code, details):
    return lambda request, context: context.abort(grpc.StatusCode[code], details)


@pytest.mark.parametrize(
    ("code", "details", "message", "kind"),
    [
        ("NOT_FOUND", "no: Latest(b)", r"\(b\); check model, m", ""),
        ("FAILED_PRECONDITION", 'Serving signature key "x" not found.', "found.; check that t", ""),
        ("INVALID_ARGUMENT", "two\nlines", "answers INVALID_ARGUMENT: two lines; check that", ""),
        ("INTERNAL", "", r"answers INTERNAL: \(nothing\); try again", ""),
        ("DEADLINE_EXCEEDED", "queue", "answers DEADLINE_EXCEEDED: queue; try again", ""),
        ("UNAVAILABLE", "The batch queue is full", r"not available \(The batch.*log$", "transient"),
        ("RESOURCE_EXHAUSTED", "full", "answers RESOURCE_EXHAUSTED: full; try", "transient"),
        ("CANCELLED", "", r"answers CANCELLED: \(nothing\); try again", "transient"),
        ("UNIMPLEMENTED", "no Predict", "UNIMPLEMENTED: no Predict; check", ""),
    ],
)
def test_refusals(service, code, details, message, kind):
    service.before = refuse(code, details)
    with pytest.raises(CallFailed, match=message) as failure:
        ask(service.address)
    assert failure.value.is_transient == (kind == "transient")
    assert not failure.value.is_too_large
    assert "\n" not in str(failure.value)


def response(**outputs):
    answer = predict_pb2.PredictResponse()
    for name, array in {**serving_answers.arrays([photo("a")]), **outputs}.items():
        answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
    return answer


def test_a_large_request_and_a_large_answer(service):
    """Beyond the 4 MB that gRPC takes by itself, up to the server's limit."""
    service.before = lambda request, context: response(more=[b"x" * (20 << 20)])
    assert ask(service.address, [photo("a", 20 << 20)]) == expected("a")
    with pytest.raises(CallFailed, match=r"larger than max.*raise the limit") as failure:
        ask(service.address, [photo("a", 31 << 20)])
    assert failure.value.is_too_large
    assert not failure.value.is_transient


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response(valid=3), "does not answer as a model"),
        (response(valid=True), "does not answer as a model"),
        (response(scores=[0.5]), "does not answer as a model"),
        (response(scores=[[float("inf"), 0]]), "does not answer as a model"),
        (response(scores=tf.constant([[0.5, 0.5]], tf.float16)), r"broken message.*DataType 19\b"),
        (response(classes=[[b"a", b"b"]] * 2), "does not answer as a model"),
        (predict_pb2.PredictResponse(), "does not answer as a model"),  # another signature
    ],
)
def test_another_kind_of_model(service, answer, message):
    service.before = lambda request, context: answer
    with pytest.raises(CallFailed, match=message):
        ask(service.address)


def test_what_is_no_message():
    class Rubbish(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff" * 50)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[Rubbish()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        for signature in ("serving_default", "classify"):
            with pytest.raises(CallFailed, match="sent a broken message"):
                ask(f"grpc://127.0.0.1:{port}", signature=signature)
    finally:
        server.stop(0).wait()


def test_a_server_that_does_not_speak():
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(CallFailed, match=r"did not answer in 0\.3 s|cannot be reached"),
    ):
        ask(f"grpc://127.0.0.1:{silent.getsockname()[1]}", deadline=0.3)


def test_proxies_are_not_used(service, monkeypatch):
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{serving_answers.free_port()}")
    assert ask(service.address) == expected("a")


def test_without_grpc():
    """In a process that has no such package, as an installation without the extra."""
    code = (
        "import sys\n"
        "sys.modules['grpc'] = None\n"
        "from keras_alexnet.serving import client\n"
        "try: client.classify(server='grpc://localhost:1', photos=[b''])\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'keras-alexnet[serving]', or ask by http://" in done.stdout

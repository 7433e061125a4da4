import concurrent.futures
import contextlib
import socket
import subprocess
import sys
import threading

import grpc
import pytest
import serving_answers
import tensorflow as tf
from serving_answers import Service, as_content, grpc_server, photo, rest_server
from tensorflow_serving.apis import predict_pb2

from keras_alexnet.serving.client import grpc_connection
from keras_alexnet.serving.client.connection import (
    UNREADABLE,
    Answer,
    CallFailed,
    ModelSpec,
    Retries,
    parse,
)

SPEC = ModelSpec("birds", None, "serving_default")


@contextlib.contextmanager
def connected(server, spec=SPEC, ca_file=None):
    address = parse(server)
    with contextlib.closing(grpc_connection.Connection(address, spec, ca_file)) as connection:
        yield connection


def ask(server, photos=(b"photo a",), spec=SPEC, seconds=30.0, ca_file=None):
    with connected(server, spec, ca_file) as connection:
        return connection.ask(connection.encode(photos), seconds)


def expected(*names, ids=True):
    return [
        Answer(True, (f"class of {name}", "other"), (len(name), 3) if ids else (), (0.75, 0.25))
        for name in names
    ]


@pytest.mark.parametrize("to_proto", [serving_answers.as_fields, as_content])
def test_predict(to_proto):
    photos = [photo("a"), b"\xff\x00", b"", photo("naïve")]
    service = Service(to_proto=to_proto)
    with grpc_server(service) as server:
        answers = ask(server, photos)
    assert answers == [*expected("a"), UNREADABLE, UNREADABLE, *expected("naïve")]
    (request,) = service.asked
    assert request.model_spec.name == "birds"
    assert request.model_spec.signature_name == "serving_default"
    assert not request.model_spec.HasField("version")
    assert list(request.inputs) == ["image_bytes"]
    assert tf.make_ndarray(request.inputs["image_bytes"]).tolist() == photos


def test_classify():
    service = Service()
    spec = ModelSpec("birds", 0, "classify")
    with grpc_server(service) as server:
        answers = ask(server, [photo("a"), b"\xff"], spec)
    assert answers == [*expected("a", ids=False), UNREADABLE]
    (request,) = service.asked
    assert request.model_spec.HasField("version")
    assert (request.model_spec.version.value, request.model_spec.signature_name) == (0, "classify")


def refuse(code, details):
    return lambda request, context: context.abort(grpc.StatusCode[code], details)


@pytest.mark.parametrize(
    ("code", "details", "message", "kind"),
    [
        (
            "NOT_FOUND",
            "Servable not found for request: Latest(b)",
            r"\(b\); check model, m",
            "",
        ),
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
def test_refusals(code, details, message, kind):
    with (
        grpc_server(Service(refuse(code, details))) as server,
        pytest.raises(CallFailed, match=message) as failure,
    ):
        ask(server)
    assert failure.value.is_transient == (kind == "transient")
    assert not failure.value.is_too_large
    assert "\n" not in str(failure.value)


def test_a_request_above_the_servers_limit():
    service = Service()
    limit = [("grpc.max_receive_message_length", 100_000)]
    with grpc_server(service, options=limit) as server:
        with pytest.raises(CallFailed, match=r"larger than max.*raise the limit") as failure:
            ask(server, [photo("a", 200_000)])
        assert ask(server, [photo("a", 50_000)]) == expected("a")
    assert failure.value.is_too_large
    assert not failure.value.is_transient


def test_a_large_request_and_a_large_answer():
    """Beyond the 4 MB that gRPC takes by itself."""

    def answer(request, context):
        response = predict_pb2.PredictResponse()
        outputs = serving_answers.arrays([photo("a")])
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(serving_answers.as_fields(array))
        response.outputs["more"].CopyFrom(tf.make_tensor_proto([b"x" * (20 << 20)]))
        return response

    with grpc_server(Service(answer), options=[("grpc.max_receive_message_length", -1)]) as server:
        assert ask(server, [photo("a", 20 << 20)]) == expected("a")


def response(**outputs):
    answer = predict_pb2.PredictResponse()
    arrays = {**serving_answers.arrays([photo("a")]), **outputs}
    for name, array in arrays.items():
        answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
    return answer


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"valid": 3}, "does not answer as a model"),
        ({"valid": True}, "does not answer as a model"),
        ({"scores": [0.5]}, "does not answer as a model"),
        ({"scores": [[float("inf"), 0]]}, "does not answer as a model"),
        ({"scores": tf.constant([[0.5, 0.5]], tf.float16)}, r"broken message.*DataType 19\b"),
        ({"classes": [[b"a", b"b"]] * 2}, "does not answer as a model"),
    ],
)
def test_another_kind_of_model(outputs, message):
    service = Service(lambda request, context: response(**outputs))
    with grpc_server(service) as server, pytest.raises(CallFailed, match=message):
        ask(server)


def test_another_signature():
    service = Service(lambda request, context: predict_pb2.PredictResponse())
    with grpc_server(service) as server, pytest.raises(CallFailed, match="does not answer as a mo"):
        ask(server)


def test_rubbish():
    class Rubbish(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff" * 50)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[Rubbish()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        for signature in ("serving_default", "classify"):
            with pytest.raises(CallFailed, match="sent a broken message"):
                ask(f"grpc://127.0.0.1:{port}", spec=ModelSpec("birds", None, signature))
    finally:
        server.stop(0).wait()


def in_turn(*refusals):
    remaining = list(refusals)
    return lambda request, context: remaining.pop(0)(request, context) if remaining else None


def test_what_is_tried_again():
    before = in_turn(refuse("UNAVAILABLE", "busy"), refuse("RESOURCE_EXHAUSTED", "full"))
    service, slept = Service(before), []
    retries = Retries(sleep=slept.append, random=lambda: 1.0)
    with grpc_server(service) as server, connected(server) as connection:
        request = connection.encode([photo("a")])
        answer = retries.run(lambda seconds: connection.ask(request, seconds))
    assert answer == (expected("a"), 2)
    assert slept == [0.5, 1.0]
    assert len(service.asked) == 3


def test_a_server_that_comes_back():
    """On the same connection."""
    port = serving_answers.free_port()
    retries = Retries(limit=60, random=lambda: 0.0)
    with connected(f"grpc://127.0.0.1:{port}") as connection:
        request = connection.encode([photo("a")])
        with pytest.raises(CallFailed, match="cannot be reached") as failure:
            connection.ask(request, 30)
        assert failure.value.is_transient
        for _ in range(2):
            with grpc_server(Service(), port=port):
                answer, _ = retries.run(lambda seconds: connection.ask(request, seconds))
                assert answer == expected("a")


def test_a_server_that_never_answers():
    end = threading.Event()
    service = Service(lambda request, context: end.wait(60) and None)
    try:
        with (
            grpc_server(service) as server,
            pytest.raises(CallFailed, match=r"did not answer in 0\.3 s; raise deadline$"),
        ):
            ask(server, seconds=0.3)
    finally:
        end.set()


def test_a_server_that_does_not_speak():
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(CallFailed, match=r"did not answer in 0\.3 s|cannot be reached"),
    ):
        ask(f"grpc://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)


def test_a_rest_port():
    with rest_server() as server, pytest.raises(CallFailed, match="server is a gRPC port"):
        ask(server.address.replace("http", "grpc"), seconds=10)


def test_close_ends_the_request_under_way():
    is_asked, end = threading.Event(), threading.Event()
    failures = []
    service = Service(lambda request, context: is_asked.set() or (end.wait(60) and None))

    def wait(connection, request):
        try:
            connection.ask(request, 50)
        except CallFailed as failure:
            failures.append(str(failure))

    try:
        with grpc_server(service) as server, connected(server) as connection:
            request = connection.encode([photo("a")])
            thread = threading.Thread(target=wait, args=(connection, request))
            thread.start()
            assert is_asked.wait(30)
            connection.close()
            thread.join(30)
            assert "CANCELLED" in failures[0]
    finally:
        end.set()


def test_tls(tmp_path, monkeypatch):
    own, other = serving_answers.certificate(tmp_path), serving_answers.certificate(tmp_path, "x")
    with grpc_server(Service(), tls=own) as server:
        assert ask(server, ca_file=own[0]) == expected("a")
        for ca_file in (None, other[0]):
            with pytest.raises(CallFailed, match=r"cannot be trusted.*check ca_file") as failure:
                ask(server, ca_file=ca_file)
            assert not failure.value.is_transient
        with pytest.raises(CallFailed, match=r"cannot be (trusted|reached)"):  # another name
            ask(server.replace("localhost", "127.0.0.1"), ca_file=own[0])
        monkeypatch.setenv("SSL_CERT_FILE", own[0])  # the system's authorities
        assert ask(server) == expected("a")
    with pytest.raises(ValueError, match=r"PEM file of certificates is needed.*check ca_file"):
        ask("grpcs://localhost:1", ca_file=str(tmp_path / "none.pem"))


def test_proxies_are_not_asked(monkeypatch):
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{serving_answers.free_port()}")
    with grpc_server(Service()) as server:
        assert ask(server) == expected("a")


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

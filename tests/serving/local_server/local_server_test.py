import concurrent.futures
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import stand_in
import tensorflow as tf
from prometheus_client.parser import text_string_to_metric_families
from repository import ROOT
from served import b64, predict_request, serving
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from data_prep.command_line import UserError
from keras_alexnet import export
from keras_alexnet.serving.local_server import http_server
from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.server import Settings, serve

pytestmark = pytest.mark.slow

PHOTOS = [stand_in.photo(300, 400, seed=seed) for seed in range(3)]
LIMIT = 2 << 20


@pytest.fixture(scope="module")
def run():
    return stand_in.trained_run()


@pytest.fixture(scope="module")
def model_dir(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local_server") / "birds"
    (folder / "6").mkdir(parents=True)  # broken, but not the highest
    stand_in.publish(folder, version=7)
    return folder


@pytest.fixture(scope="module")
def server(model_dir):
    with serving(model_dir, max_body_bytes=LIMIT, timeout=5) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server["grpc"].removeprefix("grpc://")) as channel:
        yield channel


def ask(server, path, body=None, method=None):
    """(status, parsed body) of a request below /v1/models/."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server['http']}/v1/models/{path}", data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def expected_scores(run, photos):
    """By Pillow and OpenCV, NumPy, and the network itself."""
    from data_prep.photos import images

    stored = [images.resize_and_crop(stand_in.decoded(photo), 256) for photo in photos]
    return stand_in.scores(run, np.stack(stored))


def assert_right(run, photos, rows):
    for row, scores in zip(rows, expected_scores(run, photos), strict=True):
        order = np.argsort(-scores)[:5]
        assert row["class_ids"] == order.tolist()
        assert row["classes"] == [run.classes[index].name for index in order]
        np.testing.assert_allclose(row["scores"], scores[order], atol=1e-3)
        assert row["valid"] is True


def test_rows(run, server):
    for instances in (
        [b64(photo) for photo in PHOTOS],
        [{"image_bytes": b64(photo)} for photo in PHOTOS],
    ):
        status, answer = ask(server, "birds:predict", {"instances": instances})
        assert status == 200
        assert_right(run, PHOTOS, answer["predictions"])


def test_columns(run, server):
    photos = [b64(photo) for photo in PHOTOS]
    for inputs in (photos, {"image_bytes": photos}):
        status, answer = ask(server, "birds/versions/7:predict", {"inputs": inputs})
        assert status == 200
        columns = answer["outputs"]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        assert_right(run, PHOTOS, rows)


def test_signatures_by_name(run, server):
    image = stand_in.pixels(256, 256)
    scores = stand_in.scores(run, image[np.newaxis])[0]
    status, answer = ask(
        server, "birds:predict", {"signature_name": "pixels", "instances": [image.tolist()]}
    )
    assert status == 200
    np.testing.assert_allclose(answer["predictions"][0]["scores"], -np.sort(-scores)[:5], atol=1e-5)
    body = {"signature_name": "features", "instances": [b64(PHOTOS[0])]}
    status, answer = ask(server, "birds:predict", body)
    assert len(answer["predictions"][0]["features"]) == stand_in.PROFILE.fc_units[1]


def test_bad_photo_harms_no_other(run, server):
    photos = [PHOTOS[0], b"no photo", PHOTOS[1]]
    _, answer = ask(server, "birds:predict", {"instances": [b64(photo) for photo in photos]})
    rows = answer["predictions"]
    assert_right(run, PHOTOS[:2], [rows[0], rows[2]])
    assert rows[1] == {
        "classes": [""] * 5,
        "class_ids": [-1] * 5,
        "scores": [0.0] * 5,
        "valid": False,
    }


def test_status_and_metadata(server):
    version = {
        "version": "7",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    for path in ("birds", "birds/versions/7"):
        assert ask(server, path) == (200, {"model_version_status": [version]})
    status, metadata = ask(server, "birds/metadata")
    assert status == 200
    assert metadata["model_spec"] == {"name": "birds", "signature_name": "", "version": "7"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert signature["inputs"]["image_bytes"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }


PHOTO = b64(b"no photo")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (
            "cats:predict",
            {"instances": [PHOTO]},
            404,
            "Servable not found for request: Latest(cats)",
        ),
        (
            "birds/versions/6:predict",
            {"instances": [PHOTO]},
            404,
            "Servable not found for request: Specific(birds, 6)",
        ),
        ("cats", None, 404, "Could not find any versions of model cats"),
        ("birds/versions/6", None, 404, "Could not find version 6 of model birds"),
        ("cats/metadata", None, 404, "Servable not found for request: Latest(cats)"),
        ("birds/labels/x:predict", {}, 400, "Unrecognized servable version label: x"),
        ("birds:predict/x", {}, 400, "Malformed request: POST /v1/models/birds:predict/x"),
        ("birds:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("birds:predict", b"{", 400, "JSON Parse error"),
        ("birds:predict", b"\xff\xfe{}", 400, "JSON Parse error"),
        ("birds:predict", b"[" * 100000, 400, "JSON Parse error"),
        ("birds:predict", b"9" * 5000, 400, "JSON Parse error"),
        ("birds:predict", [], 400, "Is not object"),
        ("birds:predict", {"signature_name": 3}, 400, "'signature_name' key must be a string"),
        (
            "birds:predict",
            {"signature_name": "x", "instances": [PHOTO]},
            400,
            'Serving signature name: "x" not found in signature def',
        ),
        ("birds:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("birds:predict", {"inputs": [], "instances": []}, 400, "expecting only one of"),
        ("birds:predict", {"instances": {}}, 400, "to be an list/array"),
        ("birds:predict", {"instances": []}, 400, "No values in 'instances' array"),
        ("birds:predict", {"inputs": []}, 400, "1 to 256 photos, received 0"),
        ("birds:predict", {"instances": [PHOTO] * 257}, 400, "1 to 256 photos, received 257"),
        ("birds:predict", {"inputs": PHOTO}, 400, "must be of shape [?], received []"),
        ("birds:predict", {"inputs": {"x": [PHOTO]}}, 400, "Missing named input: image_bytes"),
        ("birds:predict", {"instances": [{"x": 1}]}, 400, "does not have named input: x"),
        ("birds:predict", {"instances": [PHOTO, {"x": 1}]}, 400, "at item 1 of"),
        ("birds:predict", {"instances": [3]}, 400, "is not of expected type: string"),
        ("birds:predict", {"instances": [None]}, 400, "is not of expected type: string"),
        ("birds:predict", {"instances": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
        ("birds:predict", {"instances": [{"b64": "abcde"}]}, 400, "Unable to base64 decode"),
        ("birds:predict", b'{"instances": ["\\ud800"]}', 400, "is no Unicode text"),
        ("birds:predict", {"instances": [["a"], ["a", "b"]]}, 400, "Expecting tensor size"),
        ("birds:predict", {"inputs": [["a"], "b"]}, 400, "found at incorrect level: 2"),
        ("birds:predict", {"inputs": ["a", ["b"]]}, 400, "Encountered list at unexpected level"),
        ("birds:predict", {"inputs": [["a"], ["b", "c"]]}, 400, "list at unexpected size: 2"),
        ("birds:predict", {"signature_name": "pixels", "inputs": [256]}, 400, "type: uint8"),
        ("birds:predict", {"signature_name": "pixels", "inputs": [1.5]}, 400, "type: uint8"),
        ("birds:predict", {"signature_name": "pixels", "inputs": [True]}, 400, "type: uint8"),
        (
            "birds:predict",
            {"signature_name": "pixels", "inputs": [[[[1]]]]},
            400,
            "images must be of shape [?,256,256,3], received [1,1,1,1]",
        ),
    ],
)
def test_rest_errors(server, path, body, status, message):
    code, answer = ask(server, path, body)
    assert code == status
    assert list(answer) == ["error"]
    assert message in answer["error"]


def test_other_methods_and_paths(server):
    for method in ("PUT", "DELETE"):
        code, answer = ask(server, "birds", method=method)
        assert (code, answer) == (400, {"error": f"Malformed request: {method} /v1/models/birds"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{server['http']}/../../etc/passwd")
    assert error.value.code == 404


def raw(server, request, shut=False):
    """Sends bytes as they are; what comes back."""
    port = int(server["http"].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_broken_http(run, server):
    head = b"POST /v1/models/birds:predict HTTP/1.1\r\nHost: x\r\n"
    for request, message in (
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", b"error"),  # TLS
        (b"GET / HTTP/9.9\r\n\r\n", b"Invalid HTTP version"),
        (head + b"Content-Length: -1\r\n\r\n", b"a Content-Length is needed"),
        (head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"a Content-Length is needed"),
        (head + b"Content-Length: 99\r\n\r\n{", b"has 99 bytes, but 1 came in time"),
        (head + b"X: " + b"y" * 70000 + b"\r\n\r\n", b"431"),
    ):
        assert message in raw(server, request, shut=True)
    _, answer = ask(server, "birds:predict", {"instances": [b64(PHOTOS[0])]})
    assert_right(run, PHOTOS[:1], answer["predictions"])


def test_slow_and_large_bodies(server):
    head = "POST /v1/models/birds:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"
    answer = raw(server, head.format(99).encode() + b"{")  # the rest never comes
    assert answer.startswith(b"HTTP/1.1 504 ")
    large = 16 * LIMIT  # more than the sockets hold, so that the client is still writing
    answer = raw(server, head.format(large).encode() + bytes(large))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"at most 2097152 bytes" in answer


def test_connection_is_kept_for_the_next_request(server):
    connection = http.client.HTTPConnection(server["http"].removeprefix("http://"))
    for path, status in (("birds", 200), ("cats", 404), ("birds", 200)):
        connection.request("GET", f"/v1/models/{path}")
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is not None
    connection.close()


def test_grpc_predict(run, channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(predict_request({"image_bytes": PHOTOS}))
    assert response.model_spec.name == "birds"
    assert response.model_spec.version.value == 7
    assert response.model_spec.signature_name == "serving_default"
    assert len(response.outputs["scores"].float_val) == 15  # not in tensor_content
    columns = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
    rows = [
        {
            "class_ids": columns["class_ids"][index].tolist(),
            "classes": [name.decode() for name in columns["classes"][index]],
            "scores": columns["scores"][index],
            "valid": bool(columns["valid"][index]),
        }
        for index in range(3)
    ]
    assert_right(run, PHOTOS, rows)
    request = predict_request({"image_bytes": PHOTOS})
    request.output_filter.append("valid")
    assert list(stub.Predict(request).outputs) == ["valid"]


def test_grpc_metadata_and_status(channel):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "birds"
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "ten_crop", "features", "pixels"} <= set(signatures.signature_def)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "birds"
    (status,) = (
        model_service_pb2_grpc.ModelServiceStub(channel)
        .GetModelStatus(request)
        .model_version_status
    )
    assert status.version == 7
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert status.status.error_code == 0


def broken_tensor(**fields):
    request = predict_request({"image_bytes": ["x"]})
    for name, value in fields.items():
        setattr(request.inputs["image_bytes"], name, value)
    return request


def shaped(*sizes):
    request = predict_request({"image_bytes": ["x"]})
    del request.inputs["image_bytes"].tensor_shape.dim[:]
    for size in sizes:
        request.inputs["image_bytes"].tensor_shape.dim.add(size=size)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_request({"image_bytes": ["x"]}, name="cats"), "NOT_FOUND", "Latest(cats)"),
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (
            predict_request({"image_bytes": ["x"]}, "x"),
            "FAILED_PRECONDITION",
            'Serving signature key "x" not found.',
        ),
        (predict_request({}), "INVALID_ARGUMENT", "Missing but required: {image_bytes}"),
        (predict_request({"x": ["y"]}), "INVALID_ARGUMENT", "alias: image_bytes(feed name: "),
        (predict_request({"image_bytes": [1.0]}), "INVALID_ARGUMENT", "must be string"),
        (predict_request({"image_bytes": "x"}), "INVALID_ARGUMENT", "received []"),
        (shaped(1 << 40), "INVALID_ARGUMENT", "1 to 256 photos"),
        (shaped(-1), "INVALID_ARGUMENT", "must be of shape [?]"),
        (shaped(2), "INVALID_ARGUMENT", None),
        (broken_tensor(dtype=9999), "INVALID_ARGUMENT", "there is no DataType 9999"),
    ],
)
def test_grpc_errors(channel, request_, code, message):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    if message is None:  # fewer values than the shape says: TensorFlow repeats the last one
        assert len(stub.Predict(request_).outputs["valid"].bool_val) == 2
        return
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(request_)
    assert error.value.code().name == code
    assert message in error.value.details()


def test_grpc_errors_of_the_other_calls(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_request({"image_bytes": ["x"]})
    request.output_filter.append("x")
    with pytest.raises(grpc.RpcError, match="output tensor alias not found in signature: x"):
        stub.Predict(request)
    request = predict_request({"image_bytes": ["x"]})
    request.model_spec.version_label = "x"
    with pytest.raises(grpc.RpcError, match="Unrecognized servable version label: x"):
        stub.Predict(request)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest()
    metadata.model_spec.name = "birds"
    with pytest.raises(grpc.RpcError, match="at least one metadata_field"):
        stub.GetModelMetadata(metadata)
    metadata.metadata_field.append("x")
    with pytest.raises(grpc.RpcError, match="Metadata field x is not supported"):
        stub.GetModelMetadata(metadata)
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(predict_request({"image_bytes": [bytes(LIMIT)]}))
    assert error.value.code().name == "RESOURCE_EXHAUSTED"


def test_calls_that_are_not_served(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    service = model_service_pb2_grpc.ModelServiceStub(channel)
    for call, request in (
        (stub.MultiInference, inference_pb2.MultiInferenceRequest()),
        (service.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call(request)
        assert error.value.code().name == "UNIMPLEMENTED"


def test_many_clients_at_once(run, server):
    def one(number):
        photo = PHOTOS[number % 3]
        _, answer = ask(server, "birds:predict", {"instances": [b64(photo), b64(b"junk")]})
        return [photo], answer["predictions"][:1]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for photos, rows in pool.map(one, range(48)):
            assert_right(run, photos, rows)


def metrics(server):
    """Name and labels of each sample -> its value, by Prometheus' own reader."""
    with urllib.request.urlopen(f"{server['http']}/monitoring/prometheus/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = response.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(server, channel):
    before = metrics(server)
    body = {"instances": [b64(PHOTOS[0]), b64(PHOTOS[1])]}
    assert ask(server, "birds:predict", body)[0] == 200
    assert ask(server, "cats:predict", body)[0] == 404
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    stub.Predict(predict_request({"image_bytes": PHOTOS}))
    after = metrics(server)

    def grown(*key):
        return after[key] - before.get(key, 0)

    assert grown("serving_requests_total", "rest", "OK") == 2  # and the first look at these
    assert grown("serving_requests_total", "rest", "NOT_FOUND") == 1
    assert grown("serving_requests_total", "grpc", "OK") == 1
    assert grown("serving_request_seconds_count", "rest") == 3
    assert grown("serving_batch_photos_count") == 2
    assert grown("serving_batch_photos_sum") == 5
    assert after["serving_model_version", "birds"] == 7
    assert after["process_resident_memory_bytes",] > 1 << 20


def test_requests_that_come_at_once_are_computed_together(run, server):
    before = metrics(server)
    bodies = [{"instances": [b64(PHOTOS[number % 3])]} for number in range(64)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda body: ask(server, "birds:predict", body), bodies))
    for number, (_, answer) in enumerate(answers):
        assert_right(run, [PHOTOS[number % 3]], answer["predictions"])
    after = metrics(server)
    key = ("serving_batch_photos_count",)
    assert after[key] - before[key] < 64


def test_batches_of_one(model_dir):
    with serving(model_dir, batch=1, grpc_port=-1) as server:
        before = metrics(server)
        bodies = [{"instances": [b64(PHOTOS[0])]}] * 32
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda body: ask(server, "birds:predict", body), bodies))
        assert {status for status, _ in answers} == {200}
        key = ("serving_batch_photos_count",)
        assert metrics(server)[key] - before[key] == 32


def test_page_and_what_a_browser_asks_for_besides(server):
    with urllib.request.urlopen(f"{server['http']}/") as response:
        assert response.headers["Content-Type"].startswith("text/html")
        assert "default-src" in response.headers["Content-Security-Policy"]
        assert b"birds" in response.read()
    with urllib.request.urlopen(f"{server['http']}/favicon.ico") as response:
        assert (response.status, response.read()) == (204, b"")


def other_weights(run):
    other = stand_in.trained_run()
    kernel, bias = other.model.get_layer("fc8").get_weights()
    other.model.get_layer("fc8").set_weights([-kernel, bias])
    return other


def test_a_new_version_takes_over_and_no_request_is_dropped(run, tmp_path, capfd):
    folder = tmp_path / "birds"
    stand_in.publish(folder)
    other = other_weights(run)
    end = threading.Event()

    def ask_on(seed):
        """The versions that answered, one request after the other."""
        photo, versions = PHOTOS[seed % 3], []
        first, second = (expected_scores(each, [photo])[0] for each in (run, other))
        while not end.is_set():
            status, answer = ask(server, "birds:predict", {"instances": [b64(photo)]})
            assert status == 200, answer
            scores = answer["predictions"][0]["scores"]
            is_first = np.allclose(scores, -np.sort(-first)[:5], atol=1e-3)
            assert is_first or np.allclose(scores, -np.sort(-second)[:5], atol=1e-3)
            versions.append(1 if is_first else 2)
        return versions

    with (
        serving(folder, poll_seconds=0.05) as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        clients = [pool.submit(ask_on, seed) for seed in range(8)]
        (folder / "2").mkdir()  # a version that is no model is no reason to stop
        export.export(trained=other, photos=[stand_in.photo()], export_dir=str(folder))
        deadline = time.monotonic() + 120
        while ask(server, "birds/versions/3")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while metrics(server)["serving_model_version", "birds"] != 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        end.set()
        for client in clients:
            versions = client.result()
            assert versions == sorted(versions)
            assert set(versions) == {1, 2}
        _, answer = ask(server, "birds")
        states = {entry["version"]: entry["state"] for entry in answer["model_version_status"]}
        assert states == {"1": "END", "2": "END", "3": "AVAILABLE"}
        assert ask(server, "birds/versions/1:predict", {"instances": [PHOTO]})[0] == 404
    assert server["result"]["version"] == 3
    told = capfd.readouterr().err
    assert "version 2 cannot be served" in told
    assert "version 3 is served now" in told


def test_a_header_that_comes_too_slowly(model_dir, monkeypatch):
    monkeypatch.setattr(http_server, "_IDLE_SECONDS", 1)
    with serving(model_dir, grpc_port=-1) as server:
        port = int(server["http"].rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            with contextlib.suppress(ConnectionError):
                for _ in range(20):  # each byte comes in time, all of them do not
                    connection.sendall(b"G")
                    time.sleep(0.2)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(100) == b""


def test_bodies_of_all_requests_together(model_dir):
    server = http_server.Server(
        "127.0.0.1",
        0,
        activity=None,
        metrics=None,
        limits=http_server.Limits(all_bodies_bytes=100),
    )
    with server, server.body(60):
        with pytest.raises(RequestError, match="60 bytes of other") as error, server.body(41):
            pass
        assert error.value.code == "RESOURCE_EXHAUSTED"
        with server.body(40):
            pass


def test_ends_when_what_is_under_way_is_answered(model_dir):
    """A request is cut in two, and the server told to end in between."""
    with serving(model_dir, grpc_port=-1, timeout=30) as server:
        assert server["grpc"] is None
        port = int(server["http"].rsplit(":", 1)[1])
        idle = socket.create_connection(("127.0.0.1", port))  # does not hold up the end
        body = json.dumps({"instances": [b64(PHOTOS[0])]}).encode()
        head = "POST /v1/models/birds:predict HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: "
        under_way = socket.create_connection(("127.0.0.1", port), timeout=30)
        under_way.sendall(f"{head}{len(body)}\r\n\r\n".encode())
        assert under_way.recv(4096).startswith(b"HTTP/1.1 100 ")
        under_way.sendall(body[:100])
        assert ask(server, "birds")[0] == 200  # a round trip, in which that one is taken up
        ending = threading.Timer(1.0, under_way.sendall, [body[100:]])
        ending.start()
    answer = under_way.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"predictions" in answer
    assert (server["result"]["requests"], server["result"]["errors"]) == (2, 0)
    idle.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port))


def test_models_that_cannot_be_served(tmp_path, model_dir):
    def fails(message, folder, **options):
        with pytest.raises(UserError, match=message):
            serve(
                model_dir=str(folder),
                stop=threading.Event(),
                ready=lambda *_: None,
                settings=Settings(**options),
            )

    fails("has none; run keras_alexnet.export", tmp_path / "none")
    (tmp_path / "draft").mkdir()
    fails("has none; run keras_alexnet.export", tmp_path)
    (tmp_path / "1").mkdir()
    fails("cannot be loaded as a SavedModel", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails("Address already in use.*another --rest_port", model_dir, rest_port=port)
        fails("another --grpc_port", model_dir, grpc_port=port)


def test_command(model_dir, tmp_path):
    """The real process: what it prints, what it imports, and its end on SIGTERM."""
    code = (
        "import sys, threading\n"
        "from keras_alexnet.serving.local_server import __main__ as local_server\n"
        "try: local_server.run()\n"
        "finally: print(sorted(m for m in sys.modules if m.startswith('keras')), file=sys.stderr)\n"
    )
    flags = [f"--model_dir={model_dir}", "--rest_port=0", "--grpc_port=0"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("ready: "):
            break
    _, _, model, _, rest, _, grpc_address = lines[-1].split()
    assert (model, rest[:17], grpc_address[:17]) == (
        "birds",
        "http://127.0.0.1:",
        "grpc://127.0.0.1:",
    )
    assert "For production, use TF Serving" in lines[0]
    assert f"-v {model_dir}:/models/birds -e MODEL_NAME=birds tensorflow/serving" in lines[1]
    status, _ = ask({"http": rest}, "birds:predict", {"instances": [b64(PHOTOS[0])]})
    assert status == 200
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    result = json.loads(stdout.splitlines()[-1])
    assert (result["model"], result["version"], result["requests"]) == ("birds", 7, 1)
    imported = stderr.splitlines()[-1]
    assert "keras_alexnet.serving.local_server.rest_api" in imported
    for module in ("model", "preprocessing", "layers", "serving.signatures"):
        assert f"'keras_alexnet.{module}'" not in imported


def test_command_line_mistakes(tmp_path):
    for flags, status in (
        ([f"--model_dir={tmp_path}"], 1),
        ([], 2),
        (["--model_dir=x", "--rest_port=99999"], 2),
        (["--model_dir=x", "y"], 2),
    ):
        process = subprocess.run(
            [sys.executable, "-m", "keras_alexnet.serving.local_server", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert process.returncode == status
        assert process.stdout == ""
        assert "Traceback" not in process.stderr
        assert process.stderr.splitlines()[-1].startswith("local_server.py: ")

import concurrent.futures
import contextlib
import gzip
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
import psutil
import pytest
import stand_in
from prometheus_client.parser import text_string_to_metric_families
from repository import ROOT
from served import b64, predict_request, serving
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from keras_alexnet.saved_model import publishing
from keras_alexnet.serving.local_server import bodies
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


PHOTO = b64(b"no photo")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"\xff\xfe{}", "JSON"),
        (b"[" * 100000, "JSON"),
        (b"9" * 5000, "JSON"),
        ({"inputs": []}, "1 to 256 photos, received 0"),
        ({"instances": [PHOTO] * 257}, "1 to 256 photos, received 257"),
        ({"inputs": PHOTO}, "[?], received []"),
        (b'{"instances": ["\\ud800"]}', "Unicode"),
        ({"signature_name": "pixels", "inputs": [256]}, "uint8"),
        ({"signature_name": "pixels", "inputs": [True]}, "uint8"),
        ({"signature_name": "pixels", "inputs": [[[[1]]]]}, "images must be of shape"),
    ],
)
def test_requests_that_do_not_fit_here(server, body, field):
    code, answer = ask(server, "birds:predict", body)
    assert (code, list(answer)) == (400, ["error"])
    assert field in answer["error"]


def raw(server, request):
    """Sends bytes as they are; what comes back until the server closes the connection."""
    port = int(server["http"].rsplit(":", 1)[1])
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        with contextlib.suppress(ConnectionResetError):  # it has not read all of the request
            while data := connection.recv(65536):
                answer += data
    return answer


HEAD = b"POST /v1/models/birds:predict HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),  # TLS
        (b"GET / HTTP/one\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000, 400),
        (HEAD + b"Transfer-Encoding: zip\r\n\r\n", 501),
        (HEAD + b"X: " + b"y" * 70000 + b"\r\n\r\n", 431),
        (HEAD + b"Content-Length: 99\r\n\r\n{", 504),  # the rest never comes
    ],
)
def test_broken_http(server, request_, status):
    head, _, content = raw(server, request_).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"Content-Type: application/json" in head
    assert list(json.loads(content)) == ["error"]
    assert ask(server, "birds")[0] == 200


def post(server, data, **headers):
    """(status, body) of a predict request, on a connection of its own."""
    connection = http.client.HTTPConnection(server["http"].removeprefix("http://"), timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    # An iterator is sent in chunks.
    connection.request("POST", "/v1/models/birds:predict", data, names)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_chunked_and_zipped_bodies(run, server):
    body = json.dumps({"instances": [b64(PHOTOS[0])]}).encode()
    zipped = gzip.compress(body)
    for data, headers in (
        (iter([body[:100], body[100:]]), {}),
        (zipped, {"Content_Encoding": "gzip"}),
        (iter([zipped[:10], zipped[10:]]), {"Content_Encoding": "identity, x-gzip"}),
    ):
        status, answer = post(server, data, **headers)
        assert status == 200, answer
        assert_right(run, PHOTOS[:1], answer["predictions"])
    for data in (body, zipped[:-9], zipped + zipped, b""):
        assert post(server, data, Content_Encoding="gzip")[0] == 400


def test_gzip_bomb(server):
    """64 times the limit, in a body of some kilobytes."""
    before = psutil.Process().memory_info().rss
    bomb = gzip.compress(bytes(64 * LIMIT))
    assert len(bomb) < LIMIT
    status, answer = post(server, bomb, Content_Encoding="gzip")
    assert (status, str(LIMIT) in answer["error"]) == (413, True)
    assert psutil.Process().memory_info().rss - before < 32 * LIMIT


def test_head_and_options(server):
    address = server["http"].removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=60)
    for method, path, status in (
        ("HEAD", "/", 200),
        ("HEAD", "/v1/models/birds", 200),
        ("HEAD", "/v1/models/cats", 404),
        ("OPTIONS", "/v1/models/birds:predict", 200),
    ):
        connection.request(method, path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"")
        assert (method == "OPTIONS") == ("POST" in response.headers.get("Allow", ""))
        assert (method == "HEAD") == (int(response.headers["Content-Length"]) > 0)
    connection.close()


def test_ipv6(model_dir):
    with serving(model_dir, host="[::]") as server:
        port = server["http"].removeprefix("http://[::]:")
        grpc_port = server["grpc"].removeprefix("grpc://[::]:")
        for host in ("[::1]", "127.0.0.1"):
            assert ask({"http": f"http://{host}:{port}"}, "birds")[0] == 200
            with grpc.insecure_channel(f"{host}:{grpc_port}") as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                stub.Predict(predict_request({"image_bytes": [PHOTOS[0]]}))


def test_large_bodies(server):
    large = 16 * LIMIT  # more than the sockets hold, so that the client is still writing
    for head, end in (
        (b"Content-Length: %d\r\n\r\n" % large, b""),
        (b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % large, b"\r\n0\r\n\r\n"),
    ):
        answer = raw(server, HEAD + b"Connection: close\r\n" + head + bytes(large) + end)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert str(LIMIT).encode() in answer


def test_connection_is_kept_for_the_next_request(server):
    connection = http.client.HTTPConnection(server["http"].removeprefix("http://"))
    for path, status in (("birds", 200), ("cats", 404), ("birds", 200)):
        connection.request("GET", f"/v1/models/{path}")
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is not None
    connection.close()


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
    ("request_", "code", "field"),
    [
        (predict_request({"image_bytes": "x"}), "INVALID_ARGUMENT", "image_bytes"),
        (shaped(1 << 40), "INVALID_ARGUMENT", "1 to 256 photos"),
        (shaped(-1), "INVALID_ARGUMENT", "image_bytes"),
        (broken_tensor(dtype=9999), "INVALID_ARGUMENT", "9999"),
        (predict_request({"image_bytes": [bytes(LIMIT)]}), "RESOURCE_EXHAUSTED", ""),
    ],
)
def test_grpc_errors(channel, request_, code, field):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(request_)
    assert error.value.code().name == code
    assert field in error.value.details()


def test_fewer_values_than_the_shape_says(channel):
    """TensorFlow repeats the last one."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    assert len(stub.Predict(shaped(2)).outputs["valid"].bool_val) == 2


def test_calls_that_only_tensorflow_serving_has(server, channel):
    for verb in ("classify", "regress"):
        status, answer = ask(server, f"birds:{verb}", {"examples": [{}]})
        assert (status, "TF Serving" in answer["error"]) == (501, True)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    service = model_service_pb2_grpc.ModelServiceStub(channel)
    for call, request in (
        (stub.Classify, classification_pb2.ClassificationRequest()),
        (stub.Regress, regression_pb2.RegressionRequest()),
        (stub.MultiInference, inference_pb2.MultiInferenceRequest()),
        (service.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call(request)
        assert error.value.code().name == "UNIMPLEMENTED"
        assert "TF Serving" in error.value.details()


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


@pytest.mark.parametrize("batch", [1, 32])
def test_batches_of_many_clients(run, model_dir, batch):
    bodies = [{"instances": [b64(PHOTOS[number % 3])]} for number in range(64)]
    with (
        serving(model_dir, batch=batch, grpc_port=-1) as server,
        concurrent.futures.ThreadPoolExecutor(32) as pool,
    ):
        before = metrics(server)
        answers = list(pool.map(lambda body: ask(server, "birds:predict", body), bodies))
        after = metrics(server)
    for number, (_, answer) in enumerate(answers):
        assert_right(run, [PHOTOS[number % 3]], answer["predictions"])
    batches = after["serving_batch_photos_count",] - before["serving_batch_photos_count",]
    assert batches == 64 if batch == 1 else batches < 64


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
        publishing.export(trained=other, photos=[stand_in.photo()], export_dir=str(folder))
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


def test_a_header_that_comes_too_slowly(model_dir):
    with serving(model_dir, grpc_port=-1, idle_seconds=1) as server:
        port = int(server["http"].rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            with contextlib.suppress(ConnectionError):
                for _ in range(20):  # each byte comes in time, all of them do not
                    connection.sendall(b"G")
                    time.sleep(0.2)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(100) == b""


def test_bodies_of_all_requests_together():
    store = bodies.BodyStore(body_bytes=70, all_bodies_bytes=100)
    first, second = bodies.Body(store), bodies.Body(store)
    first.append(bytes(60))
    second.append(bytes(41))
    with pytest.raises(RequestError, match="60 bytes") as error:
        second.read()
    assert error.value.code == "RESOURCE_EXHAUSTED"
    first.close()
    third = bodies.Body(store)
    third.append(bytes(41))
    assert third.read() == bytes(41)
    third.append(bytes(41))
    with pytest.raises(RequestError, match="at most 70 bytes"):
        third.read()
    fourth = bodies.Body(store)
    fourth.append(gzip.compress(bytes(70)))
    assert fourth.unzipped() == bytes(70)


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
        with pytest.raises(ValueError, match=message):
            serve(
                model_dir=str(folder),
                model_name="birds",
                stop=threading.Event(),
                ready=lambda *_: None,
                settings=Settings(**options),
            )

    fails("model_dir .* has none", tmp_path / "none")
    (tmp_path / "draft").mkdir()
    fails("model_dir .* has none", tmp_path)
    (tmp_path / "1").mkdir()
    fails("cannot be loaded as a SavedModel", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails(f"rest_port {port} .*Address already in use", model_dir, rest_port=port)
        fails(f"grpc_port {port} ", model_dir, grpc_port=port)


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

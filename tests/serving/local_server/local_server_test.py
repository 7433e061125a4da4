import concurrent.futures
import json
import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import served
import stand_in
import tensorflow as tf
from prometheus_client.parser import text_string_to_metric_families
from repository import ROOT
from served import b64, predict_request, serving
from tensorflow_serving.apis import prediction_service_pb2_grpc

from data_prep.photos import images
from keras_alexnet.saved_model import publishing
from keras_alexnet.serving.local_server.server import serve
from keras_alexnet.serving.local_server.settings import Settings

pytestmark = pytest.mark.slow

PHOTOS = [stand_in.photo(300, 400, seed=seed) for seed in range(3)]
LIMIT = 4 << 20  # of `server`


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def ask(server, path, body=None):
    """(status, parsed body) of a request below /v1/models/."""
    status, content, content_type = served.ask(server, f"/v1/models/{path}", body)
    assert content_type == "application/json"
    return status, json.loads(content)


PHOTO = b64(b"no photo")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"inputs": []}, 400, "1 to 256 photos, received 0"),
        ({"instances": [""] * 200_000}, 400, "1 to 256 photos, received 200000"),
        ({"inputs": PHOTO}, 400, "(None,), received ()"),
        ({"inputs": {"image_bytes": [[[[["x"]]]]]}}, 400, "(None,), received (1, 1, 1, 1, 1)"),
        ({"signature_name": "../../etc/passwd", "instances": ["x"]}, 400, "not found"),
        ({"inputs": {"image_bytes": "x" * (LIMIT + 1)}}, 413, str(LIMIT)),
    ],
)
def test_requests_that_do_not_fit_here(server, body, status, field):
    code, answer = ask(server, "birds:predict", body)
    assert (code, list(answer)) == (status, ["error"])
    assert field in answer["error"]


def predicted(*sizes, dtype=None):
    """Return a request of one value that says something else of its shape or type."""
    request = predict_request({"image_bytes": ["x"]})
    proto = request.inputs["image_bytes"]
    proto.dtype = dtype or proto.dtype
    if sizes:
        proto.tensor_shape.CopyFrom(tf.TensorShape(sizes).as_proto())
    return request


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (predict_request({"image_bytes": "x"}), "INVALID_ARGUMENT", "image_bytes"),
        (predicted(1 << 40), "INVALID_ARGUMENT", "1 to 256 photos"),
        (predicted(None), "INVALID_ARGUMENT", "received (-1,)"),
        (predicted(dtype=9999), "INVALID_ARGUMENT", "9999"),
        (predict_request({"image_bytes": [bytes(LIMIT)]}), "RESOURCE_EXHAUSTED", ""),
    ],
)
def test_grpc_errors(prediction, request_, code, field):
    with pytest.raises(grpc.RpcError) as error:
        prediction.Predict(request_)
    assert error.value.code().name == code
    assert field in error.value.details()


def test_fewer_values_than_the_shape_says(prediction):
    """TensorFlow repeats the last one."""
    assert len(prediction.Predict(predicted(2)).outputs["valid"].bool_val) == 2


def test_calls_that_only_tensorflow_serving_has(server, channel):
    for verb in ("classify", "regress"):
        status, answer = ask(server, f"birds:{verb}", {"examples": [{}]})
        assert (status, "TF Serving" in answer["error"]) == (501, True)
    for call in (
        *(f"PredictionService/{name}" for name in ("Classify", "Regress", "MultiInference")),
        "ModelService/HandleReloadConfigRequest",
    ):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(f"/tensorflow.serving.{call}")(b"")
        assert error.value.code().name == "UNIMPLEMENTED"
        assert "TF Serving" in error.value.details()


def metrics(server):
    """Name and labels of each sample -> its value, by Prometheus' own reader."""
    status, text, content_type = served.ask(server, "/monitoring/prometheus/metrics")
    assert (status, content_type[:10]) == (200, "text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_metrics(server, prediction):
    before = metrics(server)
    body = {"instances": [b64(PHOTOS[0]), b64(PHOTOS[1])]}
    assert ask(server, "birds:predict", body)[0] == 200
    assert ask(server, "cats:predict", body)[0] == 404
    prediction.Predict(predict_request({"image_bytes": PHOTOS}))
    after = metrics(server)
    for key, grown in (
        (("serving_requests_total", "rest", "OK"), 2),  # and the first look at these
        (("serving_requests_total", "rest", "NOT_FOUND"), 1),
        (("serving_requests_total", "grpc", "OK"), 1),
        (("serving_request_seconds_count", "rest"), 3),
        (("serving_batch_photos_count",), 2),
        (("serving_batch_photos_sum",), 5),
    ):
        assert after[key] - before.get(key, 0) == grown, key
    assert after["serving_model_version", "birds"] == 1
    assert after["process_resident_memory_bytes",] > 1 << 20


@pytest.mark.parametrize("name", ["server", "other_server"])
def test_batches_of_many_clients(request, assert_right, name):
    server = request.getfixturevalue(name)
    bodies = [{"instances": [b64(PHOTOS[number % 3])]} for number in range(64)]
    before = metrics(server)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda body: ask(server, "birds:predict", body), bodies))
    after = metrics(server)
    for number, (_, answer) in enumerate(answers):
        assert_right(answer["predictions"], [PHOTOS[number % 3]])
    batches = after["serving_batch_photos_count",] - before["serving_batch_photos_count",]
    assert batches == 64 if name == "other_server" else batches < 64


def test_a_new_version_takes_over_and_no_request_is_dropped(run, tmp_path, capfd):
    folder = tmp_path / "birds"
    stand_in.publish(folder)
    other = stand_in.trained_run()
    kernel, bias = other.model.get_layer("fc8").get_weights()
    other.model.get_layer("fc8").set_weights([-kernel, bias])
    end = threading.Event()

    def best(run, photo):
        stored = images.resize_and_crop(stand_in.decoded(photo), 256)
        return -np.sort(-stand_in.scores(run, stored[np.newaxis])[0])[:5]

    def ask_on(seed):
        """Return the versions that answered, one request after the other."""
        photo, versions = PHOTOS[seed % 3], []
        first, second = (best(each, photo) for each in (run, other))
        while not end.is_set():
            status, answer = ask(server, "birds:predict", {"instances": [b64(photo)]})
            assert status == 200, answer
            scores = answer["predictions"][0]["scores"]
            is_first = np.allclose(scores, first, atol=1e-3)
            assert is_first or np.allclose(scores, second, atol=1e-3)
            versions.append(1 if is_first else 2)
        return versions

    with (
        serving(folder, poll_seconds=0.05, grpc_port=-1) as addresses,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        assert addresses["grpc"] is None
        server = served.Server(addresses["http"], "")
        clients = [pool.submit(ask_on, seed) for seed in range(8)]
        (folder / "2").mkdir()  # a version that is no model is no reason to stop
        publishing.export(trained=other, photos=[stand_in.photo()], export_dir=str(folder))
        deadline = time.monotonic() + 120
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
    assert addresses["result"]["version"] == 3
    log = capfd.readouterr().err
    assert "version 2 cannot be served" in log
    assert "version 3 is served now" in log


def test_process_ends_when_what_is_under_way_is_answered(model_dir, tmp_path):
    """A request is cut in two, and the server gets SIGTERM in between."""
    log = tmp_path / "log.txt"
    with served.local_server(model_dir, log) as server:
        idle = socket.create_connection(server.address)  # does not hold up the end
        body = json.dumps({"instances": [b64(PHOTOS[0])]}).encode()
        head = "POST /v1/models/birds:predict HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: "
        under_way = socket.create_connection(server.address, timeout=30)
        under_way.sendall(f"{head}{len(body)}\r\n\r\n".encode())
        assert under_way.recv(4096).startswith(b"HTTP/1.1 100 ")
        under_way.sendall(body[:100])
        assert ask(server, "birds")[0] == 200  # a round trip, in which that one is taken up
        threading.Timer(1.0, under_way.sendall, [body[100:]]).start()
    answer = under_way.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"predictions" in answer
    with pytest.raises(ConnectionError):
        socket.create_connection(server.address)
    idle.close()
    text = log.read_text()
    assert f"-v {model_dir}:/models/birds -e MODEL_NAME=birds tensorflow/serving" in text
    result = json.loads(text.splitlines()[-1])
    assert result.pop("seconds") > 0
    assert result == {"model": "birds", "version": 1, "requests": 2, "errors": 0}


def test_models_and_ports_that_cannot_be_served(tmp_path, model_dir):
    (tmp_path / "broken" / "1").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for folder, options, message in (
            (tmp_path / "broken", {}, "cannot be loaded as a SavedModel"),
            (model_dir, {"rest_port": port}, f"rest_port {port} .*Address already in use"),
            (model_dir, {"grpc_port": port}, f"grpc_port {port} "),
        ):
            with pytest.raises(ValueError, match=message):
                serve(
                    model_dir=str(folder),
                    model_name="birds",
                    stop=threading.Event(),
                    ready=lambda *_: None,
                    settings=Settings(**options),
                )


def test_command_line_mistakes(tmp_path):
    (tmp_path / "draft").mkdir()  # is no version
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

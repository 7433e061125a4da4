import contextlib
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import stand_in

from data_prep.command_line import UserError
from keras_alexnet import export
from keras_alexnet.serving import client, local_server

ROOT = pathlib.Path(__file__).parents[1]
PHOTOS = [stand_in.photo(256, 256, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def run():
    return stand_in.trained_run()


@pytest.fixture(scope="module")
def servers(run, tmp_path_factory):
    """Addresses of one server: REST, gRPC."""
    folder = tmp_path_factory.mktemp("client") / "birds"
    export.export(trained=run, photos=PHOTOS[:1], export_dir=str(folder))
    stop, is_ready, addresses = threading.Event(), threading.Event(), []

    def ready(rest, grpc_address):
        addresses.extend((rest, grpc_address))
        is_ready.set()

    thread = threading.Thread(
        target=local_server.serve,
        kwargs={"model_dir": str(folder), "stop": stop, "ready": ready},
    )
    thread.start()
    assert is_ready.wait(120)
    yield addresses
    stop.set()
    thread.join()


@pytest.mark.parametrize("protocol", [0, 1])
@pytest.mark.parametrize("signature", ["serving_default", "ten_crop"])
def test_classify(run, servers, protocol, signature):
    answers = client.classify(
        server=servers[protocol],
        model="birds",
        photos=[PHOTOS[0], b"no photo", PHOTOS[1]],
        signature=signature,
    )
    assert answers[1] == client.Answer(valid=False, classes=(), class_ids=(), scores=())
    images = np.stack([stand_in.decoded(photo) for photo in PHOTOS[:2]])
    expected = stand_in.scores(run, images)
    for answer, scores in zip((answers[0], answers[2]), expected, strict=True):
        assert answer.valid
        assert answer.classes == tuple(run.classes[index].name for index in answer.class_ids)
        if signature == "serving_default":
            assert answer.class_ids == tuple(np.argsort(-scores)[:5])
            np.testing.assert_allclose(answer.scores, -np.sort(-scores)[:5], atol=1e-5)


def test_no_photos_no_request():
    assert client.classify(server="http://localhost:1", photos=[]) == []


@pytest.mark.parametrize(
    "server",
    ["", "localhost:8501", "ftp://localhost:8501", "http://", "http://h:x", "http://h:99999",
     "http://h:1/v1/models/x", "http://h:1?x"],
)  # fmt: skip
def test_what_is_no_address(server):
    with pytest.raises(UserError, match=r"a server is http://HOST:PORT.*check --server"):
        client.classify(server=server, photos=PHOTOS)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_unreachable_server(scheme):
    with pytest.raises(UserError, match=r"cannot be reached.*start the server"):
        client.classify(server=f"{scheme}://127.0.0.1:{free_port()}", photos=PHOTOS, timeout=5)


@pytest.mark.parametrize("protocol", [0, 1])
def test_unknown_model(servers, protocol):
    message = r"(404|NOT_FOUND): Servable not found for request: Latest\(a b/c\); check --model"
    with pytest.raises(UserError, match=message):
        client.classify(server=servers[protocol], model="a b/c", photos=PHOTOS)


@pytest.mark.parametrize("protocol", [0, 1])
def test_signature_that_is_not_there(servers, protocol):
    with pytest.raises(UserError, match=r"not found.*exported by keras_alexnet\.export"):
        client.classify(server=servers[protocol], model="birds", photos=PHOTOS, signature="x")


def test_the_other_protocols_port(servers):
    rest, rpc = servers
    with pytest.raises(UserError, match="check that --server is a REST port"):
        client.classify(server=rpc.replace("grpc", "http"), photos=PHOTOS)
    with pytest.raises(UserError, match="check that --server is a gRPC port"):
        client.classify(server=rest.replace("http", "grpc"), photos=PHOTOS, timeout=5)


@contextlib.contextmanager
def answering(status, body):
    """A server that answers everything alike; `body` None: not at all."""
    end = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            if body is None:
                end.wait(60)
                return
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        end.set()
        server.shutdown()
        server.server_close()


OUTPUTS = {"classes": [["a"]], "class_ids": [[0]], "scores": [[1]], "valid": [True]}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        # As TF Serving writes it.
        (400, b'{ "error": "Malformed request: POST /x" }', "answers 400: Malformed request"),
        (503, b'{ "error": "busy" }', "answers 503: busy; try again"),
        (500, b"<html>oops</html>", "answers 500: <html>oops</html>"),
        (404, b"", r"answers 404: \(nothing\)"),
        (200, b"<html>hello</html>", "does not answer as TF Serving does"),
        (200, b"[]", "does not answer as TF Serving does"),
        (200, b'{"outputs": [1]}', "does not answer as a model that keras_alexnet.export wrote"),
        (
            200,
            json.dumps({"outputs": {**OUTPUTS, "valid": 3}}).encode(),
            "does not answer as a mod",
        ),
        (
            200,
            json.dumps({"outputs": {**OUTPUTS, "scores": []}}).encode(),
            "does not answer as a m",
        ),
        (200, json.dumps({"outputs": OUTPUTS}).encode(), "1 answers to 3 photos"),
        (200, None, r"did not answer in 0\.2 s; raise --timeout"),
    ],
)
def test_other_answers(status, body, message):
    with answering(status, body) as server, pytest.raises(UserError, match=message):
        client.classify(server=server, photos=PHOTOS, timeout=60 if body is not None else 0.2)


def test_grpc_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"did not answer in 0\.2 s|cannot be reached"):
            client.classify(server=server, photos=PHOTOS, timeout=0.2)


def test_proxies_are_not_asked(servers, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for server in servers:
        assert client.classify(server=server, model="birds", photos=PHOTOS[:1])[0].valid


def command(*arguments, code="from keras_alexnet.serving import client; client.run()"):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


@pytest.fixture
def files(tmp_path):
    (tmp_path / "good.jpg").write_bytes(PHOTOS[0])
    (tmp_path / "other.jpg").write_bytes(PHOTOS[1])
    (tmp_path / "no.txt").write_text("no photo")
    return tmp_path


def test_command(run, servers, files):
    code = (
        "import sys\n"
        "from keras_alexnet.serving import client\n"
        "try: client.run()\n"
        "finally: print({'tensorflow', 'keras', 'numpy'} & set(sys.modules), file=sys.stderr)\n"
    )
    flags = [f"--server={servers[0]}", "--model=birds"]
    process = command(*flags, files / "good.jpg", files / "other.jpg", code=code)
    assert process.returncode == 0, process.stderr
    assert process.stderr == "set()\n"  # not imported
    *table, last = process.stdout.splitlines()
    result = json.loads(last)
    assert (result["images"], result["invalid"]) == (2, 0)
    scores = stand_in.scores(run, stand_in.decoded(PHOTOS[0])[np.newaxis])[0]
    best = run.classes[int(scores.argmax())].name
    assert result["photos"][0]["photo"] == str(files / "good.jpg")
    assert result["photos"][0]["classes"][0] == best
    assert table[0].split() == ["photo", "score", "time", "class"]
    assert table[1].startswith(str(files / "good.jpg"))
    assert f"{scores.max():.2%}" in table[1]
    assert table[1].endswith(best)
    assert len(table) == 1 + 2 * 5


def test_command_with_a_file_that_is_no_photo(servers, files):
    flags = [f"--server={servers[0]}", "--model=birds"]
    process = command(*flags, files / "good.jpg", files / "no.txt", files / "other.jpg")
    assert process.returncode == 1
    *table, last = process.stdout.splitlines()
    assert [photo["valid"] for photo in json.loads(last)["photos"]] == [True, False, True]
    assert len(table) == 1 + 5 + 1 + 5
    assert table[6].endswith("no photo that the server can read")
    (line,) = process.stderr.splitlines()
    assert line.endswith(f"1 of 3 is no JPEG or PNG that the server can read: {files / 'no.txt'}")


def test_mistakes(files):
    """Before anything is sent: there is no server."""
    server = f"--server=http://127.0.0.1:{free_port()}"
    for arguments, status, message in (
        ([server], 1, "at least one photo is needed"),
        ([server, files / "good.jpg", files / "none.jpg"], 1, "No such file"),
        ([server, files], 1, "Is a directory"),
        ([server, files / "good.jpg"], 1, "cannot be reached"),
        (["--server=localhost", files / "good.jpg"], 1, "a server is http://HOST:PORT"),
        (["--modle=x", files / "good.jpg"], 2, "Unknown command line flag 'modle'"),
    ):
        process = command(*arguments)
        assert process.returncode == status
        assert process.stdout == ""
        (line,) = process.stderr.splitlines()
        assert message in line

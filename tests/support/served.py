"""Servers of an exported model, each in a process of its own, and questions to them.

The same questions go to this project's server and to TF Serving's.
"""

import base64
import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence

import pytest
import tensorflow as tf
from repository import ROOT
from tensorflow_serving.apis import predict_pb2

from keras_alexnet.serving.local_server.server import serve
from keras_alexnet.serving.local_server.settings import Settings

_START_SECONDS = 180
_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Server:
    """Addresses to ask: "http://HOST:PORT" and, for gRPC, "HOST:PORT"; and its process."""

    rest: str
    grpc: str
    pid: int = 0

    @property
    def address(self) -> tuple[str, int]:
        url = urllib.parse.urlsplit(self.rest)
        return url.hostname, url.port


@contextlib.contextmanager
def local_server(model_dir: pathlib.Path, log: pathlib.Path, *more: str) -> Iterator[Server]:
    """keras_alexnet.serving.local_server."""
    command = [sys.executable, "-m", "keras_alexnet.serving.local_server"]
    flags = [f"--model_dir={model_dir}", "--rest_port=0", "--grpc_port=0", *more]

    def ready() -> Server | None:
        match = re.search(r"^ready: .* at (http://\S+) and grpc://(\S+)$", log.read_text(), re.M)
        return Server(*match.groups()) if match else None

    with _process([*command, *flags], log, ready) as server:
        yield server


@contextlib.contextmanager
def tensorflow_model_server(model_dir: pathlib.Path, log: pathlib.Path) -> Iterator[Server]:
    """TF Serving itself; the test is skipped where it is not installed."""
    program = shutil.which("tensorflow_model_server")
    if program is None:
        pytest.skip("needs tensorflow_model_server on the PATH (TF Serving)")
    rest_port, grpc_port = _free_port(), _free_port()
    flags = [
        f"--model_name={model_dir.name}",
        f"--model_base_path={model_dir}",
        f"--rest_api_port={rest_port}",
        f"--port={grpc_port}",
    ]
    server = Server(f"http://127.0.0.1:{rest_port}", f"127.0.0.1:{grpc_port}")

    def ready() -> Server | None:
        try:
            status, body, _ = ask(server, f"/v1/models/{model_dir.name}")
        except OSError:  # it does not listen yet
            return None
        is_loaded = status == 200 and json.loads(body)["model_version_status"][0]["state"]
        return server if is_loaded == "AVAILABLE" else None

    with _process([program, *flags], log, ready) as started:
        yield started


@contextlib.contextmanager
def _process(
    command: Sequence[str], log: pathlib.Path, ready: Callable[[], Server | None]
) -> Iterator[Server]:
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            end = time.monotonic() + _START_SECONDS
            while (server := ready()) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(_POLL_SECONDS)
            yield dataclasses.replace(server, pid=process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def ask(
    server: Server, path: str, body: object = None, method: str | None = None
) -> tuple[int, bytes, str]:
    """(status, body, content type) of the answer; `body` is JSON, or bytes as they are."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.rest}{path}", data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read(), response.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["Content-Type"]


@contextlib.contextmanager
def serving(model_dir: pathlib.Path, **options) -> Iterator[dict]:
    """keras_alexnet.serving.local_server in a thread of this process.

    Yields:
        A dict with the addresses "http" and "grpc" and, at the end, the "result".
    """
    stop, is_ready, server = threading.Event(), threading.Event(), {}

    def ready(rest: str, grpc_address: str | None) -> None:
        server.update(http=rest, grpc=grpc_address)
        is_ready.set()

    def run() -> None:
        server["result"] = serve(
            model_dir=str(model_dir),
            model_name=model_dir.name,
            stop=stop,
            ready=ready,
            settings=Settings(**options),
        )

    thread = threading.Thread(target=run)
    thread.start()
    assert is_ready.wait(120)
    try:
        yield server
    finally:
        stop.set()
        thread.join()


def predict_request(
    inputs: dict[str, object], signature: str = "", name: str = "birds"
) -> predict_pb2.PredictRequest:
    """A request of the Predict API; inputs are what tf.make_tensor_proto takes."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def b64(photo: bytes) -> dict[str, str]:
    """Return bytes as JSON has them."""
    return {"b64": base64.b64encode(photo).decode()}

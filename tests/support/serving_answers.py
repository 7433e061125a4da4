"""Servers that answer as TF Serving does, or fail as servers do, without a model.

Their photos are the bytes b"photo NAME"; the best class of such a photo is "class of NAME". All
else is no photo. The forms are those of tensorflow/serving: json_tensor.cc (rapidjson's
PrettyWriter), http_server.cc, evhttp_server.cc, and the official protocol buffers.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import http.server
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.internal import encoder
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_alexnet.serving import client
from keras_alexnet.serving.client.connection import Answer

# Of a TensorProto, by NumPy's letter of the type.
FIELDS = {"f": "float_val", "i": "int_val", "l": "int64_val", "?": "bool_val", "O": "string_val"}


def photo(name: str, size: int = 0) -> bytes:
    return f"photo {name}".encode().ljust(size, b" ")


def outputs(photos: list[bytes]) -> dict[str, list]:
    """Return the outputs of serving_default."""
    columns = {"classes": [], "class_ids": [], "scores": [], "valid": []}
    for content in photos:
        valid = content.startswith(b"photo ")
        name = content.decode("utf-8", "replace").removeprefix("photo ").strip()
        columns["classes"].append([f"class of {name}", "other"] if valid else ["", ""])
        columns["class_ids"].append([len(name), 3] if valid else [0, 0])
        columns["scores"].append([0.75, 0.25] if valid else [0.0, 0.0])
        columns["valid"].append(valid)
    return columns


@dataclasses.dataclass
class Asked:
    """A request as the server saw it."""

    path: str
    document: dict
    photos: list[bytes]
    port: int  # of the client: the same as long as the connection is
    headers: dict[str, str]


@dataclasses.dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    raw: bytes | None = None  # instead of all that; then the connection ends


def error(status: int, message: str, **headers: str) -> Reply:
    """Return an error as MakeJsonFromStatus writes it."""
    return Reply(status, json.dumps({"error": message}, indent=4).encode(), headers)


def predicted(asked: Asked) -> Reply:
    return Reply(body=json.dumps({"outputs": outputs(asked.photos)}, indent=4).encode())


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        document = json.loads(body)
        encoded = document.get("inputs", {}).get("image_bytes", [])
        encoded = encoded or [row["image/encoded"] for row in document.get("examples", [])]
        photos = [base64.b64decode(value["b64"], validate=True) for value in encoded]
        asked = Asked(self.path, document, photos, self.client_address[1], dict(self.headers))
        self.server.asked.append(asked)
        reply = self.server.answer(asked)
        if reply is None or reply.raw is not None:
            self.close_connection = True
            if reply is None:
                self.server.ended.wait(60)
            else:
                self.wfile.write(reply.raw)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Transfer_Encoding" not in reply.headers:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def get_request(self):
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request, client_address):
        pass  # the client has hung up


@contextlib.contextmanager
def rest_server(answer: Callable[[Asked], Reply | None] = predicted, *, port: int = 0, tls=None):
    """Answer by a function (None: not at all); yield a server with `address` and `asked`."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.answer, server.asked, server.connections = answer, [], []
    server.ended = threading.Event()
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
    server.address = f"{scheme}://{host}:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        for connection in server.connections:  # a server that ends leaves none open
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket], None]):
    """Accept connections and leave the rest to a function; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    talk(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def as_fields(array: np.ndarray):
    """AsProtoField: the values in the field of their type."""
    proto = tf.make_tensor_proto([], array.dtype if array.dtype != object else tf.string, [0])
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    getattr(proto, FIELDS[array.dtype.char]).extend(array.ravel().tolist())
    return proto


def as_content(array: np.ndarray):
    """AsProtoTensorContent: all in tensor_content, strings too; TensorFlow reads it back."""
    proto = tf.make_tensor_proto(array)
    if array.dtype == object:
        proto = as_fields(array)
        values = list(proto.string_val)
        lengths = b"".join(encoder._VarintBytes(len(value)) for value in values)
        proto.ClearField("string_val")
        proto.tensor_content = lengths + b"".join(values)
    elif not proto.tensor_content:  # one value
        proto = as_fields(array)
        proto.ClearField(FIELDS[array.dtype.char])
        proto.tensor_content = array.tobytes()
    read = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype)).numpy()
    np.testing.assert_array_equal(read, array)
    return proto


def arrays(photos: list[bytes]) -> dict[str, np.ndarray]:
    columns = outputs(photos)
    return {
        "classes": np.array([[name.encode() for name in row] for row in columns["classes"]], "O"),
        "class_ids": np.array(columns["class_ids"], np.int64),
        "scores": np.array(columns["scores"], np.float32),
        "valid": np.array(columns["valid"]),
    }


def expected(*names: str, ids: bool = True) -> list[Answer]:
    """Return the client's result of the answer for photo(name)."""
    return [
        Answer(True, (f"class of {name}", "other"), (len(name), 3) if ids else (), (0.75, 0.25))
        for name in names
    ]


def ask(server: str, photos=(b"photo a",), **options) -> list[Answer]:
    """Ask once."""
    options = {"model": "birds", "retries": 0, "deadline": 30.0, **options}
    return client.classify(server=server, photos=photos, **options)


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and Classify; `before` may abort, wait, or give the answer itself."""

    def __init__(self, before=lambda request, context: None, to_proto=as_fields):
        self.asked = []
        self.before = before
        self.to_proto = to_proto

    def Predict(self, request, context):  # noqa: N802
        self.asked.append(request)
        if (answer := self.before(request, context)) is not None:
            return answer
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        for name, array in arrays(list(request.inputs["image_bytes"].string_val)).items():
            response.outputs[name].CopyFrom(self.to_proto(array))
        return response

    def Classify(self, request, context):  # noqa: N802
        self.asked.append(request)
        response = classification_pb2.ClassificationResponse(model_spec=request.model_spec)
        examples = request.input.example_list.examples
        photos = [e.features.feature["image/encoded"].bytes_list.value[0] for e in examples]
        columns = outputs(photos)
        for names, scores in zip(columns["classes"], columns["scores"], strict=True):
            found = response.result.classifications.add()
            for name, score in zip(names, scores, strict=True):
                found.classes.add(label=name, score=score)
        return response


@contextlib.contextmanager
def grpc_server(service: Service, *, port: int = 0, tls=None, options=()):
    """Yield the address."""
    pool = concurrent.futures.ThreadPoolExecutor(8)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0), *options])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    if tls is None:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        certificate, key = (open(path, "rb").read() for path in tls)  # noqa: SIM115
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield f"grpcs://localhost:{bound}" if tls else f"grpc://127.0.0.1:{bound}"
    finally:
        server.stop(0).wait()


@contextlib.contextmanager
def server(
    protocol: str,
    seen: Callable[[list[bytes]], object] = lambda photos: None,
    *,
    silent_for: bytes | None = None,
    port: int = 0,
    tls=None,
):
    """Start a right server by "http" or "grpc"; yield its address.

    Args:
        protocol: of the two.
        seen: called with the photos of each request.
        silent_for: a photo; a request with it gets no answer.
        port: its port.
        tls: files of its certificate and key.
    """
    ended = threading.Event()

    def before(photos: list[bytes]) -> None:
        seen(photos)
        if silent_for in photos:
            ended.wait(60)

    if protocol == "http":
        started = rest_server(
            lambda asked: before(asked.photos) or predicted(asked), port=port, tls=tls
        )
    else:
        service = Service(
            lambda request, context: before(list(request.inputs["image_bytes"].string_val))
        )
        started = grpc_server(service, port=port, tls=tls)
    with started as running:
        try:
            yield running if protocol == "grpc" else running.address
        finally:
            ended.set()


def certificate(folder, host: str = "localhost") -> tuple[str, str]:
    """Write a certificate, which is its own authority, and its key, by the program openssl."""
    paths = (str(folder / f"{host}.pem"), str(folder / f"{host}.key"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={host}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", f"subjectAltName=DNS:{host}", "-out", paths[0], "-keyout", paths[1]),
        ],
        check=True,
        capture_output=True,
    )
    return paths


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]

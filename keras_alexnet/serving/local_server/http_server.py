"""The HTTP in front of `rest_api`: connections, limits on size and time, errors as JSON.

Beside the API: the page at /, and metrics for Prometheus.

The page that local_server shows to a browser at "/": drop a photo, see what the model sees.

One document: style and script stand inline, so "/" is all that has to be served, and a policy that
names the two by their hashes forbids the browser everything else. The page asks the server's own
REST API (`explain` of `saved_model.signatures`) and shows names of files and of classes, which are
other people's, as text alone.
"""

import base64
import contextlib
import dataclasses
import hashlib
import html
import http.server
import importlib.resources
import io
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping

from keras_alexnet.serving.local_server import rest_api
from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.metrics import CONTENT_TYPE, PATH, ServerMetrics
from keras_alexnet.serving.local_server.served_versions import Activity, ServedVersions

# From the answer to one request until the header of the next is complete.
_IDLE_SECONDS = 60
# A body that is too large is read to its end, if it is not endless, so that the client, which
# reads only after it has written all, gets to see the error.
_DISCARDED_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client may take.

    Attributes:
        body_bytes: of a request; a larger one is refused.
        all_bodies_bytes: of all requests under way; what comes on top is refused for now.
        connections: at the same time; what comes on top is refused for now.
        seconds: in which a request's body has to arrive, its turn to come, and its answer to be
            taken, each.
    """

    body_bytes: int = 64 << 20
    all_bodies_bytes: int = 512 << 20
    connections: int = 256
    seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class _Answer:
    content: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Server(http.server.ThreadingHTTPServer):
    """Answers each connection in a thread of its own, from `serve_forever` until `shutdown`.

    The port is taken when the object is made; `versions` is to be set before it serves.
    """

    daemon_threads = True  # an idle connection does not hold up the end; Activity does
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, *, activity: Activity, metrics: ServerMetrics, limits: Limits
    ) -> None:
        super().__init__((host, port), _Handler)
        self.versions: ServedVersions | None = None
        self.activity = activity
        self.metrics = metrics
        self.limits = limits
        self._places = threading.BoundedSemaphore(limits.connections)
        self._body_bytes = 0
        self._lock = threading.Lock()

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        """Starts a thread for a connection, or refuses it."""
        if self._places.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # the system has no more threads
                self._places.release()
                raise
            return
        body = _error_body(f"more than {self.limits.connections} connections; try again")
        with contextlib.suppress(OSError):
            request.setblocking(False)  # a client that does not read must not stop all others
            request.sendall(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
        self.shutdown_request(request)

    def process_request_thread(
        self, request: socket.socket, client_address: tuple[str, int]
    ) -> None:
        """Answers a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    @contextlib.contextmanager
    def body(self, length: int) -> Iterator[None]:
        """Around a request with a body of so many bytes.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, others have taken what there is.
        """
        with self._lock:
            if self._body_bytes + length > self.limits.all_bodies_bytes:
                raise RequestError(
                    "RESOURCE_EXHAUSTED",
                    f"{self._body_bytes} bytes of other requests are under way; try again",
                )
            self._body_bytes += length
        try:
            yield
        finally:
            with self._lock:
                self._body_bytes -= length

    def handle_error(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        """A client that hangs up is not worth a traceback."""
        del request, client_address


class _TimedReader(io.RawIOBase):
    """The reading side of a socket, with a deadline for all reads together.

    A timeout of the socket is one for each read: a client that sends a byte a minute meets it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = time.monotonic() + _IDLE_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client sends too slowly")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "keras-alexnet"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # an answer's header and content leave together
    server: Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = _TimedReader(self.connection)
        self.rfile = io.BufferedReader(self._reader, 1 << 16)

    def handle_one_request(self) -> None:
        self._reader.deadline = time.monotonic() + _IDLE_SECONDS
        super().handle_one_request()

    def handle_expect_100(self) -> bool:
        """Tells a client that waits for it to send the body; now, not with the answer."""
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return goes_on

    def do_GET(self) -> None:
        """Any request: what the method is worth is decided by `rest_api.answer`."""
        try:
            with self.server.activity.request("rest") as outcome:
                try:
                    answer = self._answer()
                except RequestError as error:
                    outcome.code = error.code
                    answer = _error(error)
                self._send(answer)
        except RequestError as error:  # the server is about to end
            self.close_connection = True
            self._send(_error(error))
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client is gone

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET  # noqa: N815

    def _answer(self) -> _Answer:
        length = self._body_length()
        with self.server.body(length):
            body = self._read_body(length)
            path = urllib.parse.urlsplit(self.path).path
            if self.command == "GET" and path in _PAGES:
                return _PAGES[path](self.server)
            seconds = self.server.limits.seconds
            try:
                return _Answer(
                    rest_api.answer(self.server.versions, self.command, path, body, seconds)
                )
            except RequestError:
                raise
            except Exception as error:  # a fault of ours must not cost the client its answer
                raise RequestError("INTERNAL", repr(error)) from error

    def _body_length(self) -> int:
        """What the header says, within the limit."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,18}", length):
            self.close_connection = True  # where the next request starts, no one knows
            raise RequestError("INVALID_ARGUMENT", "a Content-Length is needed, in bytes")
        limit = self.server.limits.body_bytes
        if int(length) > limit:
            self.close_connection = True
            self._read(int(length), _DISCARDED_SECONDS, keep=False)
            raise RequestError(
                "INVALID_ARGUMENT", f"a body of at most {limit} bytes is read, this has {length}"
            )
        return int(length)

    def _read_body(self, length: int) -> bytes:
        body = self._read(length, self.server.limits.seconds, keep=True)
        if len(body) < length:
            self.close_connection = True
            raise RequestError(
                "DEADLINE_EXCEEDED", f"the body has {length} bytes, but {len(body)} came in time"
            )
        return body

    def _read(self, length: int, seconds: float, *, keep: bool) -> bytes:
        """Up to `length` bytes, as many as come within some seconds."""
        self._reader.deadline = time.monotonic() + seconds
        kept = []
        while length > 0:
            try:
                # read1: what is there, instead of waiting for all that was asked for
                chunk = self.rfile.read1(min(length, 1 << 20))
            except TimeoutError:
                break
            if not chunk:
                break
            length -= len(chunk)
            kept += [chunk] if keep else []
        return b"".join(kept)

    def _send(self, answer: _Answer) -> None:
        self.connection.settimeout(self.server.limits.seconds)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.content)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.content)
        self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class finds wrong with a request, as JSON instead of HTML."""
        del explain
        self.close_connection = True
        self._send(_Answer(_error_body(message or http.HTTPStatus(code).phrase), code))

    def log_message(self, format: str, *args: object) -> None:
        """Not a line a request."""


def _page(server: Server) -> _Answer:
    return _Answer(content(server.versions.name), content_type=PAGE_CONTENT_TYPE, headers=HEADERS)


def _metrics(server: Server) -> _Answer:
    return _Answer(server.metrics.text(), content_type=CONTENT_TYPE)


# What is served beside the API, by path.
_PAGES = {
    "/": _page,
    "/favicon.ico": lambda server: _Answer(b"", status=http.HTTPStatus.NO_CONTENT),
    PATH: _metrics,
}


def _error(error: RequestError) -> _Answer:
    return _Answer(_error_body(error.message), rest_api.HTTP_STATUS[error.code])


def _error_body(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


PAGE_CONTENT_TYPE = "text/html; charset=utf-8"

_FILES = importlib.resources.files(__package__) / "page"
_DOCUMENT, _STYLE, _SCRIPT = (
    (_FILES / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
)


def _source(inline: str) -> str:
    """What a policy calls an inline script or style (Content Security Policy 3, section 2.3.1)."""
    digest = hashlib.sha256(inline.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(_SCRIPT)}",
            f"style-src {_source(_STYLE)}",
            "img-src blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # Text that is put into the page as markup is an error, whatever the script does.
            "require-trusted-types-for 'script'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer server may have a newer page
}


def content(model_name: str) -> bytes:
    """The page for one model, UTF-8; send it with `PAGE_CONTENT_TYPE` and `HEADERS`.

    Args:
        model_name: that requests call it by; any text.
    """
    # The name comes last: what looks like a place to fill in stays text when it is in a name.
    document = (
        _DOCUMENT.replace("{{style}}", _STYLE)
        .replace("{{script}}", _SCRIPT)
        .replace("{{model_name}}", html.escape(model_name))
    )
    return document.encode("utf-8", "replace")  # a folder's name may have bytes that are no text

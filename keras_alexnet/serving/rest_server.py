"""The HTTP in front of `rest_api`: connections, limits on size and time, errors as JSON."""

import http.server
import json
import re
import socket
import time
import urllib.parse

from keras_alexnet.serving import rest_api
from keras_alexnet.serving.activity import Activity
from keras_alexnet.serving.loaded_model import LoadedModel, RequestError

_IDLE_SECONDS = 60  # after which a connection without a request is closed
# A body that is too large is read to its end, if it is not endless, so that the client, which
# reads only after it has written all, gets to see the error.
_DISCARDED_SECONDS = 5


class Server(http.server.ThreadingHTTPServer):
    """Answers each connection in a thread of its own, from `serve_forever` until `shutdown`.

    The port is taken when the object is made; `model` is to be set before it serves.
    """

    daemon_threads = True  # an idle connection does not hold up the end; Activity does
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, *, activity: Activity, max_body_bytes: int, timeout: float
    ) -> None:
        super().__init__((host, port), _Handler)
        self.model: LoadedModel | None = None
        self.activity = activity
        self.max_body_bytes = max_body_bytes
        self.request_seconds = timeout

    def handle_error(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        """A client that hangs up is not worth a traceback."""
        del request, client_address


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "keras-alexnet"
    sys_version = ""
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """Any request: what the method is worth is decided by `rest_api.answer`."""
        try:
            with self.server.activity.request() as outcome:
                try:
                    status, content = 200, self._content()
                except RequestError as error:
                    outcome.failed = True
                    status, content = rest_api.HTTP_STATUS[error.code], _error_body(error.message)
                self._send(status, content)
        except RequestError as error:  # the server is about to end
            self.close_connection = True
            self._send(rest_api.HTTP_STATUS[error.code], _error_body(error.message))
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client is gone

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET  # noqa: N815

    def _content(self) -> bytes:
        body = self._read_body()
        path = urllib.parse.urlsplit(self.path).path
        seconds = self.server.request_seconds
        try:
            return rest_api.answer(self.server.model, self.command, path, body, seconds)
        except RequestError:
            raise
        except Exception as error:  # a fault of ours must not cost the client its answer
            raise RequestError("INTERNAL", repr(error)) from error

    def _read_body(self) -> bytes:
        """The request's body, within the limits on size and time."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"\d{1,18}", length):
            self.close_connection = True  # where the next request starts, no one knows
            raise RequestError("INVALID_ARGUMENT", "a Content-Length is needed, in bytes")
        limit = self.server.max_body_bytes
        if int(length) > limit:
            self.close_connection = True
            self._read(int(length), _DISCARDED_SECONDS, keep=False)
            raise RequestError(
                "INVALID_ARGUMENT", f"a body of at most {limit} bytes is read, this has {length}"
            )
        body = self._read(int(length), self.server.request_seconds, keep=True)
        if len(body) < int(length):
            self.close_connection = True
            raise RequestError(
                "DEADLINE_EXCEEDED", f"the body has {length} bytes, but {len(body)} came in time"
            )
        return body

    def _read(self, length: int, seconds: float, *, keep: bool) -> bytes:
        """Up to `length` bytes, as many as come within some seconds."""
        deadline = time.monotonic() + seconds
        kept = []
        while length > 0 and (left := deadline - time.monotonic()) > 0:
            self.connection.settimeout(left)
            try:
                # read1: what is there, instead of waiting for all that was asked for
                chunk = self.rfile.read1(min(length, 1 << 20))
            except TimeoutError:
                break
            if not chunk:
                break
            length -= len(chunk)
            kept += [chunk] if keep else []
        self.connection.settimeout(self.timeout)
        return b"".join(kept)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class finds wrong with a request, as JSON instead of HTML."""
        del explain
        self.close_connection = True
        self._send(code, _error_body(message or http.HTTPStatus(code).phrase))

    def log_message(self, format: str, *args: object) -> None:
        """Not a line a request."""


def _error_body(message: str) -> bytes:
    return json.dumps({"error": message}).encode()

"""The HTTP server in front of `rest_api`, on waitress: limits on size and time, errors as JSON.

Beside the API it serves metrics for Prometheus, and at "/" the page on which a browser shows what
the model sees in a photo. The page is one document with its style and script inline, so that its
policy can forbid the browser everything else by their hashes. It calls the REST API and shows
names of files and classes, which come from other people, as text alone.

waitress reads bodies in one thread and answers in others. Its parser, channel and tasks are
extended here, as it knows neither a deadline for a whole body nor a limit on all bodies together.
"""

import base64
import contextlib
import dataclasses
import hashlib
import html
import http
import importlib.resources
import json
import logging
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import Task
from waitress.utilities import BadRequest

from keras_alexnet.serving.local_server import rest_api
from keras_alexnet.serving.local_server.bodies import Body, BodyStore
from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.metrics import CONTENT_TYPE, PATH, Activity
from keras_alexnet.serving.local_server.served_versions import ServedVersions
from keras_alexnet.serving.local_server.settings import Settings

# A refused body is read on for this long, so that a client that reads only after it has written
# everything sees the error.
_DISCARD_SECONDS = 5
_HEADER_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class _Answer:
    content: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class _Request(HTTPRequestParser):
    """A request, which counts as under way from the end of its header until it is closed."""

    def __init__(self, adj: Adjustments) -> None:
        super().__init__(adj)
        self.body = Body(adj.store)
        self.outcome_code = "OK"
        self._open = contextlib.ExitStack()

    def parse_header(self, header_plus: bytes) -> None:
        """Read the header and begin the body."""
        try:
            super().parse_header(header_plus)
            self.raw_path = urllib.parse.urlsplit(self.request_uri).path
        except ValueError as error:  # a Content-Length of 5,000 digits, say
            raise ParsingError(str(error)) from error
        if self.body_rcv is not None:
            self.body_rcv.buf = self.body
        self.content_length = 0  # the limit is the Body's
        self._open.callback(self.body.close)
        try:
            end = self.adj.activity.begin("rest")
        except RequestError as error:  # the server is about to end
            self.refuse(error)
        else:
            self._open.callback(lambda: end(self.outcome_code))

    def received(self, data: bytes) -> int:
        """Take bytes from the client."""
        consumed = super().received(data)
        if self.chunked and not self.completed:
            # Neither has a limit in waitress.
            unfinished = len(self.body_rcv.control_line) + len(self.body_rcv.trailer)
            if unfinished > _HEADER_BYTES:
                self.error = BadRequest("a chunk's header or the trailer is too long")
                self.completed = True
        return consumed

    def refuse(self, error: RequestError) -> None:
        """Answer with an error, unless there is one already, and close the connection then."""
        self.body.error = self.body.error or error
        self.headers["CONNECTION"] = "close"

    def close(self) -> None:
        """Count the request as answered and forget its body."""
        self._open.close()


class _Task(Task):
    """Answers a request."""

    complete = True

    def execute(self) -> None:
        error = self.request.error
        if error is None:
            answer = self.channel.server.answer(self.request)
        else:
            self.request.outcome_code = "INVALID_ARGUMENT"
            self.set_close_on_finish()
            answer = _Answer(_error_body(error.body), error.code)
        self.status = f"{answer.status} {http.HTTPStatus(answer.status).phrase}"
        self.response_headers += [("Content-Type", answer.content_type), *answer.headers.items()]
        self.content_length = len(answer.content)
        header = self.build_response_header()
        self.wrote_header = True
        has_content = self.has_body and getattr(self.request, "command", "") != "HEAD"
        # Header and content leave together.
        self.channel.write_soon(header + answer.content if has_content else header)


class _Channel(HTTPChannel):
    """A connection, with a deadline for each thing that its client has to do."""

    parser_class = _Request
    task_class = error_task_class = _Task
    _answered = 0
    _phase: tuple[str, int] | None = None
    _since = 0.0

    def service(self) -> None:
        """Answer a request."""
        super().service()
        self._answered += 1

    def handle_close(self) -> None:
        """Forget the connection, with the request that did not arrive completely."""
        if self.request is not None:
            self.request.outcome_code = "CANCELLED"
            self.request.close()
        super().handle_close()

    def end_if_late(self, now: float) -> None:
        """End what lasts longer than it may.

        waitress' own channel_timeout is one between two bytes: a client that sends a byte a minute
        meets it.
        """
        if self.requests:
            return  # it is the server's turn
        settings = self.server.settings
        is_in_body = self.request is not None and self.request.headers_finished
        kind, seconds = "header", settings.idle_seconds
        if self.total_outbufs_len:
            kind, seconds = "answer", settings.timeout
        elif is_in_body and self.request.body.error is None:
            kind, seconds = "body", settings.timeout
        elif is_in_body:
            kind, seconds = "rest of a refused body", min(settings.timeout, _DISCARD_SECONDS)
        phase = (kind, self._answered)
        if phase != self._phase:
            self._phase, self._since = phase, now
        elif now - self._since >= seconds:
            if is_in_body and not self.total_outbufs_len:
                self._refuse_rest_of_body(seconds)
            else:
                self.will_close = True

    def _refuse_rest_of_body(self, seconds: float) -> None:
        request = self.request
        request.refuse(
            RequestError(
                "DEADLINE_EXCEEDED",
                f"{len(request.body)} bytes of the body came within {seconds:g} seconds, not all",
            )
        )
        request.completed = True
        with self.requests_lock:
            self.requests.append(request)
            self.request, self.sent_continue = None, False
            self.server.add_task(self)


class Server(TcpWSGIServer):
    """An HTTP server that has its port when it is made; `versions` is to be set before `start`.

    Args:
        host: address to listen at; "::" for all of IPv6 and IPv4.
        settings: of the server; `rest_port` is its port.
        activity: counts the requests.

    Raises:
        OSError: the port cannot be had.
    """

    channel_class = _Channel

    def __init__(self, host: str, settings: Settings, activity: Activity) -> None:
        # Its remark on each request that waits for a thread.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        address = (host, settings.rest_port)
        sock = socket.create_server(address, family=family, dualstack_ipv6=host == "::")
        adjustments = Adjustments(
            sockets=[sock],
            ident="keras-alexnet",
            backlog=128,
            recv_bytes=1 << 16,
            # Body and handle_accept have the limits.
            max_request_body_size=1 << 62,
            connection_limit=1 << 62,
            max_request_header_size=_HEADER_BYTES,
            outbuf_overflow=1 << 30,  # an answer stays in memory
            log_socket_errors=False,  # a client that hangs up
            asyncore_use_poll=True,  # select() refuses file descriptors over 1023
            cleanup_interval=1,
            clear_untrusted_proxy_headers=False,  # none is read
        )
        # A parser knows nothing else of the server.
        adjustments.store = BodyStore(settings.max_body_bytes, settings.all_bodies_bytes)
        adjustments.activity = activity
        super().__init__(
            None,
            map={},
            _sock=sock,
            adj=adjustments,
            bind_socket=False,
            sockinfo=(family, socket.SOCK_STREAM),
        )
        self.versions: ServedVersions | None = None
        self.settings = settings
        self.server_port: int = sock.getsockname()[1]
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._is_closing = False

    def start(self) -> None:
        """Begin to answer, in threads."""
        # One a connection, as a request waits in its thread for its turn.
        self.task_dispatcher.set_thread_count(self.settings.connections)
        self._thread.start()

    def close(self) -> None:
        """Stop to listen, send what is left of answers, and close the connections."""
        self._is_closing = True
        if self._thread.is_alive():
            self.pull_trigger()
            self._thread.join(self.settings.timeout)
        self.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map, ignore_all=True)

    def _loop(self) -> None:
        channels = self.active_channels
        while not self._is_closing or any(each.total_outbufs_len for each in channels.values()):
            wasyncore.loop(timeout=1, use_poll=True, map=self._map, count=1)

    def handle_accept(self) -> None:
        """Take a connection, or refuse it."""
        if self._is_closing or len(self.active_channels) < self.settings.connections:
            super().handle_accept()
            return
        with contextlib.suppress(OSError, TypeError):  # accept() returns None: the client is gone
            connection, _ = self.accept()
            body = _error_body(f"more than {self.settings.connections} connections; try again")
            with connection:
                connection.setblocking(False)  # a client that does not read must not stop others
                connection.sendall(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                    b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )

    def maintenance(self, now: float) -> None:
        """End connections whose clients are too slow; waitress calls it each second."""
        del now  # of the wall clock
        for channel in self.active_channels.values():
            channel.end_if_late(time.monotonic())

    def answer(self, request: _Request) -> _Answer:
        """Return the answer to a request that was received, as far as it may be."""
        try:
            encodings = request.headers.get("CONTENT_ENCODING", "").replace(" ", "").split(",")
            is_zipped = bool({"gzip", "x-gzip"} & set(encodings))
            body = request.body.unzipped() if is_zipped else request.body.read()
            method = "GET" if request.command == "HEAD" else request.command
            if method == "OPTIONS":
                return _Answer(b"", headers={"Allow": "GET, HEAD, POST, OPTIONS"})
            path = request.raw_path
            if (method, path) == ("GET", "/"):
                return _Answer(
                    content(self.versions.name), 200, "text/html; charset=utf-8", HEADERS
                )
            if (method, path) == ("GET", "/favicon.ico"):
                return _Answer(b"", http.HTTPStatus.NO_CONTENT)
            if (method, path) == ("GET", PATH):
                return _Answer(self.adj.activity.text(), content_type=CONTENT_TYPE)
            seconds = self.settings.timeout
            return _Answer(rest_api.answer(self.versions, method, path, body, seconds))
        except RequestError as error:
            failure = error
        except Exception as error:  # a fault of ours must not cost the client its answer
            failure = RequestError("INTERNAL", repr(error))
        request.outcome_code = failure.code
        status = failure.http_status or rest_api.HTTP_STATUS[failure.code]
        return _Answer(_error_body(str(failure)), status)


def _error_body(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


_FILES = importlib.resources.files(__package__) / "page"
_DOCUMENT, _STYLE, _SCRIPT = (
    (_FILES / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
)


def _source(inline: str) -> str:
    """Return a policy's name for an inline script or style (CSP level 3, section 2.3.1)."""
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
    """Return the page for one model, to be sent with `HEADERS`."""
    # The name comes last: what looks like a place to fill in stays text when it is in a name.
    document = (
        _DOCUMENT.replace("{{style}}", _STYLE)
        .replace("{{script}}", _SCRIPT)
        .replace("{{model_name}}", html.escape(model_name))
    )
    return document.encode("utf-8", "replace")  # a folder's name may have bytes that are no text

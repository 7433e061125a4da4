"""The client's side of TF Serving's REST API, by urllib3.

The paths and the bodies are those of tensorflow/serving: http_rest_api_handler.cc and
json_tensor.cc.
"""

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence

import urllib3

from keras_alexnet.serving.client.connection import (
    CLASSIFY,
    MAX_ANSWER_BYTES,
    ONLY_TF_SERVING,
    PHOTO_FEATURE,
    PHOTO_INPUT,
    SHORTEST_TRY,
    Address,
    Answer,
    CallFailed,
    ModelSpec,
    Request,
    read_answers,
    tls_context,
)

# Of an answer that is quoted in an error.
_QUOTED_CHARACTERS = 200
# Statuses after which the same request may do better: TF Serving's RESOURCE_EXHAUSTED and
# UNAVAILABLE (http_server.cc), and what a proxy says while the server behind it starts.
_TRANSIENT = (
    http.client.TOO_MANY_REQUESTS,
    http.client.BAD_GATEWAY,
    http.client.SERVICE_UNAVAILABLE,
)
# What local_server said beside 400 before 0.2.0. It says 413 since, as proxies do; TF Serving has
# no limit.
_TOO_LARGE = "a body of at most"


class Connection:
    """A connection.Connection by HTTP/1.1, kept open from request to request.

    A server that was named by its address is asked directly and as nobody: a pool of urllib3's
    reads neither proxies nor ~/.netrc and keeps no cookie, and no redirect is followed.
    """

    def __init__(self, address: Address, spec: ModelSpec, ca_file: str | None) -> None:
        version = "" if spec.version is None else f"/versions/{spec.version}"
        verb = "classify" if spec.signature == CLASSIFY else "predict"
        name = urllib.parse.quote(spec.name, safe="")
        self._path = f"/v1/models/{name}{version}:{verb}"
        self._address = address
        self._server = address.text
        self._spec = spec
        self._tls = tls_context(ca_file) if address.is_tls else None
        self._sockets: list[socket.socket] = []  # of the connection, if one was made
        self._is_closed = False
        self._pool = self._new_pool()

    def encode(self, photos: Sequence[bytes]) -> Request:
        """See connection.Connection."""
        encoded = [{"b64": base64.b64encode(photo).decode("ascii")} for photo in photos]
        if self._spec.signature == CLASSIFY:
            content = {"examples": [{PHOTO_FEATURE: photo} for photo in encoded]}
        else:
            content = {"inputs": {PHOTO_INPUT: encoded}}
        document = {"signature_name": self._spec.signature, **content}
        return Request(json.dumps(document).encode(), len(photos))

    def ask(self, request: Request, seconds: float) -> list[Answer]:
        """See connection.Connection."""
        content = self._exchange(request.content, seconds)
        try:
            document = json.loads(content.decode("utf-8", "replace"))
            outputs = document["results" if self._spec.signature == CLASSIFY else "outputs"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CallFailed(
                f"{self._server} does not answer as TF Serving does ({_quoted(content)}); check "
                f"server"
            ) from error
        return read_answers(outputs, request, self._spec, self._server)

    def close(self) -> None:
        """See connection.Connection."""
        self._is_closed = True
        self._cut()
        self._pool.close()

    def _new_pool(self) -> urllib3.HTTPConnectionPool:
        """Return a pool of one connection, which leaves its socket in `_sockets`."""
        pool = urllib3.HTTPConnectionPool if self._tls is None else urllib3.HTTPSConnectionPool
        sockets = self._sockets

        class Connection(pool.ConnectionCls):
            def connect(self) -> None:
                super().connect()
                sockets[:] = [self.sock]

        host = self._address.host.encode("idna").decode()
        options = {} if self._tls is None else {"ssl_context": self._tls}
        made = pool(host, self._address.port, maxsize=1, **options)
        made.ConnectionCls = Connection
        return made

    def _exchange(self, request: bytes, seconds: float) -> bytes:
        """Send a request and return its answer's body."""
        deadline = time.monotonic() + seconds
        try:
            with self._cut_after(seconds):
                open_before = list(self._sockets)
                try:
                    response, content = self._send(request, deadline)
                except (OSError, urllib3.exceptions.HTTPError) as error:
                    was_open = bool(open_before) and open_before == self._sockets
                    is_over = self._is_closed or time.monotonic() >= deadline
                    if not was_open or is_over or not isinstance(_cause(error), ConnectionError):
                        raise
                    # The server closed it while it was idle, as it may at any time (RFC 9112,
                    # 9.3.1): no reason to wait, and no failure yet.
                    response, content = self._send(request, deadline)
                # To http.client, a header that was cut off is one that has ended.
                if time.monotonic() >= deadline:
                    raise TimeoutError
                if response.status == http.client.OK and not content:
                    raise http.client.IncompleteRead(content)
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            is_late = time.monotonic() >= deadline
            self._forget()
            raise self._failure(_cause(error), seconds, is_late) from error
        if len(content) > MAX_ANSWER_BYTES:
            raise CallFailed(
                f"{self._server} sends more than {MAX_ANSWER_BYTES >> 20} MB for an answer; check "
                f"server"
            )
        if response.status != http.client.OK:
            raise self._refusal(response, content)
        return content

    def _send(self, request: bytes, deadline: float) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        response = self._pool.urlopen(
            "POST",
            self._path,
            request,
            # No compression: an answer of a few bytes could become any size.
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=max(deadline - time.monotonic(), SHORTEST_TRY),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        with contextlib.closing(response):
            content = bytearray()
            # The read after the last byte is the one that finds an answer incomplete.
            while len(content) <= MAX_ANSWER_BYTES:
                piece = response.read(MAX_ANSWER_BYTES + 1 - len(content))
                if not piece:
                    break
                content += piece
            return response, bytes(content)

    def _forget(self) -> None:
        """Close the connection; the next request makes another."""
        self._pool.close()
        self._sockets.clear()
        self._pool = self._new_pool()

    @contextlib.contextmanager
    def _cut_after(self, seconds: float) -> Iterator[None]:
        """End the connection when the time is over.

        A socket's own timeout is for each piece that arrives: an answer that drips in would take
        as long as it likes.
        """
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _cut(self) -> None:
        """End the connection for the thread that reads or writes there."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # it is closed already
                # Not SSLSocket's own, which forgets its state while the other thread reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _failure(self, error: Exception, seconds: float, is_late: bool) -> CallFailed:
        """Return the failure of a request without an answer."""
        if is_late or isinstance(error, TimeoutError):
            return CallFailed(f"{self._server} did not answer in {seconds:.3g} s; raise deadline")
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return CallFailed(
                f"{self._server} cannot be trusted ({reason}); check ca_file, and that server "
                f"speaks TLS"
            )
        if isinstance(error, socket.gaierror):
            return CallFailed(f"{self._server} cannot be found ({reason}); check server")
        if isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
            # What speaks another language than HTTP will do so the next time, too.
            is_connection = isinstance(error, http.client.IncompleteRead | ConnectionError)
            return CallFailed(
                f"{self._server} broke off the connection ({type(error).__name__}); check that "
                f"server is a REST port",
                is_transient=is_connection,
            )
        return CallFailed(
            f"{self._server} cannot be reached ({reason}); start the server, or check server",
            is_transient=True,
        )

    def _refusal(self, response: urllib3.BaseHTTPResponse, content: bytes) -> CallFailed:
        """Return the failure of a request that was answered by an error."""
        message, status = _message(content), response.status
        is_too_large = status == http.client.REQUEST_ENTITY_TOO_LARGE or _TOO_LARGE in message
        advice = _advice(status, is_too_large)
        if status == http.client.NOT_IMPLEMENTED and self._spec.signature == CLASSIFY:
            advice = ONLY_TF_SERVING
        retry_after = response.headers.get("Retry-After", "")
        return CallFailed(
            f"{self._server} answers {status}: {message}; {advice}",
            is_transient=status in _TRANSIENT,
            is_too_large=is_too_large,
            # The other form, a date, would need the two clocks to agree.
            retry_after=float(retry_after) if retry_after.isdecimal() else 0.0,
        )


def _cause(error: BaseException) -> BaseException:
    """Return the exception of the socket or of http.client that urllib3 wrapped."""
    while True:
        inner = [getattr(error, "reason", None), *reversed(error.args), error.__cause__]
        inner = [candidate for candidate in inner if isinstance(candidate, Exception)]
        if not inner:
            return error
        error = inner[0]


def _message(content: bytes) -> str:
    """Return TF Serving's error (MakeJsonFromStatus), or the beginning of another body."""
    try:
        return str(json.loads(content.decode("utf-8", "replace"))["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return _quoted(content)


def _quoted(content: bytes) -> str:
    return content[:_QUOTED_CHARACTERS].decode("utf-8", "replace") or "(nothing)"


def _advice(status: int, is_too_large: bool) -> str:
    if is_too_large:
        return "raise the limit of the server, or send a smaller photo"
    if status == http.client.NOT_FOUND:
        return "check model, model_version and server"
    if status >= http.client.INTERNAL_SERVER_ERROR or status in _TRANSIENT:
        return "try again, or look into the server's log"
    return "check that the model was exported by keras_alexnet.export, and signature"

"""The client's side of TF Serving's REST API, by urllib3.

The paths and the bodies are those of tensorflow/serving: http_rest_api_handler.cc and
json_tensor.cc.
"""

import base64
import contextlib
import json
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead

import urllib3.connection
from urllib3.exceptions import HTTPError

from keras_alexnet.serving.client import connection
from keras_alexnet.serving.client.connection import CLASSIFY, CallFailed, ModelSpec

# Of an answer that is quoted in an error.
_QUOTED_CHARACTERS = 200
# What local_server said beside 400 before 0.2.0. It says 413 since, as proxies do; TF Serving has
# no limit.
_TOO_LARGE = "a body of at most"


class Connection(connection.Connection):
    """A connection by HTTP/1.1, kept open from request to request.

    A server that was named by its address is asked directly and as nobody: a connection of
    urllib3's reads neither proxies nor ~/.netrc and keeps no cookie, and follows no redirect.
    """

    def __init__(
        self, address: urllib.parse.SplitResult, spec: ModelSpec, ca_file: str | None
    ) -> None:
        super().__init__(address, spec)
        version = "" if spec.version is None else f"/versions/{spec.version}"
        verb = "classify" if spec.signature == CLASSIFY else "predict"
        name = urllib.parse.quote(spec.name, safe="")
        self._path = f"/v1/models/{name}{version}:{verb}"
        host = address.hostname.encode("idna").decode()
        if address.scheme == "https":
            tls = connection.tls_context(ca_file)
            port = address.port or 443
            self._http = urllib3.connection.HTTPSConnection(host, port, ssl_context=tls)
        else:
            self._http = urllib3.connection.HTTPConnection(host, address.port or 80)
        # Of the connection: urllib3 forgets it when it has read that the server will hang up.
        self._socket: socket.socket | None = None
        self._in_use = threading.Lock()
        self._is_closed = False

    def _encode(self, photos: Sequence[bytes]) -> bytes:
        encoded = [{"b64": base64.b64encode(photo).decode("ascii")} for photo in photos]
        if self._spec.signature == CLASSIFY:
            content = {"examples": [{connection.PHOTO_FEATURE: photo} for photo in encoded]}
        else:
            content = {"inputs": {connection.PHOTO_INPUT: encoded}}
        return json.dumps({"signature_name": self._spec.signature, **content}).encode()

    def _exchange(self, request: bytes, seconds: float) -> object:
        with self._in_use:
            response, content = self._send_in_time(request, seconds)
        quoted = content[:_QUOTED_CHARACTERS].decode("utf-8", "replace") or "(nothing)"
        if response.status != HTTPStatus.OK:
            message = str(_field(content, "error", quoted))  # TF Serving's MakeJsonFromStatus
            retry_after = response.headers.get("Retry-After", "")
            raise self._refusal(
                response.status,
                response.status,
                message,
                is_too_large=response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                or _TOO_LARGE in message,
                # The other form, a date, would need the two clocks to agree.
                retry_after=float(retry_after) if retry_after.isdecimal() else 0.0,
            )
        outputs = _field(content, "results" if self._spec.signature == CLASSIFY else "outputs")
        if outputs is None:
            raise CallFailed(
                f"{self._server} does not answer as TF Serving does ({quoted}); check server"
            )
        return outputs

    def close(self) -> None:
        """End the connection; the request under way, if there is one, fails."""
        self._is_closed = True
        self._cut()
        if self._in_use.acquire(blocking=False):  # else the other thread closes it
            self._http.close()

    def _cut(self) -> None:
        """End the connection for the thread that reads or writes there."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                # Not SSLSocket's own, which forgets its state while the other thread reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _send_in_time(
        self, request: bytes, seconds: float
    ) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        deadline = time.monotonic() + seconds
        # A socket's own timeout is for each piece that arrives: an answer that drips in would take
        # as long as it likes.
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            response, content = self._send(request, deadline)
            # To http.client, a header that was cut off is one that has ended.
            if time.monotonic() >= deadline:
                raise TimeoutError
            if response.status == HTTPStatus.OK and not content:
                raise IncompleteRead(content)
        except (OSError, HTTPException, HTTPError) as error:
            is_late = time.monotonic() >= deadline
            self._http.close()
            raise self._failure(_cause(error), seconds, is_late) from error
        finally:
            timer.cancel()
        if len(content) > connection.MAX_ANSWER_BYTES:
            self._http.close()
            raise CallFailed(
                f"{self._server} sends more than {connection.MAX_ANSWER_BYTES >> 20} MB for an "
                f"answer; check server"
            )
        return response, content

    def _send(self, request: bytes, deadline: float) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        """Return an answer and its body, of which at most a byte above the limit is read."""
        was_open = self._http.is_connected
        self._http.timeout = max(deadline - time.monotonic(), connection.SHORTEST_TRY)
        # No compression: an answer of a few bytes could become any size.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        content = bytearray()
        try:
            if not was_open:
                self._http.close()
                self._http.connect()
                self._socket = self._http.sock
            # A server may refuse a request, and hang up, before it has read all of it.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._http.request(
                    *("POST", self._path, request, headers),
                    preload_content=False,
                    decode_content=False,
                )
            response = self._http.getresponse()
            # The read after the last byte is the one that finds an answer incomplete.
            while piece := response.read(connection.MAX_ANSWER_BYTES + 1 - len(content)):
                content += piece
        except (OSError, HTTPError) as error:
            is_over = self._is_closed or time.monotonic() >= deadline
            if not was_open or is_over or not isinstance(_cause(error), ConnectionError):
                raise
            # The server closed it while it was idle, as it may at any time (RFC 9112, 9.3.1): no
            # reason to wait, and no failure yet.
            self._http.close()
            return self._send(request, deadline)
        return response, bytes(content)

    def _failure(self, error: BaseException, seconds: float, is_late: bool) -> CallFailed:
        """Return the failure of a request without an answer."""
        if is_late or isinstance(error, TimeoutError):
            return self._late(seconds)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return self._distrusted(reason)
        if isinstance(error, socket.gaierror):
            return CallFailed(f"{self._server} cannot be found ({reason}); check server")
        if isinstance(error, HTTPException | ConnectionResetError | BrokenPipeError):
            return CallFailed(
                f"{self._server} broke off the connection ({type(error).__name__}); check that "
                f"server is a REST port",
                # What speaks another language than HTTP will do so the next time, too.
                is_transient=isinstance(error, IncompleteRead | ConnectionError),
            )
        return CallFailed(
            f"{self._server} cannot be reached ({reason}); start the server, or check server",
            is_transient=True,
        )


def _cause(error: BaseException) -> BaseException:
    """Return the exception of the socket or of http.client that urllib3 wrapped."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _field(content: bytes, name: str, default: object = None) -> object:
    """Return a field of a JSON object, or the default for what is no such object."""
    try:
        return json.loads(content.decode("utf-8", "replace"))[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return default

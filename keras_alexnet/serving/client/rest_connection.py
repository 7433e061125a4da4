"""The client's side of TF Serving's REST API, with nothing but Python's own library.

The paths and the bodies are those of tensorflow/serving: http_rest_api_handler.cc and
json_tensor.cc.

Where a server is: --server, taken apart.

When a request that failed is sent again: exponential back-off with jitter, within a deadline.

Whose certificates the client trusts: the system's authorities, or those of --ca_file.
"""

import base64
import contextlib
import dataclasses
import http.client
import itertools
import json
import random
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from data_prep.command_line import UserError
from keras_alexnet.serving.client.connection import (
    CLASSIFY,
    MAX_ANSWER_BYTES,
    PHOTO_FEATURE,
    PHOTO_INPUT,
    Answer,
    CallFailed,
    ModelSpec,
    Request,
    read_answers,
)

# Of HTTP without a port in the address (RFC 9110); gRPC has none.
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": None, "grpcs": None}


@dataclasses.dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        text: as the user wrote it, for messages.
        host: a name or an IP address, that of IPv6 without brackets.
        port: 1 to 65535.
        is_grpc: gRPC; else REST.
        is_tls: whether the connection is encrypted.
    """

    text: str
    host: str
    port: int
    is_grpc: bool
    is_tls: bool


def parse(server: str) -> Address:
    """Reads "http://HOST:PORT" and its like.

    Args:
        server: with one of the schemes http, https, grpc and grpcs.

    Raises:
        UserError: it is no such address.
    """
    try:
        parts = urllib.parse.urlsplit(server)
        port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        # All that an address may have beside scheme, host and port.
        rest = (parts.username, parts.password, parts.path.strip("/"), parts.query, parts.fragment)
        is_address = parts.scheme in _DEFAULT_PORTS and bool(port) and not any(rest)
        is_address = is_address and bool((parts.hostname or "").encode("idna"))
    except (ValueError, KeyError):  # a port or a host that is none, another scheme
        is_address = False
    if not is_address:
        raise UserError(
            "a server is http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or "
            f"grpcs://HOST:PORT, received {server!r}; check --server"
        )
    return Address(
        text=server.rstrip("/"),
        host=parts.hostname,
        port=port,
        is_grpc=parts.scheme.startswith("grpc"),
        is_tls=parts.scheme.endswith("s"),
    )


Result = TypeVar("Result")

_FIRST_DELAY = 0.5
_FACTOR = 2.0
_LARGEST_DELAY = 10.0
# Of a last try, for which the waiting has left next to nothing.
_SHORTEST_TRY = 0.01


@dataclasses.dataclass(frozen=True)
class Retries:
    """The rule.

    Attributes:
        limit: how often a request is sent again, at most.
        deadline: seconds for a request, all tries and the waiting in between together.
        sleep: waits some seconds; true says to give up.
        random: 0 to 1, so that clients that failed at once do not come back at once.
        clock: seconds; only differences matter.
    """

    limit: int = 4
    deadline: float = 60.0
    sleep: Callable[[float], object] = time.sleep
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def run(self, attempt: Callable[[float], Result]) -> tuple[Result, int]:
        """Tries until it goes well, or there is no point in it.

        Args:
            attempt: one try; gets the seconds that are left for it.

        Returns:
            (its result, how often it was repeated).

        Raises:
            CallFailed: of the last try; it knows of the others.
        """
        started = self.clock()
        for tries in itertools.count(1):
            left = started + self.deadline - self.clock()
            try:
                return attempt(max(left, _SHORTEST_TRY)), tries - 1
            except CallFailed as failure:
                failure.tries = tries
                failure.seconds = self.clock() - started
                delay = max(self._delay(tries), failure.retry_after)
                is_hopeless = not failure.is_transient or tries > self.limit
                if is_hopeless or failure.seconds + delay >= self.deadline or self.sleep(delay):
                    raise
        raise AssertionError("unreachable: count does not end")

    def _delay(self, tries: int) -> float:
        """Half of it is certain, half is chance."""
        longest = min(_FIRST_DELAY * _FACTOR ** (tries - 1), _LARGEST_DELAY)
        return longest * (0.5 + 0.5 * self.random())


def context(ca_file: str | None) -> ssl.SSLContext:
    """For HTTPS: checks the certificate and the host's name.

    Args:
        ca_file: PEM file of the authorities to trust; None for the system's.

    Raises:
        UserError: the file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"a PEM file of certificates is needed, {ca_file!r} cannot be used ({reason}); check "
            f"--ca_file"
        ) from error


def root_certificates(ca_file: str | None) -> bytes | None:
    """The same for gRPC, which knows nothing of the system's authorities: PEM.

    None, which means those that gRPC brings along, if the system keeps its own where OpenSSL
    does not list them.

    Raises:
        UserError: as `context`.
    """
    certificates = context(ca_file).get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates)).encode() or None


# Of an answer that is quoted in an error.
_QUOTED_CHARACTERS = 200
# Statuses after which the same request may do better: TF Serving's RESOURCE_EXHAUSTED and
# UNAVAILABLE (http_server.cc), and what a proxy says while the server behind it starts.
_TRANSIENT = (
    http.client.TOO_MANY_REQUESTS,
    http.client.BAD_GATEWAY,
    http.client.SERVICE_UNAVAILABLE,
)
# local_server's words beside 400; TF Serving has no limit, and a proxy says 413.
_TOO_LARGE = "a body of at most"


class Connection:
    """A connection.Connection by HTTP/1.1, kept open from request to request.

    Proxies that the environment names are not used: they are for the world, not for a server that
    was named by its address.
    """

    def __init__(self, address: Address, spec: ModelSpec, ca_file: str | None) -> None:
        version = "" if spec.version is None else f"/versions/{spec.version}"
        verb = "classify" if spec.signature == CLASSIFY else "predict"
        name = urllib.parse.quote(spec.name, safe="")
        self._path = f"/v1/models/{name}{version}:{verb}"
        self._server = address.text
        self._spec = spec
        self._is_closed = False
        self._socket: socket.socket | None = None
        if address.is_tls:
            self._http = http.client.HTTPSConnection(
                address.host, address.port, context=context(ca_file)
            )
        else:
            self._http = http.client.HTTPConnection(address.host, address.port)

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
                f"--server"
            ) from error
        return read_answers(outputs, request, self._spec, self._server)

    def close(self) -> None:
        """See connection.Connection."""
        self._is_closed = True
        self._cut()
        self._http.close()

    def _exchange(self, request: bytes, seconds: float) -> bytes:
        """Sends a request and reads its answer's body."""
        deadline = time.monotonic() + seconds
        try:
            with self._cut_after(seconds):
                was_open = self._http.sock is not None
                try:
                    response, content = self._send(request, seconds)
                except ConnectionError:
                    if not was_open or self._is_closed or time.monotonic() >= deadline:
                        raise
                    # The server closed it while it was idle, as it may at any time (RFC 9112,
                    # 9.3.1): no reason to wait, and no failure yet.
                    self._http.close()
                    response, content = self._send(request, deadline - time.monotonic())
                # To http.client, a header that was cut off is one that has ended.
                if time.monotonic() >= deadline:
                    raise TimeoutError
                if response.status == http.client.OK and not content:
                    raise http.client.IncompleteRead(content)
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            raise self._failure(error, seconds, time.monotonic() >= deadline) from error
        if response.status != http.client.OK:
            raise self._refusal(response, content)
        return content

    def _send(self, request: bytes, seconds: float) -> tuple[http.client.HTTPResponse, bytes]:
        self._http.timeout = seconds  # of a connection to be made
        if self._http.sock is not None:
            self._http.sock.settimeout(seconds)
        try:
            self._http.request("POST", self._path, request, {"Content-Type": "application/json"})
        except ConnectionError as error:
            return self._answer_before_the_end(error)
        # http.client lets go of it as soon as it knows that the answer ends with the connection.
        self._socket = self._http.sock
        response = self._http.getresponse()
        return response, self._read(response)

    def _answer_before_the_end(
        self, error: ConnectionError
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Of a server that hung up before it had all: there may be one that says why."""
        if self._http.sock is None:  # it was never reached
            raise error
        try:
            response = self._http.getresponse()
            return response, self._read(response)
        except (OSError, http.client.HTTPException):
            raise error from None
        finally:
            self._http.close()  # what it makes of the rest of the request, no one knows

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        length = response.length  # None: in chunks, or until the connection ends
        if length is not None and length <= MAX_ANSWER_BYTES:
            return response.read()
        content = b"" if length is not None else response.read(MAX_ANSWER_BYTES + 1)
        if length is not None or len(content) > MAX_ANSWER_BYTES:
            self._http.close()
            raise CallFailed(
                f"{self._server} sends more than {MAX_ANSWER_BYTES >> 20} MB for an answer; check "
                f"--server"
            )
        return content

    @contextlib.contextmanager
    def _cut_after(self, seconds: float) -> Iterator[None]:
        """Ends the connection when the time is over.

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
        """Ends the connection for whoever reads or writes there, in another thread."""
        for sock in (self._http.sock, self._socket):
            if sock is not None:
                with contextlib.suppress(OSError):  # it is closed already
                    # Not SSLSocket's own, which forgets its state while the other thread reads.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _failure(self, error: Exception, seconds: float, is_late: bool) -> CallFailed:
        """Of a request without an answer."""
        if is_late or isinstance(error, TimeoutError):
            return CallFailed(f"{self._server} did not answer in {seconds:.3g} s; raise --deadline")
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return CallFailed(
                f"{self._server} cannot be trusted ({reason}); check --ca_file, and that --server "
                f"speaks TLS"
            )
        if isinstance(error, socket.gaierror):
            return CallFailed(f"{self._server} cannot be found ({reason}); check --server")
        if isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
            # What speaks another language than HTTP will do so the next time, too.
            is_connection = isinstance(error, http.client.IncompleteRead | ConnectionError)
            return CallFailed(
                f"{self._server} broke off the connection ({type(error).__name__}); check that "
                f"--server is a REST port",
                is_transient=is_connection,
            )
        return CallFailed(
            f"{self._server} cannot be reached ({reason}); start the server, or check --server",
            is_transient=True,
        )

    def _refusal(self, response: http.client.HTTPResponse, content: bytes) -> CallFailed:
        """Of a request that was answered by an error."""
        message, status = _message(content), response.status
        is_too_large = status == http.client.REQUEST_ENTITY_TOO_LARGE or _TOO_LARGE in message
        retry_after = response.getheader("Retry-After", "")
        return CallFailed(
            f"{self._server} answers {status}: {message}; {_advice(status, is_too_large)}",
            is_transient=status in _TRANSIENT,
            is_too_large=is_too_large,
            # The other form, a date, would need the two clocks to agree.
            retry_after=float(retry_after) if retry_after.isdecimal() else 0.0,
        )


def _message(content: bytes) -> str:
    """The error that TF Serving wrote (MakeJsonFromStatus), or what else there is."""
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
        return "check --model, --model_version and --server"
    if status >= http.client.INTERNAL_SERVER_ERROR or status in _TRANSIENT:
        return "try again, or look into the server's log"
    return "check that the model was exported by keras_alexnet.export, and --signature"

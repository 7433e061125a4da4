"""Addresses, certificates, retries, failures and answers, for REST and gRPC alike."""

import dataclasses
import itertools
import math
import random
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Answer:
    """The server's answer for a photo.

    Attributes:
        valid: whether the server could read the photo; if not, the rest is empty.
        classes: names, the best first.
        class_ids: their indices; empty if the signature is `classify`, whose API has none.
        scores: probabilities of the classes, 0 to 1.
    """

    valid: bool
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    scores: tuple[float, ...]


UNREADABLE = Answer(valid=False, classes=(), class_ids=(), scores=())


def _from_outputs(outputs: Mapping[str, Sequence[object]], photos: int) -> list[Answer]:
    """Return the answers in outputs of serving_default or ten_crop, nested lists by name."""
    names, ids, scores, valid = (
        _rows(outputs[name], photos) for name in ("classes", "class_ids", "scores", "valid")
    )
    return [_answer(*row) for row in zip(names, ids, scores, valid, strict=True)]


def _from_classifications(
    classifications: Sequence[Sequence[tuple[str, float]]], photos: int
) -> list[Answer]:
    """Return the answers of the Classify API; names are blank for an unreadable photo."""
    answers = []
    for pairs in _rows(classifications, photos):
        names, scores = zip(*pairs, strict=True) if pairs else ((), ())
        answers.append(_answer(names, (), scores, any(names)))
    return answers


def _answer(names: object, ids: object, scores: object, valid: object) -> Answer:
    if not isinstance(valid, bool):
        raise TypeError(f"valid must be true or false, it is {valid!r}")
    if not valid:
        return UNREADABLE
    answer = Answer(
        valid=True,
        classes=tuple(_require(name, str) for name in names),
        class_ids=tuple(_require(index, int) for index in ids),
        scores=tuple(float(_require(score, (int, float))) for score in scores),
    )
    if not len(answer.classes) == len(answer.scores) > 0:
        raise ValueError(f"{len(answer.classes)} classes with {len(answer.scores)} scores")
    if len(answer.class_ids) not in (0, len(answer.classes)):
        raise ValueError(f"{len(answer.classes)} classes with {len(answer.class_ids)} class_ids")
    if not all(map(math.isfinite, answer.scores)):
        raise ValueError(f"scores that are no numbers: {answer.scores}")
    return answer


def _require(value: object, kind: type | tuple[type, ...]) -> object:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"unexpected value {value!r}")
    return value


def _rows(rows: object, photos: int) -> Sequence[object]:
    if not isinstance(rows, list):
        raise TypeError(f"a list with an entry a photo is needed, it is a {type(rows).__name__}")
    if len(rows) != photos:
        raise ValueError(f"{len(rows)} answers to {photos} photos")
    return rows


# The signature that is asked through TF Serving's Classify API; the others go through Predict.
CLASSIFY = "classify"
# The feature of a tf.train.Example that holds a photo, as in the data set (data_prep.records).
PHOTO_FEATURE = "image/encoded"
# Advice for a server without the Classify API, as local_server is.
ONLY_TF_SERVING = "ask TF Serving, or choose another signature than classify"
PHOTO_INPUT = "image_bytes"
# More than any answer has: what is larger is not read to its end.
MAX_ANSWER_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The model to ask (tensorflow/serving: model.proto).

    Attributes:
        name: of the model on the server.
        version: its number; None for the one that the server thinks best.
        signature: "serving_default", "ten_crop" or "classify".
    """

    name: str
    version: int | None
    signature: str


@dataclasses.dataclass(frozen=True)
class Request:
    """A request, as it is sent.

    Attributes:
        content: JSON, or a serialised protocol buffer.
        photos: how many are in it.
    """

    content: bytes
    photos: int


class CallFailed(ValueError):  # noqa: N818 (it reads as a sentence where it is raised)
    """A request that got no answer.

    Attributes:
        text: one line: what happened, what to do.
        is_transient: whether the same request may do better a moment later.
        is_too_large: whether a smaller request may do better.
        retry_after: seconds that the server asks to wait.
        tries: how often it was sent.
        seconds: that all tries took.
    """

    def __init__(
        self,
        text: str,
        *,
        is_transient: bool = False,
        is_too_large: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.text = " ".join(text.split())
        self.is_transient = is_transient
        self.is_too_large = is_too_large
        self.retry_after = retry_after
        self.tries = 1
        self.seconds = 0.0

    def __str__(self) -> str:
        if self.tries == 1:
            return self.text
        return f"{self.text} ({self.tries} tries in {self.seconds:.1f} s)"


# HTTP's ports for an address without one (RFC 9110); gRPC has none.
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": None, "grpcs": None}


@dataclasses.dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        text: as the user wrote it, for messages.
        host: name or IP address; IPv6 without brackets.
        port: 1 to 65535.
        is_grpc: gRPC; else REST.
        is_tls: whether the connection is encrypted.
    """

    text: str
    host: str
    port: int
    is_grpc: bool
    is_tls: bool

    @property
    def target(self) -> str:
        """HOST:PORT, with IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(server: str) -> Address:
    """Return the address in "http://HOST:PORT", or the same with https, grpc or grpcs.

    Raises:
        ValueError: it is no such address.
    """
    try:
        parts = urllib.parse.urlsplit(server)
        port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        # All that an address may have beside scheme, host and port.
        rest = (parts.username, parts.password, parts.path.strip("/"), parts.query, parts.fragment)
        is_address = parts.scheme in _DEFAULT_PORTS and bool(port) and not any(rest)
        is_address = is_address and bool((parts.hostname or "").encode("idna"))
    except (ValueError, KeyError):  # a malformed port or host, another scheme
        is_address = False
    if not is_address:
        raise ValueError(
            "a server is http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or "
            f"grpcs://HOST:PORT, received {server!r}; check server"
        )
    is_grpc, is_tls = parts.scheme.startswith("grpc"), parts.scheme.endswith("s")
    return Address(server.rstrip("/"), parts.hostname, port, is_grpc, is_tls)


_FIRST_DELAY = 0.5
_LARGEST_DELAY = 10.0
# The last try's time, when the waiting has left next to nothing.
SHORTEST_TRY = 0.01


@dataclasses.dataclass(frozen=True)
class Retries:
    """When a failed request is sent again: exponential back-off with jitter, within a deadline.

    urllib3's Retry has no deadline, cannot be broken off, and does not know gRPC.

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
        """Return (the result of `attempt`, how often it was repeated).

        Args:
            attempt: one try; gets the seconds that are left for it.

        Raises:
            CallFailed: of the last try, with the number of tries and their seconds.
        """
        started = self.clock()
        for tries in itertools.count(1):
            left = started + self.deadline - self.clock()
            try:
                return attempt(max(left, SHORTEST_TRY)), tries - 1
            except CallFailed as failure:
                failure.tries = tries
                failure.seconds = self.clock() - started
                longest = min(_FIRST_DELAY * 2 ** (tries - 1), _LARGEST_DELAY)
                delay = max(longest * (0.5 + 0.5 * self.random()), failure.retry_after)
                is_hopeless = not failure.is_transient or tries > self.limit
                if is_hopeless or failure.seconds + delay >= self.deadline or self.sleep(delay):
                    raise
        raise AssertionError("unreachable: count does not end")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that checks the server's certificate and name.

    Args:
        ca_file: PEM file of the authorities to trust; None for the system's.

    Raises:
        ValueError: the file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"a PEM file of certificates is needed, {ca_file!r} cannot be used ({reason}); check "
            f"ca_file"
        ) from error


class Connection(Protocol):
    """A connection to a server, for one request at a time."""

    def encode(self, photos: Sequence[bytes]) -> Request:
        """Return the request for some photos, contents of files."""

    def ask(self, request: Request, seconds: float) -> list[Answer]:
        """Send a request once and return an answer for each photo.

        Args:
            request: of `encode`.
            seconds: within which the answer has to be there.

        Raises:
            CallFailed: there is none, or `read_answers` cannot read it.
        """

    def close(self) -> None:
        """End the connection; from another thread, also the request under way."""


def read_answers(outputs: object, request: Request, spec: ModelSpec, server: str) -> list[Answer]:
    """Return the answers in what a server sent.

    Args:
        outputs: for the signature `classify` a list of (name, score) pairs for each photo, for
            others nested lists by the name of the output.
        request: what was asked.
        spec: the model that was asked.
        server: its address, for the message.

    Raises:
        CallFailed: they are not what a model of this project puts out.
    """
    is_classify = spec.signature == CLASSIFY
    read = _from_classifications if is_classify else _from_outputs
    try:
        return read(outputs, request.photos)
    except (KeyError, TypeError, ValueError) as error:
        raise CallFailed(
            f"{server} serves {spec.name!r}, but does not answer as a model that "
            f"keras_alexnet.export wrote ({error!r}); check model"
        ) from error

"""Addresses, certificates, retries, failures and answers, for REST and gRPC alike."""

import abc
import dataclasses
import http
import itertools
import math
import random
import ssl
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")
# The signature that is asked through TF Serving's Classify API; the others go through Predict.
CLASSIFY = "classify"
# The feature of a tf.train.Example that holds a photo, as in the data set (data_prep.records).
PHOTO_FEATURE = "image/encoded"
PHOTO_INPUT = "image_bytes"
# More than any answer has: a larger one is not read to its end.
MAX_ANSWER_BYTES = 64 << 20
_OUTPUTS = ("classes", "class_ids", "scores", "valid")


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


def _answer(names: object, ids: object, scores: object, valid: object) -> Answer:
    if not isinstance(valid, bool):
        raise TypeError(f"valid must be true or false, it is {valid!r}")
    if not valid:
        return UNREADABLE
    answer = Answer(
        valid=True,
        classes=tuple(_require(name, str) for name in names),
        class_ids=tuple(_require(index, int) for index in ids),
        scores=tuple(float(_require(score, int | float)) for score in scores),
    )
    classes, indices = len(answer.classes), len(answer.class_ids)
    if not classes == len(answer.scores) > 0 or indices not in (0, classes):
        raise ValueError(f"{classes} classes, {indices} class_ids, {len(answer.scores)} scores")
    if not all(map(math.isfinite, answer.scores)):
        raise ValueError(f"scores that are no numbers: {answer.scores}")
    return answer


def _require(value: object, kind: type) -> object:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"unexpected value {value!r}")
    return value


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


@dataclasses.dataclass(eq=False)
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

    text: str
    is_transient: bool = False
    is_too_large: bool = False
    retry_after: float = 0.0
    tries: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        text = " ".join(self.text.split())
        return text if self.tries == 1 else f"{text} ({self.tries} tries in {self.seconds:.1f} s)"


def parse(server: str) -> urllib.parse.SplitResult:
    """Return the address in "http://HOST:PORT", or the same with https, grpc or grpcs.

    Only gRPC needs a port.

    Raises:
        ValueError: it is no such address.
    """
    try:
        address = urllib.parse.urlsplit(server.rstrip("/"))
        is_address = (
            address.geturl() == f"{address.scheme}://{address.netloc}"
            and "@" not in address.netloc
            and bool((address.hostname or "").encode("idna"))
            and address.port != 0
            and address.scheme in ("http", "https", *(("grpc", "grpcs") if address.port else ()))
        )
    except ValueError:  # a malformed port or host
        is_address = False
    if not is_address:
        raise ValueError(
            "a server is http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or "
            f"grpcs://HOST:PORT, received {server!r}; check server"
        )
    return address


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that checks the server's certificate and name.

    Raises:
        ValueError: the file of the authorities to trust (None for the system's) cannot be read,
            or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"a PEM file of certificates is needed, {ca_file!r} cannot be used ({reason}); check "
            f"ca_file"
        ) from error


_FIRST_DELAY = 0.5
_LARGEST_DELAY = 10.0
# The last try's time, when the waiting has left next to nothing.
SHORTEST_TRY = 0.01


@dataclasses.dataclass(frozen=True)
class Retries:
    """Retries of a failed request: exponential back-off with jitter, within a deadline.

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

        An attempt gets the seconds that are left for it. The CallFailed of the last one is raised,
        with the number of tries and their seconds.
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


# HTTP statuses after which the same request may do better: TF Serving's RESOURCE_EXHAUSTED and
# UNAVAILABLE (http_server.cc), and what a proxy says while the server behind it starts.
_TRANSIENT = (
    http.HTTPStatus.TOO_MANY_REQUESTS,
    http.HTTPStatus.BAD_GATEWAY,
    http.HTTPStatus.SERVICE_UNAVAILABLE,
)
_BROKEN = (http.HTTPStatus.INTERNAL_SERVER_ERROR, http.HTTPStatus.GATEWAY_TIMEOUT)


class Connection(abc.ABC):
    """A connection to a server, for one request at a time."""

    def __init__(self, address: urllib.parse.SplitResult, spec: ModelSpec) -> None:
        self._server = address.geturl()
        self._spec = spec

    @abc.abstractmethod
    def _encode(self, photos: Sequence[bytes]) -> bytes:
        """Return the request for some photos, as it is sent."""

    @abc.abstractmethod
    def _exchange(self, request: bytes, seconds: float) -> object:
        """Send a request once and return its answer; raise CallFailed if there is none in time.

        From a right server it is, for the signature `classify`, a list of (name, score) pairs for
        each photo, and for others nested lists by the name of the output.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End the connection; from another thread, also the request under way."""

    def ask(
        self, photos: Sequence[bytes], retries: Retries, request_bytes: float = math.inf
    ) -> tuple[list[Answer], int]:
        """Return (an answer for each photo, how often the request was sent again).

        Args:
            photos: contents of files.
            retries: the rule for a request that failed.
            request_bytes: a larger request is not sent.

        Raises:
            CallFailed: of the last try; or the answer is not one of a model of this project.
        """
        request = self._encode(photos)
        if len(request) > request_bytes:
            raise CallFailed(
                f"a request of {len(request)} bytes is larger than {request_bytes}; raise "
                f"request_mb if the server reads more, or send a smaller photo",
                is_too_large=True,
            )
        return retries.run(
            lambda seconds: self._read(self._exchange(request, seconds), len(photos))
        )

    def _read(self, outputs: object, photos: int) -> list[Answer]:
        is_classify = self._spec.signature == CLASSIFY
        try:
            columns = [outputs] if is_classify else [outputs[name] for name in _OUTPUTS]
            for column in columns:
                if not isinstance(column, list) or len(column) != photos:
                    raise ValueError(f"no list with an entry for each of {photos} photos")
            rows = zip(*columns, strict=True)
            if is_classify:  # the names of a photo that cannot be read are blank
                pairs = (zip(*found, strict=True) if found else ((), ()) for (found,) in rows)
                rows = ((names, (), scores, any(names)) for names, scores in pairs)
            return [_answer(*row) for row in rows]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CallFailed(
                f"{self._server} serves {self._spec.name!r}, but does not answer as a model that "
                f"keras_alexnet.export wrote ({error!r}); check model"
            ) from error

    def _late(self, seconds: float) -> CallFailed:
        return CallFailed(f"{self._server} did not answer in {seconds:.3g} s; raise deadline")

    def _distrusted(self, reason: str) -> CallFailed:
        return CallFailed(
            f"{self._server} cannot be trusted ({reason}); check ca_file, and that server speaks "
            f"TLS"
        )

    def _refusal(
        self, code: object, status: int, message: str, *, is_too_large: bool, retry_after: float = 0
    ) -> CallFailed:
        """Return the failure of a request that was answered by an error.

        Its code is in the words of the protocol; `status` is that of HTTP which stands for it.
        """
        if is_too_large:
            advice = "raise the limit of the server, or send a smaller photo"
        elif status == http.HTTPStatus.NOT_FOUND:
            advice = "check model, model_version and server"
        elif status == http.HTTPStatus.NOT_IMPLEMENTED and self._spec.signature == CLASSIFY:
            advice = "ask TF Serving, or choose another signature than classify"  # local_server
        elif status in (*_TRANSIENT, *_BROKEN):
            advice = "try again, or look into the server's log"
        else:
            advice = "check that the model was exported by keras_alexnet.export, and signature"
        return CallFailed(
            f"{self._server} answers {code}: {message}; {advice}",
            is_transient=status in _TRANSIENT and not is_too_large,
            is_too_large=is_too_large,
            retry_after=retry_after,
        )

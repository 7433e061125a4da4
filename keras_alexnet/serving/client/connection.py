"""What the client says of a request, whatever the protocol: whom it asks, and why it failed.

What a server says of a photo, read out of the outputs of a signature.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the server says of a photo.

    Attributes:
        valid: whether it could read it; if not, the rest is empty.
        classes: names, the best first.
        class_ids: their indices; empty if the signature is `classify`, whose API has none.
        scores: theirs, 0 to 1.
    """

    valid: bool
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    scores: tuple[float, ...]


UNREADABLE = Answer(valid=False, classes=(), class_ids=(), scores=())


def from_outputs(outputs: Mapping[str, Sequence[object]], photos: int) -> list[Answer]:
    """The answers in the outputs of serving_default or ten_crop.

    Args:
        outputs: nested lists by the name of the output: classes, class_ids, scores [N][K],
            valid [N].
        photos: how many were sent, N.

    Raises:
        ValueError, TypeError, KeyError: they are not of that form.
    """
    names, ids, scores, valid = (
        _rows(outputs[name], photos) for name in ("classes", "class_ids", "scores", "valid")
    )
    return [_answer(*row) for row in zip(names, ids, scores, valid, strict=True)]


def from_classifications(
    classifications: Sequence[Sequence[tuple[str, float]]], photos: int
) -> list[Answer]:
    """The answers of the Classify API.

    Args:
        classifications: for each photo, its (name, score), the best first; names are blank where
            the photo cannot be read.
        photos: how many were sent.

    Raises:
        ValueError, TypeError: they are not of that form.
    """
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
    """What is asked (tensorflow/serving: model.proto).

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


class Connection(Protocol):
    """A connection to a server, for one request at a time."""

    def encode(self, photos: Sequence[bytes]) -> Request:
        """The request for some photos, contents of files."""

    def ask(self, request: Request, seconds: float) -> list[Answer]:
        """Sends a request once.

        Args:
            request: of `encode`.
            seconds: within which the answer has to be there.

        Returns:
            An answer a photo.

        Raises:
            CallFailed: there is none, or `read_answers` cannot read it.
        """

    def close(self) -> None:
        """Ends the connection; from another thread, also the request under way."""


def read_answers(outputs: object, request: Request, spec: ModelSpec, server: str) -> list[Answer]:
    """The answers in what a server sent.

    Args:
        outputs: for the signature `classify` as `from_classifications` takes them,
            for others as from_outputs does.
        request: what was asked.
        spec: of the model that was asked.
        server: its address, for the message.

    Raises:
        CallFailed: they are not what a model of this project puts out.
    """
    is_classify = spec.signature == CLASSIFY
    read = from_classifications if is_classify else from_outputs
    try:
        return read(outputs, request.photos)
    except (KeyError, TypeError, ValueError) as error:
        raise CallFailed(
            f"{server} serves {spec.name!r}, but does not answer as a model that "
            f"keras_alexnet.export wrote ({error!r}); check model"
        ) from error

"""What the client says of a request, whatever the protocol: whom it asks, and why it failed."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from keras_alexnet.serving import client_answers
from keras_alexnet.serving.client_answers import Answer

# The signature that is asked through TF Serving's Classify API; the others go through Predict.
CLASSIFY = "classify"
# The feature of a tf.train.Example that holds a photo, as in the data set (data_prep.records).
PHOTO_FEATURE = "image/encoded"
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


class CallFailed(Exception):  # noqa: N818 (it reads as a sentence where it is raised)
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
        outputs: for the signature `classify` as client_answers.from_classifications takes them,
            for others as from_outputs does.
        request: what was asked.
        spec: of the model that was asked.
        server: its address, for the message.

    Raises:
        CallFailed: they are not what a model of this project puts out.
    """
    is_classify = spec.signature == CLASSIFY
    read = client_answers.from_classifications if is_classify else client_answers.from_outputs
    try:
        return read(outputs, request.photos)
    except (KeyError, TypeError, ValueError) as error:
        raise CallFailed(
            f"{server} serves {spec.name!r}, but does not answer as a model that "
            f"keras_alexnet.export wrote ({error!r}); check --model"
        ) from error

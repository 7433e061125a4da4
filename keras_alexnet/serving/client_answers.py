"""What a server says of a photo, read out of the outputs of a signature."""

import dataclasses
import math
from collections.abc import Mapping, Sequence


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

"""What the client prints: a table for a person, or a line of JSON a photo for a program."""

import dataclasses
import json

from keras_alexnet.serving.client_answers import UNREADABLE
from keras_alexnet.serving.client_batches import Outcome

_WIDEST_PATH = 60


def entry(outcome: Outcome) -> dict[str, object]:
    """A photo's outcome as JSON has it.

    Returns:
        photo (its path), valid (null if it was not answered), classes, class_ids, scores (empty
        unless valid), error (null if it was answered), seconds.
    """
    answer = dataclasses.asdict(outcome.answer or UNREADABLE)
    if outcome.answer is None:
        answer["valid"] = None
    return {
        "photo": outcome.path,
        **answer,
        "error": outcome.error or None,
        "seconds": round(outcome.seconds, 4),
    }


def print_json(outcomes: tuple[Outcome, ...]) -> None:
    """A line a photo."""
    for outcome in outcomes:
        print(json.dumps(entry(outcome)), flush=True)


class Table:
    """Prints a line a class; the photo and the time stand in the first one of a photo."""

    def __init__(self) -> None:
        self._width: int | None = None

    def print(self, outcomes: tuple[Outcome, ...]) -> None:
        """Prints some photos, and the head above the first ones.

        The first ones also decide how wide the column of paths is: how long the last will be, no
        one knows yet.
        """
        if self._width is None and outcomes:
            paths = [printable(outcome.path) for outcome in outcomes]
            self._width = min(_WIDEST_PATH, max(len("photo"), *map(len, paths)))
            self._row("photo", "score", "time", "class")
        for outcome in outcomes:
            time = f"{outcome.seconds * 1000:6.0f} ms"
            for number, (score, name) in enumerate(_rows(outcome)):
                first = (outcome.path, time) if number == 0 else ("", "")
                self._row(first[0], score, first[1], name)

    def _row(self, path: str, score: str, time: str, name: str) -> None:
        path, name = printable(path), printable(name)
        print(f"{path:{self._width}}  {score:>7}  {time:>9}  {name}".rstrip(), flush=True)


def _rows(outcome: Outcome) -> list[tuple[str, str]]:
    if outcome.answer is None:
        return [("", f"not answered: {outcome.error}")]
    if not outcome.answer.valid:
        return [("", "no photo that the server can read")]
    pairs = zip(outcome.answer.scores, outcome.answer.classes, strict=True)
    return [(f"{score:.2%}", name) for score, name in pairs]


def printable(text: str) -> str:
    """Without line ends and what a terminal would obey: names come from a server or a disk."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )

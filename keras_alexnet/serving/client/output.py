"""The client's output: a table for a person, or a line of JSON a photo; figures of them all."""

import collections
import dataclasses
import time
from collections.abc import Sequence

from keras_alexnet.serving.client.batches import BatchResult, Outcome
from keras_alexnet.serving.client.connection import UNREADABLE

_WIDEST_PATH = 60
_LISTED_PHOTOS = 100
_LISTED_NAMES = 5
_FAILED = "could not be asked for"
_INVALID = "is no JPEG or PNG that the server can read"


def entry(outcome: Outcome) -> dict[str, object]:
    """Return a photo's outcome for JSON.

    `valid` is None without an answer and `error` with one; the lists are empty unless valid.
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


def print_table(outcomes: Sequence[Outcome], width: int = 0) -> int:
    """Print a line for each class; the first one of a photo has its path and time.

    Args:
        outcomes: of some photos, at least one.
        width: of the column of paths; 0 takes it from these outcomes, and prints the head first.

    Returns:
        The width, for the outcomes that follow.
    """

    def row(path: str, share: str, time: str, name: str) -> None:
        print(f"{path:{width}}  {share:>7}  {time:>9}  {name}".rstrip(), flush=True)

    if not width:
        paths = [_printable(outcome.path) for outcome in outcomes]
        width = min(_WIDEST_PATH, max(len("photo"), *map(len, paths)))
        row("photo", "score", "time", "class")
    for outcome in outcomes:
        if outcome.answer is None:
            rows = [("", f"not answered: {outcome.error}")]
        elif not outcome.answer.valid:
            rows = [("", "no photo that the server can read")]
        else:
            shares = (f"{score:.2%}" for score in outcome.answer.scores)
            rows = zip(shares, outcome.answer.classes, strict=True)
        path, time = _printable(outcome.path), f"{outcome.seconds * 1000:6.0f} ms"
        for share, name in rows:
            row(path, share, time, _printable(name))
            path = time = ""
    return width


def _printable(text: str) -> str:
    """Replace line ends and what a terminal would obey: names come from a server or a disk."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


class Summary:
    """Counts of the photos' outcomes, from when it is made.

    Attributes:
        photos: how many there were.
        skipped: files in folders that were passed over.
    """

    def __init__(self) -> None:
        self.photos = 0
        self.skipped = 0
        self._retries = 0
        self._counts = collections.Counter()  # of the photos without classes, by the reason
        self._names = collections.defaultdict(list)  # of the first ones of these
        self._entries: list[dict[str, object]] = []
        self._started = time.perf_counter()

    def skip(self, path: str) -> None:
        """Count a file that was passed over."""
        del path
        self.skipped += 1

    def add(self, result: BatchResult) -> None:
        """Count a batch."""
        self._retries += result.retries
        for outcome in result.outcomes:
            self.photos += 1
            if self.photos <= _LISTED_PHOTOS:
                self._entries.append(entry(outcome))
            if outcome.answer is None:
                reason, name = _FAILED, f"{outcome.path} ({outcome.error})"
            elif not outcome.answer.valid:
                reason, name = _INVALID, outcome.path
            else:
                continue
            self._counts[reason] += 1
            if self._counts[reason] <= _LISTED_NAMES:
                self._names[reason].append(_printable(name))

    def figures(self, *, with_photos: bool) -> dict[str, object]:
        """Return the last line, on request with the photos, if there are not too many."""
        seconds = time.perf_counter() - self._started
        images = self.photos - self._counts[_FAILED]
        figures = {
            "images": images,
            "invalid": self._counts[_INVALID],
            "failed": self._counts[_FAILED],
            "skipped": self.skipped,
            "retries": self._retries,
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 2),
        }
        if with_photos and self.photos <= _LISTED_PHOTOS:
            figures["photos"] = self._entries
        return figures

    def faults(self) -> list[str]:
        """Return a half sentence on each kind of photos that got no classes."""
        faults = []
        for reason in (_FAILED, _INVALID):
            if count := self._counts[reason]:
                more = [f"{count - _LISTED_NAMES} more"] if count > _LISTED_NAMES else []
                names = "; ".join(self._names[reason] + more)
                faults.append(f"{count} of {self.photos} {reason}: {names}")
        return faults

"""What the client prints: a table for a person, or a line of JSON a photo for a program.

What became of all photos together: the client's last line, and its complaint.
"""

import dataclasses
import json
import time

from keras_alexnet.serving.client.batches import BatchResult, Outcome
from keras_alexnet.serving.client.connection import UNREADABLE

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


_LISTED_PHOTOS = 100
_LISTED_NAMES = 5


@dataclasses.dataclass
class _Named:
    """Counts photos and keeps the first names."""

    what: str
    count: int = 0
    names: list[str] = dataclasses.field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if self.count <= _LISTED_NAMES:
            self.names.append(printable(name))

    def sentence(self, photos: int) -> str:
        more = self.count - len(self.names)
        names = [*self.names, f"{more} more"] if more else self.names
        return f"{self.count} of {photos} {self.what}: {'; '.join(names)}"


class Summary:
    """Counts what became of the photos, from when it is made.

    Attributes:
        photos: how many there were.
        skipped: files in folders that were passed over.
    """

    def __init__(self) -> None:
        self.photos = 0
        self.skipped = 0
        self._failed = _Named("could not be asked for")
        self._invalid = _Named("is no JPEG or PNG that the server can read")
        self._retries = 0
        self._entries: list[dict[str, object]] = []
        self._started = time.perf_counter()

    def skip(self, path: str) -> None:
        """Counts a file that was passed over."""
        del path
        self.skipped += 1

    def add(self, result: BatchResult) -> None:
        """Counts a batch."""
        self._retries += result.retries
        for outcome in result.outcomes:
            self.photos += 1
            if outcome.answer is None:
                self._failed.add(f"{outcome.path} ({outcome.error})")
            elif not outcome.answer.valid:
                self._invalid.add(outcome.path)
            if self.photos <= _LISTED_PHOTOS:
                self._entries.append(entry(outcome))

    def figures(self, *, with_photos: bool) -> dict[str, object]:
        """The last line.

        Args:
            with_photos: whether to list the photos, if there are not too many.

        Returns:
            images (answered), invalid (of them), failed, skipped, retries, seconds,
            images_per_second, and maybe photos.
        """
        seconds = time.perf_counter() - self._started
        images = self.photos - self._failed.count
        figures = {
            "images": images,
            "invalid": self._invalid.count,
            "failed": self._failed.count,
            "skipped": self.skipped,
            "retries": self._retries,
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 2),
        }
        if with_photos and self.photos <= _LISTED_PHOTOS:
            figures["photos"] = self._entries
        return figures

    def faults(self) -> list[str]:
        """A half sentence on each kind of photos that got no classes."""
        kinds = (self._failed, self._invalid)
        return [kind.sentence(self.photos) for kind in kinds if kind.count]

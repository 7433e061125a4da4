"""What became of all photos together: the client's last line, and its complaint."""

import dataclasses
import time

from keras_alexnet.serving import client_output
from keras_alexnet.serving.client_batches import BatchResult

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
            self.names.append(client_output.printable(name))

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
                self._entries.append(client_output.entry(outcome))

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

"""Which requests are under way, so that a server can end without dropping one."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

from keras_alexnet.serving.loaded_model import RequestError


@dataclasses.dataclass
class Outcome:
    """How a request went; an exception that leaves it says the same as `failed`."""

    failed: bool = False


class Activity:
    """Counts requests; safe to use from many threads.

    Attributes:
        served: requests that were answered, errors included.
        failed: those of them that were answered with an error.
    """

    def __init__(self) -> None:
        self.served = 0
        self.failed = 0
        self._under_way = 0
        self._draining = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def request(self) -> Iterator[Outcome]:
        """Around a request, until the last byte of its answer is handed over.

        Raises:
            RequestError: UNAVAILABLE, when the server is about to end.
        """
        with self._changed:
            if self._draining:
                raise RequestError("UNAVAILABLE", "the server is shutting down")
            self._under_way += 1
        outcome = Outcome()
        try:
            yield outcome
        except BaseException:
            outcome.failed = True
            raise
        finally:
            with self._changed:
                self._under_way -= 1
                self.served += 1
                self.failed += outcome.failed
                self._changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Refuses new requests and waits for those under way; False if some did not end."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._under_way == 0, timeout)

"""Which requests are under way, so that a server can end without dropping one; and their count."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator

from keras_alexnet.serving.errors import RequestError
from keras_alexnet.serving.server_metrics import ServerMetrics


@dataclasses.dataclass
class Outcome:
    """How a request went, as a canonical status of gRPC.

    An exception that leaves the request says the same.
    """

    code: str = "OK"


class Activity:
    """Counts requests; safe to use from many threads.

    Attributes:
        served: requests that were answered, errors included.
        failed: those of them that were answered with an error.
    """

    def __init__(self, metrics: ServerMetrics) -> None:
        self.served = 0
        self.failed = 0
        self._metrics = metrics
        self._under_way = 0
        self._draining = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def request(self, protocol: str) -> Iterator[Outcome]:
        """Around a request, until the last byte of its answer is handed over.

        Args:
            protocol: "rest" or "grpc".

        Raises:
            RequestError: UNAVAILABLE, when the server is about to end.
        """
        with self._changed:
            if self._draining:
                raise RequestError("UNAVAILABLE", "the server is shutting down")
            self._under_way += 1
        outcome = Outcome()
        started = time.perf_counter()
        try:
            yield outcome
        except RequestError as error:
            outcome.code = error.code
            raise
        except (ConnectionError, TimeoutError):
            outcome.code = "CANCELLED"  # the client is gone
            raise
        except BaseException:
            outcome.code = "INTERNAL"
            raise
        finally:
            self._metrics.request(protocol, outcome.code, time.perf_counter() - started)
            with self._changed:
                self._under_way -= 1
                self.served += 1
                self.failed += outcome.code != "OK"
                self._changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Refuses new requests and waits for those under way; False if some did not end."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._under_way == 0, timeout)

"""Counts requests, so that a server can end without dropping one, and tells Prometheus of them."""

import threading
import time
from collections.abc import Callable

import prometheus_client

from keras_alexnet.serving.local_server.errors import RequestError

PATH = "/monitoring/prometheus/metrics"  # that of TF Serving's examples
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

# Seconds: from a small answer to that of a full batch of ten views.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Activity:
    """Counters of one server; safe to use from many threads.

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
        self._registry = prometheus_client.CollectorRegistry()
        # Memory, open files and processor time of the process.
        prometheus_client.ProcessCollector(registry=self._registry)
        self._requests = prometheus_client.Counter(
            "serving_requests",
            "Requests that were answered, by protocol and canonical status.",
            ["protocol", "status"],
            registry=self._registry,
        )
        self._seconds = prometheus_client.Histogram(
            "serving_request_seconds",
            "From the request's header to the last byte of the answer.",
            ["protocol"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._photos = prometheus_client.Histogram(
            "serving_batch_photos",
            "Photos that were computed together, of one request or of several.",
            buckets=_PHOTOS,
            registry=self._registry,
        )
        self._version = prometheus_client.Gauge(
            "serving_model_version",
            "The version that answers.",
            ["model"],
            registry=self._registry,
        )

    def begin(self, protocol: str) -> Callable[[str], None]:
        """Count a request as under way.

        Args:
            protocol: "rest" or "grpc".

        Returns:
            A function that counts it as answered, with a canonical status of gRPC.

        Raises:
            RequestError: UNAVAILABLE, when the server is about to end.
        """
        with self._changed:
            if self._draining:
                raise RequestError("UNAVAILABLE", "the server is shutting down")
            self._under_way += 1
        started = time.perf_counter()

        def end(code: str) -> None:
            self._requests.labels(protocol, code).inc()
            self._seconds.labels(protocol).observe(time.perf_counter() - started)
            with self._changed:
                self._under_way -= 1
                self.served += 1
                self.failed += code != "OK"
                self._changed.notify_all()

        return end

    def drain(self, timeout: float) -> None:
        """Refuse new requests, and wait some seconds at most for those under way."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: self._under_way == 0, timeout)

    def batch(self, photos: int) -> None:
        """Count a batch."""
        self._photos.observe(photos)

    def version(self, model: str, number: Callable[[], int]) -> None:
        """Set the function that returns the version that answers."""
        self._version.labels(model).set_function(number)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

"""Metrics of the local server for Prometheus, at the path that TF Serving's examples use."""

from collections.abc import Callable

import prometheus_client

PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

# Seconds: from a small answer to that of a full batch of ten views.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """Counters of one server; safe to use from many threads."""

    def __init__(self) -> None:
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

    def request(self, protocol: str, status: str, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(protocol, status).inc()
        self._seconds.labels(protocol).observe(seconds)

    def batch(self, photos: int) -> None:
        """Count a batch."""
        self._photos.observe(photos)

    def version(self, model: str, number: Callable[[], int]) -> None:
        """Set the function that returns the version that answers."""
        self._version.labels(model).set_function(number)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

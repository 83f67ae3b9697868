"""Metrics of the HTTP server in Prometheus's text format."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """Counters of one server.

    Args:
        queue_length: returns the number of texts that wait to be tagged.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, queue_length: Callable[[], int]):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, processor time, open files
        self._requests = Counter(
            "flax_ner_requests", "Requests.", ["path", "status"], registry=registry
        )
        self._texts = Counter("flax_ner_texts", "Texts of answered requests.", registry=registry)
        self._characters = Counter(
            "flax_ner_characters", "Characters of answered requests.", registry=registry
        )
        self._batches = Histogram(
            "flax_ner_batch_texts", "Texts per batch.", buckets=BATCH_TEXTS, registry=registry
        )
        self._seconds = Histogram(
            "flax_ner_tag_seconds", "Time until a request to /tag was answered with 200.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        queue = Gauge("flax_ner_queue_texts", "Texts that wait to be tagged.", registry=registry)
        queue.set_function(queue_length)

    def count_request(
        self, path: str, status: int, texts: int, characters: int, seconds: float
    ) -> None:
        """Count an answered request.

        Args:
            path: a path of the server, or "other", so that clients cannot create counters.
            status: HTTP status.
            texts: number of texts that were tagged.
            characters: their number of characters.
            seconds: time until the answer.
        """
        self._requests.labels(path, status).inc()
        if path == "/tag" and status == 200:
            self._texts.inc(texts)
            self._characters.inc(characters)
            self._seconds.observe(seconds)

    def count_batch(self, texts: int) -> None:
        """Count a batch with this number of texts."""
        self._batches.observe(texts)

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)

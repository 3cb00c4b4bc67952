"""What the server counts, for Prometheus. What can be looked up is looked up when it is asked for; here is what would be forgotten."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 150.0, 300.0, 600.0)


class Metrics:
    """One server's. Times are in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        starts = Histogram(
            "stoker_container_start_seconds",
            "From the decision to start a container until it takes inputs.",
            ["kind"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._cold, self._restored = starts.labels("cold"), starts.labels("restored")
        self._waits = Histogram(
            "stoker_input_wait_seconds",
            "From the arrival of an input until a container gets it.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._requests = Counter(
            "stoker_http_requests_total",
            "Web requests, by label and status.",
            ["label", "status"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "stoker_http_request_seconds",
            "Web requests, until their last byte.",
            ["label"],
            buckets=_SECONDS,
            registry=self.registry,
        )

        self._failures = Counter(
            "stoker_failed_authentications_total",
            "Tokens that were missing or wrong, by where they were shown and why they were refused.",
            ["door", "reason"],
            registry=self.registry,
        )

    def container_ready(self, seconds: float, *, restored: bool) -> None:
        (self._restored if restored else self._cold).observe(seconds)

    def input_waited(self, seconds: float) -> None:
        self._waits.observe(seconds)

    def web_request(self, label: str, status: int, seconds: float) -> None:
        """status: 0 when there was no answer."""
        self._requests.labels(label, status).inc()
        self._durations.labels(label).observe(seconds)

    def authentication_failed(self, door: str, reason: str) -> None:
        self._failures.labels(door, reason).inc()

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)

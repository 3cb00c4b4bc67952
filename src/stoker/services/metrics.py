"""What the server counts, for Prometheus. What can be looked up is looked up when it is asked for; here is what would be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stoker.core.pool import ContainerState
from stoker.services.apps import Apps
from stoker.services.runner import Runner

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


class Present(Collector):
    """What is now: containers and inputs of every function."""

    def __init__(self, runners: Callable[[], Iterable[Runner]], apps: Apps) -> None:
        self._runners = runners
        self._apps = apps

    def collect(self) -> Iterator[Metric]:
        containers = GaugeMetricFamily(
            "stoker_containers", "Containers of a function.", labels=["app", "function", "state"]
        )
        inputs = GaugeMetricFamily(
            "stoker_inputs", "Unfinished inputs of a function.", labels=["app", "function", "state"]
        )
        taken = CounterMetricFamily(
            "stoker_inputs_taken",
            "Inputs and web requests that containers of a function got.",
            labels=["app", "function"],
        )
        # Functions may share a name (a class with other parameters is a function of its own, and so is a canary), but samples may not.
        named: dict[tuple[str, str], list[Runner]] = {}
        for runner in self._runners():
            app = self._apps.get(runner.function.app_id)
            named.setdefault((app.name or app.id, runner.function.name), []).append(runner)
        for names, runners in named.items():
            pools = [runner.pool for runner in runners]
            states = [container.state for pool in pools for container in pool.containers.values()]
            for state in ContainerState:
                containers.add_metric([*names, state.value], states.count(state))
            inputs.add_metric([*names, "waiting"], sum(pool.backlog for pool in pools))
            inputs.add_metric([*names, "running"], sum(pool.running for pool in pools))
            taken.add_metric(names, sum(runner.taken for runner in runners))
        yield from (containers, inputs, taken)

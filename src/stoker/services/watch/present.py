"""What is now, for Prometheus: read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stoker.core.books import ContainerState
from stoker.services.apps.apps import Apps
from stoker.services.pools.runner import Runner


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

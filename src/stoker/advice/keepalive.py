"""How long and how many containers to keep for a function's own traffic, by replaying it through the server's own scaling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stoker.core.autoscaler import ScalingSettings
from stoker.core.pool import Pool
from stoker.core.scaler import Decision, Scaler
from stoker.simulation.replay import replay
from stoker.simulation.trace import TracedFunction

# min_containers, buffer_containers, scaledown_window in seconds
_CANDIDATES = (
    *((0, 0, window) for window in (2, 10, 30, 60, 120, 300, 600, 900, 1800, 3600)),
    *((0, 1, window) for window in (60, 300)),
    *((1, least, window) for least in (0, 1) for window in (60, 300)),
)
_STARTS = 4  # containers that may start at once, one for each idle processor


@dataclass(frozen=True)
class Plan:
    """Settings, and what the traffic would have made of them. `cold`: share of inputs that waited for a start; waits in seconds."""

    min_containers: int
    buffer_containers: int
    scaledown_window: int
    cold: float
    p50_wait: float
    p95_wait: float
    mean_wait: float
    container_hours: float

    def price(self, patience: float, inputs: int) -> float:
        """Container-hours, a second that somebody waits counting as `patience` seconds of a container."""
        return self.container_hours + patience * self.mean_wait * inputs / 3600


def plans(traffic: TracedFunction, seconds: float, most: int | None) -> Iterator[Plan]:
    """Every combination worth looking at, as the traffic of that many seconds would have gone with at most `most` containers."""
    for least, buffer, window in _CANDIDATES:
        if most is None or least <= most:
            yield plan(traffic, seconds, ScalingSettings(least, most, buffer, window))


def plan(traffic: TracedFunction, seconds: float, settings: ScalingSettings) -> Plan:
    """What the traffic would have made of these settings."""
    settings = replace(settings, target_inputs=traffic.concurrency)
    outcome = replay(traffic, _ServersOwn(settings), seconds)
    waits = sorted(outcome.waits)
    count = len(waits)
    return Plan(
        min_containers=settings.min_containers,
        buffer_containers=settings.buffer_containers,
        scaledown_window=int(settings.scaledown_window),
        cold=outcome.cold / count,
        p50_wait=waits[count // 2],
        p95_wait=waits[min(count - 1, int(count * 0.95))],
        mean_wait=sum(waits) / count,
        container_hours=outcome.container_seconds / 3600,
    )


def best(found: Sequence[Plan], inputs: int, patience: float, wait: float | None = None) -> Plan:
    """The cheapest by `Plan.price`, among those with a p95 wait of at most `wait` seconds when there are any."""
    quick = [plan for plan in found if wait is None or plan.p95_wait <= wait]
    return min(quick or found, key=lambda plan: plan.price(patience, inputs))


class _ServersOwn:
    """The policy that the server follows, under given settings."""

    def __init__(self, settings: ScalingSettings) -> None:
        self._scaler = Scaler()
        self._settings = settings

    def started(self, seconds: float) -> None:
        self._scaler.started(seconds)

    def ran(self, seconds: float) -> None:
        self._scaler.ran(seconds)

    def decide(self, now: float, pool: Pool) -> Decision:
        return self._scaler.decide(now, pool, self._settings, _STARTS)

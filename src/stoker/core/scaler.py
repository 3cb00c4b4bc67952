"""When containers of one function start and stop. Pure: a pool and the time in, a decision out.

It keeps what the rule of `autoscaler.py` has to remember: how long starts and inputs take, since when more has been needed, and, when the user
wants prediction, the history of demand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stoker.core.autoscaler import ASSUMED_START, PoolView, ScalingSettings, desired_containers
from stoker.core.pool import ContainerState, Pool, PooledContainer
from stoker.core.prediction import Forecast

_SMOOTHING = 0.3  # weight of the newest observation in the running means
_RECONSIDER = 1.0  # seconds until a function with a backlog is looked at again, without an event


@dataclass(frozen=True)
class Decision:
    """`start`: containers to add. `drain`: those to send away, what they run first. `look_at`: when to ask again without an event."""

    start: int = 0
    drain: tuple[str, ...] = ()
    look_at: float | None = None


class Scaler:
    def __init__(self) -> None:
        self.mean_runtime: float | None = None  # seconds of one input
        self.mean_start: float | None = None  # seconds from launch to the first poll
        self._forecast: Forecast | None = None
        self._pressed_since: float | None = None

    def started(self, seconds: float) -> None:
        """A container has come up."""
        self.mean_start = _mean(self.mean_start, seconds)

    def ran(self, seconds: float) -> None:
        """An input has ended."""
        self.mean_runtime = _mean(self.mean_runtime, seconds)

    def decide(self, now: float, pool: Pool, settings: ScalingSettings, parallel_starts: int) -> Decision:
        live = [c for c in pool.containers.values() if c.state is not ContainerState.DRAINING]
        view = PoolView(
            backlog=pool.backlog,
            running=pool.running,
            ready=sum(c.state is ContainerState.READY for c in live),
            starting=sum(c.state is ContainerState.STARTING for c in live),
            mean_runtime=self.mean_runtime,
            mean_start=self.mean_start,
        )
        wanted = desired_containers(view, settings, parallel_starts)
        times: list[float] = []
        window = settings.scaledown_window
        if settings.predictive:
            predicted, change = self._predict(now, view, settings)
            wanted = max(wanted, predicted)
            window = 0.0  # what is worth keeping for a while is part of the prediction
            if change is not None:
                times.append(change)
        else:
            self._forecast = None
        start = self._held_back(now, wanted, live, settings, times)
        drain = _surplus(now, live, wanted, window, settings.max_containers, times)
        if view.backlog and live:
            times.append(now + _RECONSIDER)
        return Decision(start, drain, min(times, default=None))

    def _predict(self, now: float, view: PoolView, settings: ScalingSettings) -> tuple[int, float | None]:
        if self._forecast is None:
            self._forecast = Forecast()
        needed = math.ceil((view.backlog + view.running) / max(1, settings.target_inputs))
        if settings.max_containers is not None:
            needed = min(needed, settings.max_containers)
        start = self.mean_start or ASSUMED_START
        # The user's scaledown window is the price: idle time spent to spare somebody a start of the usual length.
        worth = settings.scaledown_window * start / ASSUMED_START
        self._forecast.observe(now, needed, settings.scaledown_window, worth, start)
        predicted, change = self._forecast.wanted(now)
        predicted = max(predicted - needed, 0)
        have = min(needed, view.ready + view.starting)
        predicted += have  # how fast demand that is there gets containers is the rule's business
        if settings.max_containers is not None:
            predicted = min(predicted, settings.max_containers)
        return predicted, change

    def _held_back(
        self, now: float, wanted: int, live: list[PooledContainer], settings: ScalingSettings, times: list[float]
    ) -> int:
        """How many containers to start now. More must have been needed for the scale-up window, but the first never waits."""
        missing = wanted - len(live)
        if missing <= 0:
            self._pressed_since = None
            return 0
        floor = max(0, max(settings.min_containers, 1) - len(live))
        if self._pressed_since is None:
            self._pressed_since = now
        due = self._pressed_since + settings.scaleup_window
        if due > now:
            times.append(due)
            return min(missing, floor)
        return missing


def _surplus(
    now: float, live: list[PooledContainer], wanted: int, window: float, most: int | None, times: list[float]
) -> tuple[str, ...]:
    """Containers to send away: idle ones after their window; when there are more than may be, then also ones that start, and busy ones last."""
    idle = sorted((c for c in live if c.ready_at and not c.running), key=lambda c: c.idle_since)
    due = [c for c in idle if c.idle_since + window <= now]  # the very sum that was asked to be looked at
    chosen = due[: max(0, len(live) - wanted)]
    if len(live) > wanted:
        times += [c.idle_since + window for c in idle if c not in chosen and c.idle_since + window > now]
    excess = len(live) - len(chosen) - most if most is not None else 0
    if excess > 0:
        rest = [c for c in idle if c not in chosen]
        starting = sorted((c for c in live if not c.ready_at), key=lambda c: -c.started_at)
        busy = sorted((c for c in live if c.ready_at and c.running), key=lambda c: len(c.running))
        chosen += [*rest, *starting, *busy][:excess]
    return tuple(c.id for c in chosen)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _SMOOTHING * (new - old)

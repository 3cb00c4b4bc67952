"""When containers of one function start and stop. Pure: a pool and the time in, a decision out.

It keeps what the rule of `autoscaler.py` has to remember: how long starts and inputs take, since when more has been needed, and, when the user
wants prediction, the history of demand.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat

from stoker.core.autoscaler import ASSUMED_START, LONGEST_PATIENCE, PoolView, ScalingSettings, desired_containers
from stoker.core.books import ContainerState, PooledContainer
from stoker.core.pool import Pool
from stoker.core.prediction import Forecast

_SMOOTHING = 0.3  # weight of the newest observation in the running means
_SILENCE = 10.0  # seconds for which a container may have room and not ask, while inputs wait
_MOST_AGES = 64  # that an estimate looks at
_RECONSIDER = 1.0  # seconds until a function with a backlog is looked at again, without an event


@dataclass(frozen=True)
class Decision:
    """`start`: containers to add. `drain`: those to send away, what they run first. `look_at`: when to ask again without an event.

    `extra`: those to add come on top of others that take inputs, and no input has waited for very long. `stuck`: inputs wait, no more containers
    may be, and all there are wait for the results of other calls."""

    start: int = 0
    drain: tuple[str, ...] = ()
    look_at: float | None = None
    extra: bool = False
    stuck: bool = False


class Scaler:
    def __init__(self) -> None:
        self.mean_runtime: float | None = None  # seconds of one input
        self.mean_start: float | None = None  # seconds from launch to the first poll
        self._starts: deque[float] = deque(maxlen=5)  # the last ones
        self._forecast: Forecast | None = None
        self._pressed_since: float | None = None

    def started(self, seconds: float) -> None:
        """A container has come up."""
        self.mean_start = _mean(self.mean_start, seconds)
        self._starts.append(seconds)

    def ran(self, seconds: float) -> None:
        """An input has ended."""
        self.mean_runtime = _mean(self.mean_runtime, seconds)

    @property
    def usual_start(self) -> float | None:
        """The median of the last few starts: one that hung, unlike in the mean, says nothing of the next."""
        return sorted(self._starts)[(len(self._starts) - 1) // 2] if self._starts else None

    def decide(self, now: float, pool: Pool, settings: ScalingSettings, parallel_starts: int) -> Decision:
        if pool.settings.max_inputs_per_container:
            settings = replace(
                settings, target_inputs=min(settings.target_inputs, pool.settings.max_inputs_per_container)
            )
        parts = _Parts(now, pool)
        view = self._view(now, pool, parts, settings)
        wanted = desired_containers(view, settings, parallel_starts)
        times: list[float] = []
        window = settings.scaledown_window
        if settings.predictive:
            predicted, change = self._predict(now, pool, parts, view, settings)
            wanted = max(wanted, predicted)
            window = 0.0  # what is worth keeping for a while is part of the prediction
            if change is not None:
                times.append(change)
        else:
            self._forecast = None
        start = self._held_back(now, wanted, parts, settings, times)
        start = int(min(start, parts.room_below(settings.max_containers)))
        drain = _surplus(now, parts.live, wanted, window, settings.max_containers, times)
        if view.backlog and pool.containers:
            times.append(now + _RECONSIDER)
        return Decision(
            start,
            drain,
            min(times, default=None),
            extra=bool(start and parts.supply and parts.waited < LONGEST_PATIENCE),
            stuck=view.backlog > 0 and parts.is_stuck(pool, settings.max_containers),
        )

    def _view(self, now: float, pool: Pool, parts: _Parts, settings: ScalingSettings) -> PoolView:
        ready = [c for c in parts.supply if c.state is ContainerState.READY]
        starting = [c for c in parts.supply if c.state is ContainerState.STARTING]
        places = [_places_taken(pool, c, settings) for c in ready]
        return PoolView(
            backlog=len(pool.waiting),
            running=sum(places),
            ready=len(ready),
            starting=len(starting),
            mean_runtime=self.mean_runtime,
            usual_start=self.usual_start,
            ages=_ages(now, ready, places) if pool.waiting else (),
            coming=[now - c.started_at for c in starting],
            waited=parts.waited,
            since_start=now - max((c.started_at for c in pool.containers.values()), default=-math.inf),
            aside=len(parts.aside),
            elsewhere=sum(len(c.running) for c in [*parts.aside, *parts.leaving]),
        )

    def _predict(
        self, now: float, pool: Pool, parts: _Parts, view: PoolView, settings: ScalingSettings
    ) -> tuple[int, float | None]:
        if self._forecast is None:
            self._forecast = Forecast()
        needed = math.ceil((view.backlog + view.running) / max(1, settings.target_inputs))
        have = min(needed, view.ready + view.starting)
        needed += sum(bool(c.running) for c in [*parts.aside, *parts.leaving])
        if settings.max_containers is not None:
            needed = min(needed, settings.max_containers)
        start = self.mean_start or ASSUMED_START
        # The user's scaledown window is the price: idle time spent to spare somebody a start of the usual length.
        worth = settings.scaledown_window * start / ASSUMED_START
        # What serves no second input cannot be kept for it.
        keep = 0.0 if pool.settings.max_inputs_per_container else settings.scaledown_window
        self._forecast.observe(now, needed, keep, worth, start)
        predicted, change = self._forecast.wanted(now)
        predicted = max(predicted - needed, 0)
        predicted += have + view.aside  # how fast demand that is there gets containers is the rule's business
        if settings.max_containers is not None:
            predicted = min(predicted, settings.max_containers)
        return predicted, change

    def _held_back(self, now: float, wanted: int, parts: _Parts, settings: ScalingSettings, times: list[float]) -> int:
        """How many containers to start now. More must have been needed for the scale-up window, but the first that takes inputs never waits."""
        live = len(parts.live)
        missing = wanted - live
        if missing <= 0:
            self._pressed_since = None
            return 0
        floor = max(0, settings.min_containers - live, 1 - len(parts.supply))
        if self._pressed_since is None:
            self._pressed_since = now
        due = self._pressed_since + settings.scaleup_window
        if due > now:
            times.append(due)
            return min(missing, floor)
        return missing


class _Parts:
    """The containers of a pool by what they are for its inputs that wait."""

    def __init__(self, now: float, pool: Pool) -> None:
        self.supply: list[PooledContainer] = []  # they take inputs, or will when they are up
        self.aside: list[PooledContainer] = []  # they are there, but nothing can be expected of them
        self.leaving: list[PooledContainer] = []  # they drain
        self.waited = pool.waited(now)
        for container in pool.containers.values():
            if container.state is ContainerState.DRAINING:
                self.leaving.append(container)
            elif pool.blocked(container) or self._is_silent(now, pool, container):
                self.aside.append(container)
            else:
                self.supply.append(container)

    @property
    def live(self) -> list[PooledContainer]:
        return [*self.supply, *self.aside]

    def room_below(self, most: int | None) -> float:
        """How many containers may be added. One that drains is still there, unless a deployment takes its place."""
        if most is None:
            return math.inf
        return max(0, most - len(self.live) - sum(not c.outdated for c in self.leaving))

    def is_stuck(self, pool: Pool, most: int | None) -> bool:
        """Whether no container is left that could take an input, before calls of other containers have ended."""
        nobody = not self.supply and not self.leaving and not self.room_below(most)
        return nobody and all(pool.blocked(c) for c in self.aside)

    def _is_silent(self, now: float, pool: Pool, container: PooledContainer) -> bool:
        """Whether a container has room and does not ask, though inputs wait: its program is stuck, or keeps the client from running."""
        return (
            min(self.waited, now - container.heard_at) >= _SILENCE
            and container.state is ContainerState.READY
            and not container.polling
            and pool.takes(container)
        )


def _places_taken(pool: Pool, container: PooledContainer, settings: ScalingSettings) -> int:
    """How many of the places in a container are taken: all when it takes no more, like one with a batch that is not full."""
    running = len(container.running)
    return running if not running or pool.takes(container) else max(running, math.ceil(settings.target_inputs))


def _ages(now: float, containers: Sequence[PooledContainer], places: Sequence[int]) -> list[float]:
    """Seconds for which places have been taken, infinite where the end depends on the result of another call; of many, some."""

    def each() -> Iterator[float]:
        for container, taken in zip(containers, places, strict=True):
            age = 0.0
            for input_id, begin in container.running.items():
                age = math.inf if input_id in container.waits else now - begin
                yield age
            yield from repeat(age, taken - len(container.running))

    return list(islice(each(), 0, None, 1 + sum(places) // _MOST_AGES))


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

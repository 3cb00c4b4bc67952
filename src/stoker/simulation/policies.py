"""The policies that are compared. Each is made for one function, and has one number that trades containers for waiting."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from stoker.core.autoscaler import ScalingSettings
from stoker.core.books import ContainerState
from stoker.core.pool import Pool
from stoker.core.scaler import Decision, Scaler
from stoker.simulation.replay import Outcome, Policy
from stoker.simulation.trace import TracedFunction

_STARTS = 100  # containers that may start at once: the machine is never busy


@dataclass(frozen=True)
class Contender:
    """`make` makes the policy of one function from the number; `knob` says what that number is."""

    name: str
    knob: str
    make: Callable[[TracedFunction, float], Policy]
    least: float = 0.5
    most: float = 500_000.0


class Ours:
    """The code of the server, reactive or predictive; the number is the scaledown window."""

    def __init__(self, function: TracedFunction, window: float, *, predictive: bool) -> None:
        self._scaler = Scaler()
        self._settings = ScalingSettings(
            scaledown_window=window, target_inputs=function.concurrency, predictive=predictive
        )
        self.started = self._scaler.started
        self.ran = self._scaler.ran

    def decide(self, now: float, pool: Pool) -> Decision:
        return self._scaler.decide(now, pool, self._settings, _STARTS)


class FixedKeepAlive:
    """A container for each input that finds none; an idle one is kept for a fixed time."""

    def __init__(self, function: TracedFunction, window: float) -> None:
        self._window = window
        self._concurrency = function.concurrency

    def started(self, seconds: float) -> None:
        pass

    def ran(self, seconds: float) -> None:
        pass

    def decide(self, now: float, pool: Pool) -> Decision:
        live = [c for c in pool.containers.values() if c.state is not ContainerState.DRAINING]
        starting = sum(c.state is ContainerState.STARTING for c in live)
        start = max(0, math.ceil(pool.backlog / self._concurrency) - starting)
        idle = [c for c in live if c.ready_at and not c.running]
        drain = tuple(c.id for c in idle if c.idle_since + self._window <= now)
        look_at = min((c.idle_since + self._window for c in idle if c.id not in drain), default=None)
        return Decision(start, drain, look_at)


class KnativeLike:
    """After Knative's pod autoscaler: the mean concurrency of a stable window, and of a tenth of it in a panic, over 70% of what a container takes;
    looked at every two seconds. The number is the stable window."""

    _TICK, _UTILISATION, _PANIC_SHARE, _PANIC_AT, _GRACE = 2.0, 0.7, 0.1, 2.0, 30.0

    def __init__(self, function: TracedFunction, window: float) -> None:
        self._window = window
        self._target = function.concurrency * self._UTILISATION
        self._history: deque[tuple[float, int]] = deque()  # (since, concurrency)
        self._tick_at = 0.0
        self._panic_until = 0.0
        self._panic_floor = 0
        self._wanted = 0
        self._zero_at: float | None = None

    def started(self, seconds: float) -> None:
        pass

    def ran(self, seconds: float) -> None:
        pass

    def decide(self, now: float, pool: Pool) -> Decision:
        concurrency = pool.backlog + pool.running
        if not self._history or self._history[-1][1] != concurrency:
            self._history.append((now, concurrency))
        live = [c for c in pool.containers.values() if c.state is not ContainerState.DRAINING]
        poked = not live and pool.backlog > 0  # the activator asks for the first container at once
        if now >= self._tick_at or poked:
            self._tick_at = now + self._TICK
            self._wanted = max(self._desired(now, len(live)), int(poked))
        drain = []
        if len(live) > self._wanted:
            idle = sorted((c for c in live if c.ready_at and not c.running), key=lambda c: c.idle_since)
            drain = [c.id for c in idle[: len(live) - self._wanted]]
        start = max(0, self._wanted - len(live))
        return Decision(start, tuple(drain), self._tick_at if live or start or concurrency else None)

    def _desired(self, now: float, have: int) -> int:
        stable = math.ceil(self._mean(now, self._window) / self._target)
        panic = math.ceil(self._mean(now, self._window * self._PANIC_SHARE) / self._target)
        if have and panic >= self._PANIC_AT * have:
            self._panic_until, self._panic_floor = now + self._window, max(self._panic_floor, panic)
        if now < self._panic_until:
            self._panic_floor = max(self._panic_floor, panic)
            return max(stable, self._panic_floor, 1)
        self._panic_floor = 0
        if stable or not have:
            self._zero_at = None
            return stable
        # To zero only after a grace, with which Knative waits for its routes.
        self._zero_at = now + min(self._GRACE, self._window) if self._zero_at is None else self._zero_at
        return 0 if now >= self._zero_at else 1

    def _mean(self, now: float, window: float) -> float:
        begin = now - window
        while len(self._history) > 1 and self._history[1][0] <= now - self._window:
            self._history.popleft()
        total, until = 0.0, now
        for since, concurrency in reversed(self._history):
            total += concurrency * max(0.0, until - max(since, begin))
            until = since
            if since <= begin:
                break
        return total / window


def contenders() -> tuple[Contender, ...]:
    """The predictive policy first, then those it is compared with."""
    return (
        Contender("stoker, predictive", "scaledown window", lambda f, w: Ours(f, w, predictive=True)),
        Contender("stoker", "scaledown window", lambda f, w: Ours(f, w, predictive=False)),
        Contender("fixed keep-alive", "keep-alive", FixedKeepAlive),
        Contender("Knative-like", "stable window", KnativeLike, least=2.0),
    )


def oracle(function: TracedFunction, seconds: float) -> Outcome:
    """Who knows the future lets nobody wait, and keeps a container over a gap only when that is cheaper than another start.

    Inputs that share a container are each charged their part of it, so this is a bound that nobody reaches."""
    outcome = Outcome(waits=[0.0] * len(function.arrivals))
    share = 1.0 / function.concurrency
    free_at: list[float] = []  # by place in a container: when its last input ends
    for arrived, run in zip(function.arrivals, function.runs, strict=True):
        free = [i for i, at in enumerate(free_at) if at <= arrived]
        place = max(free, key=lambda i: free_at[i], default=len(free_at))
        if place == len(free_at):
            free_at.append(-math.inf)
        gap = arrived - free_at[place]
        outcome.starts += gap > function.start
        outcome.container_seconds += share * (
            min(gap, function.start) + max(0.0, min(arrived + run, seconds) - arrived)
        )
        free_at[place] = arrived + run
    return outcome

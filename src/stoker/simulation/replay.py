"""Replays the traffic of one function through the server's own pool, event by event. There is always room for another container."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Protocol

from stoker.core.actions import Action, Deliver, Dismiss
from stoker.core.books import PooledInput, PoolSettings
from stoker.core.pool import Pool
from stoker.core.scaler import Decision
from stoker.simulation.trace import TracedFunction

_START_SPREAD = 0.15  # of the logarithm of start times, from one start of a function to the next
_ARRIVE, _READY, _DONE, _LOOK = range(4)
_BEGIN = 1.0  # the pool takes a time of 0 for "never"


class Policy(Protocol):
    """Decides for one function; told what `core.scaler.Scaler` is told."""

    def started(self, seconds: float) -> None: ...

    def ran(self, seconds: float) -> None: ...

    def decide(self, now: float, pool: Pool) -> Decision: ...


@dataclass
class Outcome:
    """What one policy made of the traffic of one function."""

    waits: list[float] = field(default_factory=list)  # seconds from the arrival of each input until a container ran it
    cold: int = 0  # inputs that waited for a container to start
    starts: int = 0
    container_seconds: float = 0.0  # from each container's launch to its end


def replay(function: TracedFunction, policy: Policy, seconds: float, seed: int = 0) -> Outcome:
    return _Replay(function, policy, seconds, random.Random(f"{seed}/{function.name}")).run()


class _Replay:
    def __init__(self, function: TracedFunction, policy: Policy, seconds: float, chance: random.Random) -> None:
        self._function = function
        self._policy = policy
        self._end = seconds + _BEGIN
        self._chance = chance
        self._pool = Pool(PoolSettings(max_concurrent_inputs=function.concurrency, timeout=1e12))
        self._outcome = Outcome()
        self._events: list[tuple[float, int, int, str, str]] = []
        self._order = 0
        self._looking: float | None = None
        self._launched: dict[str, float] = {}
        self._arrived: dict[str, float] = {}

    def run(self) -> Outcome:
        arrivals = [at + _BEGIN for at in self._function.arrivals]
        position = 0
        now = _BEGIN
        while position < len(arrivals) or self._events:
            if position < len(arrivals) and (not self._events or arrivals[position] <= self._events[0][0]):
                now, kind, container_id, input_id = arrivals[position], _ARRIVE, "", str(position)
                position += 1
            else:
                now, _, kind, container_id, input_id = heapq.heappop(self._events)
                if kind == _LOOK:
                    if now != self._looking:
                        continue
                    self._looking = None
                    if now > self._end:
                        continue
            self._happen(now, kind, container_id, input_id)
            self._act(now, self._policy.decide(now, self._pool))
        for container_id in list(self._launched):
            self._ended(max(now, self._end) if now <= self._end else now, container_id)
        return self._outcome

    def _happen(self, now: float, kind: int, container_id: str, input_id: str) -> None:
        if kind == _ARRIVE:
            self._arrived[input_id] = now
            self._apply(now, self._pool.add(now, [PooledInput(input_id, "")]))
        elif kind == _READY and container_id in self._launched:
            self._policy.started(now - self._launched[container_id])
            self._poll(now, container_id)
        elif kind == _DONE:
            self._policy.ran(self._function.runs[int(input_id)])
            _, actions = self._pool.succeed(now, container_id, input_id)
            self._apply(now, actions)
            self._poll(now, container_id)

    def _poll(self, now: float, container_id: str) -> None:
        container = self._pool.containers.get(container_id)
        if container is not None and not container.polling:
            self._apply(now, self._pool.poll(now, container_id, 1))

    def _apply(self, now: float, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                container = self._pool.containers[action.container_id]
                for input_id, _ in action.inputs:
                    arrived = self._arrived.pop(input_id)
                    self._outcome.waits.append(now - arrived)
                    self._outcome.cold += container.ready_at > arrived
                    self._push(now + self._function.runs[int(input_id)], _DONE, action.container_id, input_id)
                if len(container.running) < self._function.concurrency:
                    self._poll(now, action.container_id)
            elif isinstance(action, Dismiss):
                self._ended(now, action.container_id)

    def _act(self, now: float, decision: Decision) -> None:
        for container_id in decision.drain:
            container = self._pool.containers[container_id]
            actions = self._pool.drain(container_id)
            if container.ready_at:
                self._apply(now, actions)
            else:
                self._ended(now, container_id)
        for _ in range(decision.start):
            self._outcome.starts += 1
            container_id = f"c{self._outcome.starts}"
            self._launched[container_id] = now
            self._pool.launch(now, container_id, "")
            took = self._function.start * self._chance.lognormvariate(0.0, _START_SPREAD)
            self._push(now + took, _READY, container_id, "")
        if decision.look_at is not None and (self._looking is None or decision.look_at < self._looking):
            self._looking = max(decision.look_at, now + 1e-6)
            self._push(self._looking, _LOOK, "", "")

    def _ended(self, now: float, container_id: str) -> None:
        launched = self._launched.pop(container_id, None)
        if launched is None:
            return
        # What lives on behind the end of the trace costs every policy alike: nothing.
        self._outcome.container_seconds += max(0.0, min(now, max(self._end, launched)) - launched)
        self._pool.remove(now, container_id, "", blame_inputs=False)

    def _push(self, at: float, kind: int, container_id: str, input_id: str) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, kind, container_id, input_id))

"""A machine in a test's own time: functions whose inputs run, sleep and call each other in containers that start, and may be deaf or fail."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field

from stoker.core.actions import Action, Deliver, Dismiss
from stoker.core.autoscaler import ScalingSettings
from stoker.core.books import ContainerState, PooledInput, PoolSettings
from stoker.core.checked_pool import CheckedPool
from stoker.core.scaler import Scaler


@dataclass(frozen=True)
class Run:
    """Runs for some seconds; `deaf`: and keeps its container from asking for more inputs meanwhile."""

    seconds: float
    deaf: bool = False


@dataclass(frozen=True)
class Call:
    """Calls a function; and waits for the result, unless it is forgotten."""

    function: str
    steps: tuple[Step, ...]
    forgotten: bool = False


Step = Run | Call


@dataclass
class Function:
    """What the server knows of a function, and how long its containers take to start."""

    scaling: ScalingSettings = field(default_factory=ScalingSettings)
    pool: PoolSettings = field(default_factory=lambda: PoolSettings(timeout=1e12))
    start: float = 1.0  # seconds


class Line:
    """A function at run time."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.pool = CheckedPool(function.pool)
        self.scaler = Scaler()
        self.launched_at = 0.0
        self.short_since = 0.0  # for those who watch
        self.launches = 0
        self.started = 0  # by the last decision
        self.looks_at = 0.0


class Machine:
    """`room`: containers that fit at once. `busy`: its processors are. `fails`: the numbers of the starts that fail. `hangs`: the numbers of those
    that take five minutes. `watch`: called after every event with the name of each function."""

    def __init__(
        self,
        functions: Mapping[str, Function],
        *,
        room: int = 1_000,
        busy: bool = False,
        fails: Iterable[int] = (),
        hangs: Iterable[int] = (),
        watch: Callable[[Machine, str], None] = lambda machine, name: None,
    ) -> None:
        self.lines = {name: Line(function) for name, function in functions.items()}
        self.room = room
        self.now = 1.0  # the pool takes a time of 0 for "never"
        self.most = 0  # containers at once
        self.unfinished = 0
        self.busy = busy
        self._fails, self._hangs, self._watch = frozenset(fails), frozenset(hangs), watch
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._programs: dict[str, tuple[Step, ...]] = {}
        self._callers: dict[str, frozenset[str]] = {}
        self._after: dict[str, Callable[[], None]] = {}  # by input: what waits for its end
        self._deaf: dict[str, int] = {}  # by container: how many of its inputs make it deaf

    def call(self, at: float, function: str, *steps: Step) -> None:
        def add() -> None:
            self._add(function, steps, frozenset())

        self._at(self.now + at, add)

    def run(self, until: float = 1e6) -> None:
        """Until nothing is to do any more."""
        while self._events and self._events[0][0] < until:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            for name in self.lines:
                self._decide(name)
                self._watch(self, name)

    @property
    def containers(self) -> int:
        return sum(len(line.pool.containers) for line in self.lines.values())

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, happen))

    def _add(self, function: str, steps: tuple[Step, ...], callers: frozenset[str]) -> str:
        input_id = f"{function}-{len(self._programs)}"
        self._programs[input_id], self._callers[input_id] = steps, callers
        self.unfinished += 1
        item = PooledInput(input_id, "")
        self._at(self.now, lambda: self._apply(function, self.lines[function].pool.add(self.now, [item])))
        return input_id

    def _decide(self, name: str) -> None:
        line = self.lines[name]
        decision = line.scaler.decide(self.now, line.pool, line.function.scaling, 0 if self.busy else 2)
        line.started = min(decision.start, self.room - self.containers)
        for _ in range(line.started):
            self._launch(name, line)
        for container_id in decision.drain:
            actions = line.pool.drain(container_id)
            if line.pool.containers[container_id].ready_at:
                self._apply(name, actions)
            else:
                line.pool.remove(self.now, container_id, "")
        due = min((t for t in (decision.look_at, line.pool.next_tick()) if t is not None), default=None)
        if due is not None and not self.now < line.looks_at <= due:
            line.looks_at = max(due, self.now + 1e-3)
            self._at(line.looks_at, lambda: self._apply(name, line.pool.tick(self.now)))

    def _launch(self, name: str, line: Line) -> None:
        line.launches += 1
        container_id = f"{name}/{line.launches}"
        line.launched_at = self.now
        line.pool.launch(self.now, container_id, "")
        self.most = max(self.most, self.containers)
        fails = line.launches in self._fails
        takes = 300.0 if line.launches in self._hangs else line.function.start
        self._at(self.now + takes, lambda: self._started(name, container_id, fails=fails))

    def _started(self, name: str, container_id: str, *, fails: bool) -> None:
        pool = self.lines[name].pool
        if container_id not in pool.containers:
            return
        if fails:
            self._apply(name, pool.remove(self.now, container_id, "It failed."))
        else:
            self.lines[name].scaler.started(self.now - pool.containers[container_id].started_at)
            self._poll(name, container_id)

    def _poll(self, name: str, container_id: str) -> None:
        pool = self.lines[name].pool
        container = pool.containers.get(container_id)
        settings = pool.settings
        if container is None or container.polling or self._deaf.get(container_id):
            return
        if len(container.running) < settings.max_concurrent_inputs:
            self._apply(name, pool.poll(self.now, container_id, settings.batch_max_size))

    def _apply(self, name: str, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                for input_id, _ in action.inputs:
                    self._go_on(name, action.container_id, input_id, self._work(name, action.container_id, input_id))
                self._poll(name, action.container_id)
            elif isinstance(action, Dismiss):
                self._at(self.now + 0.1, lambda gone=action.container_id: self._gone(name, gone))

    def _work(self, name: str, container_id: str, input_id: str) -> Generator[float | str, None, None]:
        """What an input does, step by step: the seconds it takes, or the input it waits for."""
        for step in self._programs[input_id]:
            if isinstance(step, Run):
                self._deaf[container_id] = self._deaf.get(container_id, 0) + step.deaf
                yield step.seconds
                self._deaf[container_id] -= step.deaf
            else:
                child = self._add(step.function, step.steps, self._callers[input_id] | {name})
                if not step.forgotten:
                    yield child

    def _go_on(self, name: str, container_id: str, input_id: str, work: Generator[float | str, None, None]) -> None:
        pool = self.lines[name].pool
        step = next(work, None)
        if isinstance(step, str):

            def back() -> None:
                pool.unblock(container_id, input_id)
                self._go_on(name, container_id, input_id, work)

            def wait(child: str) -> None:
                if child in self._after:  # it has not ended meanwhile
                    pool.block(container_id, input_id)
                    function = child.partition("-")[0]
                    if function in self._callers[child]:
                        self.lines[function].pool.hurry([child])

            self._after[step] = back
            self._at(self.now, lambda: wait(step))
        elif step is not None:
            self._at(self.now + step, lambda: self._go_on(name, container_id, input_id, work))
        else:
            self._finish(name, container_id, input_id)

    def _finish(self, name: str, container_id: str, input_id: str) -> None:
        line = self.lines[name]
        container = line.pool.containers[container_id]
        line.scaler.ran(self.now - container.running[input_id])
        _, actions = line.pool.succeed(self.now, container_id, input_id)
        self.unfinished -= 1
        self._apply(name, actions)
        if container.state is ContainerState.DRAINING and not container.running:
            self._at(self.now + 0.1, lambda: self._gone(name, container_id))
        self._poll(name, container_id)
        then = self._after.pop(input_id, None)
        if then is not None:
            self._at(self.now, then)

    def _gone(self, name: str, container_id: str) -> None:
        pool = self.lines[name].pool
        if container_id in pool.containers and not pool.containers[container_id].running:
            self._apply(name, pool.remove(self.now, container_id, ""))

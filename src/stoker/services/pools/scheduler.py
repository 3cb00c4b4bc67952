"""All pools of the server, by function."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from stoker.core.actions import Finish, Outcome
from stoker.core.books import ContainerState, PooledInput
from stoker.core.pool import Pool
from stoker.core.turns import Holding, make_room
from stoker.engine.base import Engine, NotNow
from stoker.errors import FailedPrecondition, NotFound
from stoker.services.apps.apps import DEPLOYED, App, Apps
from stoker.services.containers.launching import Launcher
from stoker.services.containers.task import Delivery, Task
from stoker.services.functions.functions import Functions
from stoker.services.functions.spec import Function
from stoker.services.images.layer_checks import no_check
from stoker.services.pools.pool_faults import plain_pool
from stoker.services.pools.runner import FinishSink, Runner

_STOPS = "The server stops."
# Output comes through a pipe, inputs and results through a socket. Seconds from an input's handing over until something of it can be printed,
# and from its result until the last of it has come.
_FIRST_WORDS, _LAST_WORDS = 0.001, 0.25
_LAST_INPUTS = 32  # of a container, of which last words are expected
_LEAST_IDLE = 2.0  # seconds; who calls again and again is not to lose its container in between, as if it were idle


class AwaitedCall(Protocol):
    """A call whose result something in a container waits for."""

    @property
    def function_id(self) -> str: ...

    @property
    def callers(self) -> Collection[str]:
        """Functions that called it, directly or through others."""
        ...

    @property
    def open_inputs(self) -> Collection[str]:
        """The ids of its inputs without a result."""
        ...


class Scheduler:
    """The runners of all functions. Made by the composition root; gets inputs from calls and servers, and what containers say by RPC.
    Tells how inputs ended by `on_finish`."""

    def __init__(
        self,
        functions: Functions,
        apps: Apps,
        launcher: Launcher,
        engine: Engine,
        *,
        fair_after: float = 120.0,
        make_pool: Callable[[Function], Pool] = plain_pool,
    ) -> None:
        """fair_after: seconds a function waits for resources until a busy container of one that holds more has to make room; 0 for ever.
        make_pool: gives the pool of a function."""
        self._engine = engine
        self._fair_after = fair_after
        self._make_pool = make_pool
        self._functions = functions
        self._apps = apps
        self._launcher = launcher
        self._runners: dict[str, Runner] = {}
        self._by_task: dict[str, Runner] = {}
        self._twins: dict[str, set[str]] = {}  # function -> functions that run a part of its inputs
        self.on_finish: FinishSink = lambda finishes, result: None
        """Called with inputs that ended without a result from a container; and with a result for all of them, when there is one."""
        self.route: Callable[[Function, str], str] = lambda function, input_id: function.id
        """Gives the id of the function that is to run an input: another one during a canary."""
        self.outlives: Callable[[str], bool] = bool
        """Whether the inputs of a call go on after a restart. Those of no call ("") do not."""
        self.check_layers: Callable[[str], Awaitable[None]] = no_check
        """See `LayerChecks.check`."""

    def check(self, function_id: str) -> Function:
        """The function, which must be callable. Raises NotFound or FailedPrecondition with the reason."""
        function = self._functions.get(function_id)
        self._apps.alive(function.app_id)
        reason = function.active.spec.unsupported
        if reason:
            raise FailedPrecondition(reason)
        return function

    async def check_image(self, function: Function) -> None:
        """Raises Damaged when a function has no container and none can be started, since its image is damaged."""
        if not any(runner.tasks for runner in self._with_twins(function.id)):
            await self.check_layers(function.active.spec.image_id)

    def add(self, function_id: str, inputs: Sequence[PooledInput]) -> None:
        try:
            function = self.check(function_id)
        except (NotFound, FailedPrecondition) as error:
            # Inputs found after a restart whose app is gone.
            self.on_finish([Finish(i.id, i.call_id, Outcome.CANCELLED, str(error)) for i in inputs], None)
            return
        by_target: dict[str, list[PooledInput]] = {}
        for item in inputs:
            by_target.setdefault(self.route(function, item.id), []).append(item)
        for target, part in by_target.items():
            if target != function_id:
                self._twins.setdefault(function_id, set()).add(target)
            self._runner(target).add(part)

    def load_of(self, function_id: str) -> tuple[int, int]:
        """(inputs that wait, all unfinished inputs) of a function."""
        runners = self._with_twins(function_id)
        return sum(r.pool.backlog for r in runners), sum(len(r.pool.inputs) for r in runners)

    def knows(self, function_id: str, input_id: str) -> bool:
        """Whether an input of a function waits or runs."""
        return any(input_id in runner.pool.inputs for runner in self._with_twins(function_id))

    def retire(self, function_ids: Iterable[str]) -> None:
        """Functions get no more inputs: their containers end with what they run."""
        for function_id in function_ids:
            runner = self._runners.get(function_id)
            if runner is not None:
                runner.function.scaling_override = replace(
                    runner.function.scaling,
                    min_containers=0,
                    buffer_containers=0,
                    scaledown_window=0.0,
                    predictive=False,
                )
                runner.rescale()

    def report(self, task_id: str, input_id: str, *, failed: bool) -> bool:
        runner = self._of_task(task_id)
        if runner is None:
            return False
        item, task = runner.pool.inputs.get(input_id), runner.tasks.get(task_id)
        if item is not None and task is not None:
            task.ended.append((time.monotonic(), item))
            del task.ended[:-_LAST_INPUTS]
        return runner.report(task_id, input_id, failed=failed)

    def pin(self, function_id: str, input_id: str) -> None:
        """An input must not be run again: something of its attempt was seen outside."""
        for runner in self._with_twins(function_id):
            runner.pool.pin(input_id)

    def cancel(self, function_id: str, input_ids: Sequence[str], *, terminate_containers: bool) -> None:
        for runner in self._with_twins(function_id):
            runner.cancel(input_ids, terminate_containers=terminate_containers)

    def cancel_app(self, app_id: str) -> None:
        for runner in self._of_app(app_id):
            runner.cancel(list(runner.pool.inputs), terminate_containers=False)

    def busy(self, app_id: str) -> bool:
        """Whether an app has unfinished inputs."""
        return any(runner.pool.inputs for runner in self._of_app(app_id))

    # Containers

    async def next_inputs(self, task_id: str, capacity: int) -> Delivery:
        runner = self._of_task(task_id)
        return await runner.next_inputs(task_id, capacity) if runner else Delivery(exit=True)

    @contextmanager
    def blocked(self, task_id: str, waiter: str, call: AwaitedCall) -> Iterator[None]:
        """While it lasts, something in a container waits for the result of a call. waiter: see `Pool.block`. Nothing when `task_id` is of no container."""
        runner = self._of_task(task_id)
        if runner is None:
            yield
            return
        asked = self._with_twins(call.function_id)
        for other in asked:
            other.awaited_by[task_id] += 1
            if call.function_id in call.callers and runner.called_as in call.callers:
                other.pool.hurry(call.open_inputs)
        runner.block(task_id, waiter)
        try:
            yield
        finally:
            runner.pool.unblock(task_id, waiter)
            for other in asked:
                other.awaited_by[task_id] -= 1
                if not other.awaited_by[task_id]:
                    del other.awaited_by[task_id]

    async def heartbeat(self, task_id: str, hold: float) -> list[str]:
        runner = self._of_task(task_id)
        return await runner.heartbeat(task_id, hold) if runner else []

    def init_failed(self, task_id: str, result: bytes, status: int) -> None:
        runner = self._of_task(task_id)
        if runner is not None:
            runner.init_failed(task_id, result, status)

    def stop_task(self, task_id: str, *, graceful: bool) -> None:
        """Raises NotFound."""
        runner = self._of_task(task_id)
        if runner is None:
            raise NotFound(f"There is no running container {task_id!r}.")
        if graceful:
            runner.drain(task_id)
        else:
            runner.preempt(task_id, "It was stopped by the user.")
        runner.rescale()

    def function_of(self, task_id: str) -> str:
        """The id of the function whose inputs a container runs, "" when it is gone."""
        runner = self._of_task(task_id)
        return runner.called_as if runner is not None else ""

    def task(self, task_id: str) -> Task | None:
        runner = self._of_task(task_id)
        return runner.tasks.get(task_id) if runner else None

    def running(self, task_id: str) -> Set[str]:
        """The ids of the inputs that a container runs."""
        runner = self._of_task(task_id)
        container = runner.pool.containers.get(task_id) if runner else None
        return container.running.keys() if container else frozenset()

    def printing(self, task_id: str) -> list[PooledInput]:
        """The inputs that what just came out of a container may be of: those that it runs, or has just done."""
        runner = self._of_task(task_id)
        task = runner.tasks.get(task_id) if runner else None
        container = runner.pool.containers.get(task_id) if runner else None
        if runner is None or task is None or container is None:
            return []
        now, inputs, settings = time.monotonic(), runner.pool.inputs, runner.pool.settings
        begun = {i: since for i, since in container.running.items() if i in inputs}  # one that was cancelled is in none
        found = {i: inputs[i] for i, since in begun.items() if now - since > _FIRST_WORDS}
        if not found or max(settings.max_concurrent_inputs, settings.batch_max_size) > 1:
            found |= {item.id: item for at, item in task.ended if now - at < _LAST_WORDS}
        return list((found or {i: inputs[i] for i in begun}).values())

    def tasks(self, app_id: str = "") -> list[Task]:
        return [
            t for r in self._runners.values() if not app_id or r.function.app_id == app_id for t in r.tasks.values()
        ]

    def runner(self, function_id: str) -> Runner | None:
        return self._runners.get(function_id)

    def runners(self) -> Iterable[Runner]:
        return list(self._runners.values())

    # Events from elsewhere

    def redefine(self, app: App, function_ids: list[str]) -> None:
        """Functions of an app have new definitions; functions with a floor of containers get them now."""
        for function_id in function_ids:
            runner = self._runners.get(function_id)
            if runner is not None:
                runner.redefine()
        for function_id in app.function_ids.values():
            function = self._functions.get(function_id)
            if function.active.spec.scaling.min_containers and not function.active.spec.unsupported:
                self._runner(function_id).rescale()

    def rescale(self, function_id: str) -> None:
        """Raises NotFound or FailedPrecondition: nobody would end the containers of an app that is over."""
        self.check(function_id)
        self._runner(function_id).rescale()

    def resources_released(self) -> None:
        """Something is free again: functions that could not be placed try anew."""
        for runner in self._runners.values():
            runner.try_again()

    async def stop_app(self, app_id: str, *, drain: bool) -> None:
        """Ends the containers of an app; returns when they are gone."""
        runners = self._of_app(app_id)
        await asyncio.gather(*(r.stop(drain=drain) for r in runners))
        for runner in runners:
            self._runners.pop(runner.function.id, None)
            self._twins.pop(runner.function.id, None)

    async def close(self, drain_seconds: float) -> None:
        """Lets running inputs finish for a while, then ends all containers. Unfinished inputs stay in the database; those that do not outlive
        the server end."""
        deadline = time.monotonic() + drain_seconds
        tell, self.on_finish = self.on_finish, lambda finishes, result: tell(self._mortal(finishes), result)
        self._end_mortal({i for r in self._runners.values() for c in r.pool.containers.values() for i in c.running})
        stops = [asyncio.ensure_future(r.stop(drain=True)) for r in self._runners.values()]
        if stops:
            _, late = await asyncio.wait(stops, timeout=max(0.0, deadline - time.monotonic()))
            for runner in self._runners.values():
                for task_id in list(runner.tasks):
                    runner.kill(task_id, _STOPS)
            if late:
                await asyncio.wait(late)
        self._end_mortal(set())

    def _end_mortal(self, running: set[str]) -> None:
        """Answers those who wait for inputs that no container will run any more, without those that run."""
        for runner in self._runners.values():
            left = [i for i in runner.pool.inputs.values() if i.id not in running and not self.outlives(i.call_id)]
            runner.cancel([i.id for i in left], terminate_containers=False)

    def _mortal(self, finishes: Iterable[Finish]) -> list[Finish]:
        mortal = [f for f in finishes if not self.outlives(f.call_id)]
        return [replace(f, detail=_STOPS) if f.outcome is Outcome.CANCELLED else f for f in mortal]

    def _with_twins(self, function_id: str) -> list[Runner]:
        ids = (function_id, *self._twins.get(function_id, ()))
        return [runner for i in ids if (runner := self._runners.get(i)) is not None]

    def _of_app(self, app_id: str) -> list[Runner]:
        return [r for r in self._runners.values() if r.function.app_id == app_id]

    def _runner(self, function_id: str) -> Runner:
        runner = self._runners.get(function_id)
        if runner is None:
            function = self._functions.get(function_id)
            runner = Runner(
                function,
                self._make_pool(function),
                self._launcher,
                self._finish,
                self._by_task,
                lambda: self._apps.get(function.app_id).state == DEPLOYED,
                self._make_room,
            )
            self._runners[function_id] = runner
        return runner

    def _make_room(self, needy: Runner, why: NotNow) -> None:
        """A function cannot be placed: idle containers of others end for it, and after a while busy ones of functions that hold more, when they
        have done what they run."""
        if not why.missing:
            return
        take_busy = bool(self._fair_after) and why.waited >= self._fair_after
        holdings = [h for r in self._runners.values() if r is not needy for h in self._holdings(r)]
        for task_id in make_room(why.missing, holdings, self._engine.share(needy.function.id), take_busy=take_busy):
            runner = self._by_task[task_id]
            runner.give_way(task_id, needy.function.name)

    def _holdings(self, runner: Runner) -> list[Holding]:
        """The containers of a function beyond its minimum, as far as they could end."""
        now = time.monotonic()
        live = [c for c in runner.pool.containers.values() if c.state is not ContainerState.DRAINING]
        spare = max(0, len(live) - runner.function.scaling.min_containers)
        share = self._engine.share(runner.function.id)
        holdings = [
            Holding(
                c.id,
                self._engine.held(c.id),
                bool(c.running) or now - c.idle_since < _LEAST_IDLE,
                c.idle_since,
                share,
            )
            for c in live
            if c.ready_at
        ]
        return sorted(holdings, key=lambda h: (h.busy, h.idle_since))[:spare]

    def _finish(self, finishes: Iterable[Finish], result: tuple[bytes, int] | None) -> None:
        self.on_finish(finishes, result)

    def _of_task(self, task_id: str) -> Runner | None:
        return self._by_task.get(task_id)

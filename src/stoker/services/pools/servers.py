"""Requests to @app.server containers: each holds a slot of a container while it runs, so that the pool scales on them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from stoker.aio.jobs import Jobs
from stoker.aio.waiting import settled
from stoker.core.actions import Finish, Outcome
from stoker.core.books import ContainerState, PooledInput
from stoker.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from stoker.nodes.base import Ports
from stoker.services.containers.task import Task
from stoker.services.functions.spec import Function, ServerSpec
from stoker.services.pools.runner import Runner
from stoker.services.pools.scheduler import Scheduler

_EXIT_HOOKS = 30.0  # seconds
_STARTS_WAITED_FOR = 2  # a request waits as long as so many containers may need to start, and this many seconds:
_MARGIN = 5.0
_TOKEN_SECONDS = 86_400
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Slot:
    """A place for one request: where to send it."""

    task_id: str
    ports: Ports
    port: int
    input_id: str


class Servers:
    """The requests to servers that wait for a container or have one. Made by the composition root; asked by the gateway for each request."""

    def __init__(self, scheduler: Scheduler, *, key: bytes, max_pending: int) -> None:
        """key: signs the tokens of callers. max_pending: requests of one server that may wait for a container."""
        self._scheduler = scheduler
        self._key = hashlib.sha256(b"server tokens" + key).digest()
        self._max_pending = max_pending
        self._numbers = itertools.count()  # of requests, which are inputs of the pool and of nobody else
        self._waiting: dict[str, asyncio.Future[Task]] = {}
        self._on_lost: dict[str, Callable[[], None]] = {}  # by request
        self._active: Counter[str] = Counter()  # requests by container
        # Of the containers that serve: one may have been started with another port than is current.
        self._ports: dict[str, int] = {}
        self._quiet: dict[str, asyncio.Future[None]] = {}  # resolved when a container's last request is over
        self._attendants = Jobs("servers")
        pass_on = scheduler.on_finish

        def finished(finishes: Iterable[Finish], result: tuple[bytes, int] | None) -> None:
            finishes = list(finishes)
            self._finished(finishes)
            pass_on(finishes, result)

        scheduler.on_finish = finished

    def take(self, function_id: str, server: ServerSpec, affinity: bytes = b"") -> Slot | None:
        """A slot of a container that has room now; None when there is none and `wait` has to be asked. To be given back.

        affinity: requests with the same one get slots of the same container, as far as possible.
        Raises ResourceExhausted when all containers are full and there cannot be more, FailedPrecondition when none can start."""
        slot = self.take_free(function_id, server, affinity)
        if slot is None:
            self._check_room(self._scheduler.check(function_id), server)
        return slot

    def take_free(self, function_id: str, server: ServerSpec, affinity: bytes = b"") -> Slot | None:
        """The same without the refusal when all are full."""
        self._scheduler.check(function_id)
        runner = self._scheduler.runner(function_id)
        if runner is None:
            return None
        input_id = f"sr-{next(self._numbers)}"
        task = runner.take(PooledInput(input_id, "", pinned=True), affinity)
        return self._occupy(task, input_id, server) if task is not None else None

    async def wait(self, function_id: str, server: ServerSpec, longest: float | None = None) -> Slot:
        """A slot, as soon as a container has room. To be given back.

        longest: seconds for which it waits even while all are full; without it that is refused, and a start of containers is waited for.
        Raises as `take` does, and Unavailable when none had room in time."""
        function = self._scheduler.check(function_id)
        if longest is None:
            self._check_room(function, server)
            longest = _STARTS_WAITED_FOR * function.active.spec.startup_timeout + _MARGIN
        input_id = f"sr-{next(self._numbers)}"
        granted: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        self._waiting[input_id] = granted
        slot = None
        try:
            self._scheduler.add(function_id, [PooledInput(input_id, "", pinned=True)])
            if not await settled(granted, longest):
                raise Unavailable(f"No container of {server.name} took the request within {longest:.0f} s.")
            slot = self._occupy(granted.result(), input_id, server)
            return slot
        finally:
            self._waiting.pop(input_id, None)
            if slot is None:
                self._withdraw(function_id, input_id, granted)

    def give_back(self, slot: Slot) -> None:
        """The request of a slot is over."""
        task_id = slot.task_id
        self._on_lost.pop(slot.input_id, None)
        self._active[task_id] -= 1
        if self._active[task_id] <= 0:
            del self._active[task_id]
            quiet = self._quiet.get(task_id)
            if quiet is not None and not quiet.done():
                quiet.set_result(None)
        self._scheduler.report(task_id, slot.input_id, failed=False)

    def not_listening(self, slot: Slot) -> None:
        """Event: nobody listens at the port of a slot. Its container is replaced: with nothing to do it would be chosen for every request."""
        with contextlib.suppress(NotFound):
            self._scheduler.stop_task(slot.task_id, graceful=True)
            _log.info("container drained, for its server does not listen any more", task=slot.task_id, port=slot.port)

    def when_lost(self, slot: Slot, call: Callable[[], None]) -> None:
        """Has something called when the container of a slot ends before the slot is given back; at once when it has."""
        task = self._scheduler.task(slot.task_id)
        runner = self._scheduler.runner(task.function_id) if task is not None else None
        if runner is None or slot.input_id not in runner.pool.inputs:
            call()  # between the moment in which the slot was granted and this one
        else:
            self._on_lost[slot.input_id] = call

    def ready(self, task_id: str) -> None:
        """Event: the enter hooks of a server's container are done."""
        task, runner = self._scheduler.task(task_id), None
        if task is not None:
            runner = self._scheduler.runner(task.function_id)
        if task is None or runner is None:
            return
        self._attendants.start(f"attend {task.id}", self._attend(runner, task))

    def places(self, function_id: str) -> list[tuple[str, str]]:
        """(container id, address) of the containers that serve now."""
        runner = self._scheduler.runner(function_id)
        if runner is None:
            return []
        ready = [c.id for c in runner.pool.containers.values() if c.state is ContainerState.READY]
        tasks = [runner.tasks[i] for i in ready if i in runner.tasks]
        return [(t.id, t.address) for t in tasks if t.is_launched]

    def token(self, function_id: str) -> str:
        """Lets its bearer call one server for a day. A JWT, for the client reads in it when to ask for the next."""
        claims = {"sub": function_id, "exp": int(time.time()) + _TOKEN_SECONDS}
        signed = f"{_JWT_HEAD}.{_base64(json.dumps(claims).encode())}"
        return f"{signed}.{self._signature(signed)}"

    def is_token(self, function_id: str, token: str) -> bool:
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._signature(signed).encode()):
            return False
        claims = json.loads(base64.urlsafe_b64decode(signed.partition(".")[2] + "=="))
        return bool(claims["sub"] == function_id and claims["exp"] > time.time())

    # How it is done

    def _check_room(self, function: Function, server: ServerSpec) -> None:
        runner = self._scheduler.runner(function.id)
        if runner is None:
            return
        live = [c for c in runner.pool.containers.values() if c.state is not ContainerState.DRAINING]
        most = function.scaling.max_containers
        may_grow = not live or (not runner.starved and (most is None or len(live) < most))
        under_way = len(runner.pool.inputs)
        full = bool(server.max_concurrency) and under_way >= len(live) * server.max_concurrency
        if (full and not may_grow) or runner.pool.backlog >= self._max_pending:
            raise ResourceExhausted(
                f"{under_way} requests to {server.name} are under way, as many as its containers may take. Try again soon."
            )

    async def _attend(self, runner: Runner, task: Task) -> None:
        try:
            await self._attend_to_its_end(runner, task)
        except BaseException:  # nobody would give it requests any more
            runner.kill(task.id, "The server lost track of it.")
            raise

    async def _attend_to_its_end(self, runner: Runner, task: Task) -> None:
        """Hands requests to one container from the moment its port listens until its end."""
        server = runner.function.active.spec.server
        if server is None or task.node is None:
            return
        if not task.address:
            runner.kill(task.id, "It has no network, so its server cannot be reached.")
            return
        if not await task.node.ports.listening(task.id, server.port):
            return
        self._ports[task.id] = server.port
        try:
            await self._serve(runner, task)
        finally:
            del self._ports[task.id]
        await self._dismiss(runner, task, server)

    async def _serve(self, runner: Runner, task: Task) -> None:
        """Hands requests to a container until it shall exit."""
        while True:
            delivery = await runner.next_inputs(task.id, 1)
            for input_id, _ in delivery.inputs:
                self._grant(input_id, task)
            if delivery.exit:
                return

    async def _dismiss(self, runner: Runner, task: Task, server: ServerSpec) -> None:
        """Lets requests end for the grace period, then lets the exit hooks run."""
        if task.job is None or task.job.done():
            return
        if self._active[task.id] and server.exit_grace:
            quiet = self._quiet[task.id] = asyncio.get_running_loop().create_future()
            await settled(quiet, server.exit_grace)
            self._quiet.pop(task.id, None)
        await task.signal(signal.SIGTERM)
        if not await settled(task.job, _EXIT_HOOKS):
            runner.kill(task.id, "Its exit hooks did not end in time.")

    def _grant(self, input_id: str, task: Task) -> None:
        waiting = self._waiting.get(input_id)
        if waiting is None or waiting.done():
            self._scheduler.report(task.id, input_id, failed=False)
        else:
            waiting.set_result(task)

    def _occupy(self, task: Task, input_id: str, server: ServerSpec) -> Slot:
        assert task.node is not None
        self._active[task.id] += 1
        return Slot(task.id, task.node.ports, self._ports.get(task.id, server.port), input_id)

    def _withdraw(self, function_id: str, input_id: str, granted: asyncio.Future[Task]) -> None:
        """Whoever waited for a slot does not any more."""
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self._scheduler.report(granted.result().id, input_id, failed=False)
        else:
            self._scheduler.cancel(function_id, [input_id], terminate_containers=False)

    def _finished(self, finishes: list[Finish]) -> None:
        """Requests that end before a container took them."""
        for finish in finishes:
            lost = self._on_lost.pop(finish.input_id, None)
            if lost is not None:
                lost()
            waiting = self._waiting.get(finish.input_id)
            if waiting is None or waiting.done():
                continue
            if finish.outcome is Outcome.INIT_FAILED:
                # Why is for the owner of the app, not for whoever calls its server.
                waiting.set_exception(FailedPrecondition("The server could not start; `modal app logs` shows why."))
            else:
                waiting.set_exception(Unavailable(finish.detail))

    def _signature(self, signed: str) -> str:
        return _base64(hmac.new(self._key, signed.encode("utf-8", "replace"), hashlib.sha256).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


_JWT_HEAD = _base64(b'{"alg":"HS256","typ":"JWT"}')

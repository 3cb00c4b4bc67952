"""Sandboxes made ahead of time: each function that lately started from a snapshot keeps some, so that its next start has only the snapshot to read.

A spare has the id of the task that will use it, for its directory and its socket are named after that."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import StokerError, Unavailable
from stoker.ids import new_id
from stoker.nodes.base import Node
from stoker.nodes.messages import ContainerRequest
from stoker.services.containers.snapshots import Snapshots, SnapshotUse

_SETTLE = 0.5  # seconds after a container is up; making a spare would slow down what it was started for
_PATIENCE = 20  # looks at busy processors, one each _SETTLE
_MOST_EACH = 4  # for one function
_LAST_DISCARDS = 60.0  # seconds that discarding may take when the server stops
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Start:
    """How a container starts, and from what."""

    request: ContainerRequest
    use: SnapshotUse


class Spares:
    """The sandboxes that wait, by function. Made by the composition root; the launcher takes the ids of new containers from it."""

    def __init__(self, *, snapshots: Snapshots, node: Node, most: int, is_idle: Callable[[], bool]) -> None:
        """most: how many there may be; 0 for none. is_idle: whether the processors have time for it."""
        self._snapshots = snapshots
        self._node = node
        self._most = most
        self._is_idle = is_idle
        self._starts: dict[str, _Start] = {}  # by task: those that have not ended
        self._ready: dict[str, list[_Start]] = {}  # by function, the least recently used first
        self._taken: dict[str, _Start] = {}  # by task: given to a start
        self._wanted: Counter[str] = Counter()  # by function: how many are being made
        self._distrusted: set[str] = set()  # snapshots
        self._jobs = Jobs("spares")
        self._one_at_a_time = asyncio.Lock()
        snapshots.on_release = self._lose

    @property
    def count(self) -> int:
        return sum(map(len, self._ready.values()))

    async def close(self) -> None:
        self._most = 0
        for function_id in list(self._ready):
            self.drop(function_id)
        await self._jobs.close(patience=_LAST_DISCARDS)

    def task_id(self, function_id: str) -> str:
        """The id for the next container of a function: that of a spare, if there is one."""
        spare = self._pop(function_id)
        if spare is None:
            return new_id("ta")
        self._taken[spare.request.task_id] = spare
        return spare.request.task_id

    def was_offered(self, task_id: str) -> bool:
        """Whether a start was offered a spare."""
        return task_id in self._taken

    def distrust(self, snapshot_id: str) -> None:
        """A container that was offered one did not come to life: whether that was the reason, the next start without shows."""
        self._distrusted.add(snapshot_id)

    def starting(self, request: ContainerRequest, use: SnapshotUse) -> None:
        """A container is started from a snapshot or to become one."""
        if self._most and not request.buckets and not request.gpu_devices:
            self._starts[request.task_id] = _Start(request, use)

    def up(self, task_id: str) -> None:
        """The container asks for its first input: the next starts of its function will be alike, and perhaps as many at once as now."""
        start = self._starts.get(task_id)
        if start is None:
            return
        function_id = start.request.function_id
        spares = self._ready.pop(function_id, [])
        if spares:
            self._ready[function_id] = spares
        alive = sum(other.request.function_id == function_id for other in self._starts.values())
        trusted = start.use.snapshot_id not in self._distrusted
        if trusted and len(spares) + self._wanted[function_id] < min(alive, _MOST_EACH):
            self._wanted[function_id] += 1
            self._jobs.start(f"make one for {function_id}", self._make(start))

    async def gone(self, task_id: str) -> None:
        """The container has ended, or was not started."""
        self._starts.pop(task_id, None)
        spare = self._taken.pop(task_id, None)
        if spare is not None:
            await self._discard(spare)

    def drop(self, function_id: str) -> None:
        """The function needs none any more."""
        del self._wanted[function_id]
        for spare in self._ready.pop(function_id, []):
            self._jobs.insist(f"discard {spare.request.task_id}", partial(self._discard, spare))

    def _pop(self, function_id: str) -> _Start | None:
        spares = self._ready.get(function_id, [])
        spare = spares.pop() if spares else None
        if not spares:
            self._ready.pop(function_id, None)
        return spare

    async def _make(self, start: _Start) -> None:
        function_id = start.request.function_id
        try:
            await self._wait_for_idle()
            async with self._one_at_a_time:
                if self._wanted[function_id] and self._most:
                    await self._add(start)
        except Unavailable:
            pass  # the server stops
        except (StokerError, OSError) as error:
            _log.warning("a sandbox could not be prepared", function=function_id, error=str(error))
        finally:
            self._wanted[function_id] -= 1
            if self._wanted[function_id] <= 0:
                del self._wanted[function_id]

    async def _wait_for_idle(self) -> None:
        for _ in range(_PATIENCE):
            await asyncio.sleep(_SETTLE)
            if self._is_idle() or not self._most:
                return

    async def _add(self, start: _Start) -> None:
        request, use = replace(start.request, task_id=new_id("ta")), start.use
        if not use.base:
            request = replace(request, restore_from=use.snapshot_id)  # the one that was saved comes from nothing itself
        spare = _Start(request, use)
        if not self._snapshots.retain(use, request.task_id):
            return
        try:
            made = await self._node.containers.prepare(request)
        except BaseException:
            await self._discard(spare)
            raise
        # Meanwhile the function may have ended, or its snapshot been removed.
        if made and self._wanted[request.function_id] and self._snapshots.is_current(use):
            self._ready[request.function_id] = [*self._ready.pop(request.function_id, []), spare]
            await self._keep_most()
        else:
            await self._discard(spare)

    async def _keep_most(self) -> None:
        while self.count > self._most:
            spare = self._pop(next(iter(self._ready)))
            if spare is not None:
                await self._discard(spare)

    async def _discard(self, spare: _Start) -> None:
        await self._node.containers.discard(spare.request.task_id)
        self._snapshots.release(spare.use, spare.request.task_id)

    def _lose(self, snapshot_id: str) -> None:
        """The snapshot is removed as soon as nobody runs on its files."""
        self._distrusted.discard(snapshot_id)
        for function_id, spares in list(self._ready.items()):
            if any(spare.use.snapshot_id == snapshot_id for spare in spares):
                self.drop(function_id)

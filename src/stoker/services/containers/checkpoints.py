"""Containers that become or come from a memory snapshot: saves the ones, and ends those of the others that never come to life."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import CannotBeSaved, InvalidArgument, StokerError
from stoker.nodes.base import Container
from stoker.services.containers.snapshots import Snapshots, SnapshotUse
from stoker.services.containers.task import Task

_DISCONNECT = 10.0  # seconds a container may take to close its connections
_CONNECTED = (
    "A connection to the server stayed open, though the function itself had closed its own. A process that it started calls the server too, or has "
    "inherited the connection. Start that process in @modal.enter(), after the snapshot."
)
_SILENCE = (
    30.0,
    20 << 20,
)  # seconds in which a restored container must say something, and bytes for which it gets one more
_log = structlog.get_logger(__name__)


class Connections(Protocol):
    """Containers' connections to the server; implemented by `rpc/transport.py`."""

    async def quiet(self, task_id: str, timeout: float) -> bool:
        """Waits until the container has no connection, at most `timeout` seconds; whether it has none."""
        ...

    def has_called(self, task_id: str) -> bool:
        """Whether the container ever connected."""
        ...


class Checkpoints:
    """`connections` is set by the composition root."""

    def __init__(self, snapshots: Snapshots) -> None:
        self.connections: Connections | None = None
        self._snapshots = snapshots
        self._work = Jobs("checkpoints")
        self._jobs: dict[str, asyncio.Task[None]] = {}  # by container: those being saved
        self._watchers: dict[str, asyncio.Task[None]] = {}

    def request(self, task: Task, checkpoint_id: str) -> None:
        """The container `task` is ready and waits; it goes on when it was saved, or when that failed. Raises InvalidArgument."""
        use = task.snapshot
        if use is None or use.restores or use.snapshot_id != checkpoint_id:
            raise InvalidArgument(f"The container {task.id} was not started to become the snapshot {checkpoint_id!r}.")
        if task.id not in self._jobs:
            self._jobs[task.id] = job = self._work.start(f"save {task.id}", self._save(task, use))
            job.add_done_callback(lambda _: self._jobs.pop(task.id, None))

    def watch(self, task: Task, use: SnapshotUse, container: Container) -> None:
        """A container was restored. The client connects at once; one that is silent for long hangs and is ended, so that another starts."""
        assert self.connections is not None
        connections, (least, bytes_a_second) = self.connections, _SILENCE
        limit = least + self._snapshots.size(use) / bytes_a_second

        async def look() -> None:
            await asyncio.sleep(limit)
            if not connections.has_called(task.id):
                task.stop_reason = task.stop_reason or f"It was restored and then said nothing for {limit:.0f} s."
                await self._work.insist(f"kill {task.id}", container.kill)

        watcher = self._work.start(f"watch {task.id}", look())
        self._watchers[task.id] = watcher
        watcher.add_done_callback(lambda _: self._watchers.pop(task.id, None))

    def has_called(self, task: Task) -> bool:
        """Whether the container ever connected to the server."""
        return self.connections is not None and self.connections.has_called(task.id)

    async def settle(self, task: Task) -> None:
        """Ends what is done about `task`, whose container has ended: waits until saving it is over."""
        watcher = self._watchers.pop(task.id, None)
        if watcher is not None:
            watcher.cancel()
        job = self._jobs.get(task.id)
        if job is not None:
            await asyncio.wait([job])

    async def _save(self, task: Task, use: SnapshotUse) -> None:
        container = task.container
        assert container is not None and self.connections is not None
        # The answer to ContainerCheckpoint is still on its way; the client closes its connections when it has it.
        try:
            if not await self.connections.quiet(task.id, _DISCONNECT):
                container.let_go()
                self._failed(task, use, _CONNECTED)
                return
            size = await container.save(self._snapshots.scratch(use))
            await self._snapshots.created(use, size)
        except StokerError as error:
            self._failed(task, use, str(error), lasting=isinstance(error, CannotBeSaved))
        except Exception as error:
            _log.exception("snapshot failed", task=task.id)
            self._failed(task, use, f"{type(error).__name__}: {error}")
            if not container.went_on:  # the disk is full, say, and it would wait for the file until its time is over
                self._work.insist(f"kill {task.id}", container.kill)

    def _failed(self, task: Task, use: SnapshotUse, reason: str, *, lasting: bool = False) -> None:
        if task.told_to_stop:
            self._snapshots.abandoned(use)  # it was ended meanwhile, which says nothing about the next one
        else:
            self._snapshots.not_created(use, reason, lasting=lasting)

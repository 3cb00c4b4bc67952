"""Containers that become or come from a memory snapshot: saves the ones, and ends those of the others that never come to life."""

from __future__ import annotations

import asyncio

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import CannotBeSaved, InvalidArgument, StokerError
from stoker.services.containers.snapshots import Snapshots, SnapshotUse
from stoker.services.containers.task import Task

_SILENCE = (
    30.0,
    20 << 20,
)  # seconds in which a restored container must say something, and bytes for which it gets one more
_log = structlog.get_logger(__name__)


class Checkpoints:
    """Made by the composition root; asked by the launcher, and by the RPC by which a container says that it can be saved."""

    def __init__(self, snapshots: Snapshots) -> None:
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

    def watch(self, task: Task, use: SnapshotUse) -> None:
        """A container was restored. The client connects at once; one that is silent for long hangs and is ended, so that another starts."""
        least, bytes_a_second = _SILENCE
        limit = least + self._snapshots.size(use) / bytes_a_second

        async def look() -> None:
            await asyncio.sleep(limit)
            if not task.called:
                task.stop_reason = task.stop_reason or f"It was restored and then said nothing for {limit:.0f} s."
                await self._work.insist(f"kill {task.id}", task.kill)

        watcher = self._work.start(f"watch {task.id}", look())
        self._watchers[task.id] = watcher
        watcher.add_done_callback(lambda _: self._watchers.pop(task.id, None))

    async def settle(self, task: Task) -> None:
        """Ends what is done about `task`, whose container has ended: waits until saving it is over."""
        watcher = self._watchers.pop(task.id, None)
        if watcher is not None:
            watcher.cancel()
        job = self._jobs.get(task.id)
        if job is not None:
            await asyncio.wait([job])

    async def _save(self, task: Task, use: SnapshotUse) -> None:
        assert task.node is not None
        try:
            size = await task.node.containers.save(task.id, use.snapshot_id)
            await self._snapshots.created(use, size)
        except StokerError as error:
            self._failed(task, use, str(error), lasting=isinstance(error, CannotBeSaved))
        except Exception as error:
            _log.exception("snapshot failed", task=task.id)
            self._failed(task, use, f"{type(error).__name__}: {error}")

    def _failed(self, task: Task, use: SnapshotUse, reason: str, *, lasting: bool = False) -> None:
        if task.stopping:
            self._snapshots.abandoned(use)  # it was ended meanwhile, which says nothing about the next one
        else:
            self._snapshots.not_created(use, reason, lasting=lasting)

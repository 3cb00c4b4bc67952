"""What happens when a container says that it may be saved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from stoker.errors import InvalidArgument, StokerError
from stoker.node.agent import NodeContainer
from stoker.services.runner import Task
from stoker.services.snapshots import Snapshots, SnapshotUse

_DISCONNECT = 10.0  # seconds a container may take to close its connections
Quiet = Callable[[str, float], Awaitable[bool]]
"""Waits until the container of this task has no connection to the server, at most so many seconds; whether it has none."""

_log = structlog.get_logger(__name__)


class Checkpoints:
    """Saves containers as the snapshots they were started for."""

    def __init__(self, snapshots: Snapshots) -> None:
        self.quiet: Quiet | None = None
        self._snapshots = snapshots
        self._jobs: dict[str, asyncio.Task[None]] = {}

    def request(self, task: Task, checkpoint_id: str) -> None:
        """The container `task` is ready and waits; it goes on when it was saved, or when that failed. Raises InvalidArgument."""
        use = task.snapshot
        if use is None or use.restores or use.snapshot_id != checkpoint_id:
            raise InvalidArgument(f"The container {task.id} was not started to become the snapshot {checkpoint_id!r}.")
        if task.id not in self._jobs:
            job = asyncio.get_running_loop().create_task(self._save(task, use))
            self._jobs[task.id] = job
            job.add_done_callback(lambda _: self._jobs.pop(task.id, None))

    async def settle(self, task: Task) -> None:
        """Waits until the saving of `task`, whose container has ended, is over."""
        job = self._jobs.get(task.id)
        if job is not None:
            await asyncio.wait([job])

    async def _save(self, task: Task, use: SnapshotUse) -> None:
        container = task.container
        assert isinstance(container, NodeContainer) and self.quiet is not None
        # The answer to ContainerCheckpoint is still on its way; the client closes its connections when it has it.
        if not await self.quiet(task.id, _DISCONNECT):
            self._snapshots.not_created(use, "It kept a connection to the server open, so it could not be saved.")
            container.let_go()
            return
        directory = self._snapshots.scratch(use)
        try:
            size = await container.save(directory)
        except StokerError as error:
            self._snapshots.not_created(use, str(error))
        except Exception as error:
            _log.exception("snapshot failed", task=task.id)
            self._snapshots.not_created(use, f"{type(error).__name__}: {error}")
        else:
            await self._snapshots.created(use, size)

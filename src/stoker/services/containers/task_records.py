"""The history of containers, written beside their lives and never before: a container neither starts nor ends later for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import sqlalchemy as sa

from stoker.aio.jobs import Jobs
from stoker.services.containers.task import Task
from stoker.store import tables
from stoker.store.database import Database

_PATIENCE = 10.0  # seconds for which the end of the server waits for what is being stored


class TaskRecords:
    """What is to be remembered of containers. The newest that is known of one is stored in the end, whatever fails in between."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwritten: dict[str, dict[str, object]] = {}  # by container
        self._jobs = Jobs("task records")
        self._writing: asyncio.Task[None] | None = None

    def keep(self, task: Task, finished_at: float | None = None) -> None:
        """As the container is now. Seconds since the epoch."""
        self._unwritten[task.id] = {
            "id": task.id,
            "app_id": task.app_id,
            "function_id": task.function_id,
            "enqueued_at": task.enqueued_at,
            "started_at": task.started_at,
            "finished_at": finished_at,
            "exit": task.ending.value if task.ending else "",
            "detail": task.detail,
        }
        if self._writing is None or self._writing.done():
            self._writing = self._jobs.insist("remember containers", self._write)

    async def close(self) -> None:
        await self._jobs.close(patience=_PATIENCE)

    async def _write(self) -> None:
        while self._unwritten:
            rows = dict(self._unwritten)
            await self._database.write(partial(_replace, rows=list(rows.values())))
            for task_id, row in rows.items():
                if self._unwritten[task_id] is row:
                    del self._unwritten[task_id]


def _replace(connection: sa.Connection, rows: Sequence[dict[str, object]]) -> None:
    connection.execute(sa.delete(tables.tasks).where(tables.tasks.c.id.in_([row["id"] for row in rows])))
    connection.execute(sa.insert(tables.tasks), rows)

"""What functions had to do: the inputs of a time, for replaying them (`stoker simulate --from-server`)."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from stoker.errors import NotFound
from stoker.services.apps.apps import Apps
from stoker.services.functions.functions import Functions
from stoker.store import tables
from stoker.store.database import Database

MOST = 100_000
"""Inputs that are replayed at most: their records are held in memory, here and where they are replayed."""


@dataclass(frozen=True)
class TrafficRecord:
    """One finished input. `arrived_at` in seconds since the epoch; `start_seconds`: what a start of its function takes, 0 when unknown."""

    function: str  # app and function, and the beginning of the id where parameters are bound
    arrived_at: float
    run_seconds: float
    start_seconds: float
    concurrency: int


class Traffic:
    """Reads the inputs of a time from the database. Asked by the route behind `stoker simulate --from-server`."""

    def __init__(self, *, database: Database, functions: Functions, apps: Apps) -> None:
        self._database = database
        self._functions = functions
        self._apps = apps

    async def records(self, since: float, until: float, *, most: int = MOST) -> list[dict[str, Any]]:
        """The inputs that arrived in [since, until) and have ended, oldest first; of more than `most` the newest."""
        rows, starts = await asyncio.to_thread(self._read, since, until, most)
        named: dict[str, tuple[str, int] | None] = {}
        records = []
        for row in rows:
            if row.function_id not in named:
                named[row.function_id] = self._describe(row.function_id)
            described = named[row.function_id]
            if described is not None:
                name, concurrency = described
                start = starts.get(row.function_id, 0.0)
                run = max(0.0, row.finished_at - row.started_at)
                records.append(asdict(TrafficRecord(name, row.arrived_at, run, start, concurrency)))
        return records

    def _read(self, since: float, until: float, most: int) -> tuple[list[Any], dict[str, float]]:
        inputs, outputs, calls, tasks = tables.inputs, tables.outputs, tables.calls, tables.tasks
        query = (
            sa.select(
                calls.c.function_id,
                inputs.c.created_at.label("arrived_at"),
                outputs.c.started_at,
                outputs.c.created_at.label("finished_at"),
            )
            .select_from(
                inputs.join(calls, calls.c.id == inputs.c.call_id).join(outputs, outputs.c.input_id == inputs.c.id)
            )
            .where(inputs.c.created_at >= since, inputs.c.created_at < until, outputs.c.started_at > 0)
            .order_by(inputs.c.created_at.desc())
            .limit(most)
        )
        start_times = (
            sa.select(tasks.c.function_id, sa.func.avg(tasks.c.started_at - tasks.c.enqueued_at))
            .where(tasks.c.started_at.is_not(None), tasks.c.enqueued_at >= since - 86_400)
            .group_by(tasks.c.function_id)
        )
        with self._database.read() as connection:
            rows = list(connection.execute(query))[::-1]
            return rows, {row[0]: float(row[1]) for row in connection.execute(start_times)}

    def _describe(self, function_id: str) -> tuple[str, int] | None:
        """(name, inputs a container takes at a time); None for a function that is gone."""
        try:
            function = self._functions.get(function_id)
            app = self._apps.get(function.app_id)
        except NotFound:
            return None
        name = f"{app.name or app.description}.{function.name}" + (f"/{function.id[:9]}" if function.binding else "")
        definition = function.latest
        return name, max(1, int(definition.spec.scaling.target_inputs)) if definition else 1

"""What happened: the inputs and containers of functions over a time, for people who look back. Times in seconds since the epoch."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from stoker.errors import NotFound
from stoker.services.containers.endings import Ending
from stoker.services.functions.functions import Functions
from stoker.services.pools.scheduler import Scheduler
from stoker.store import tables
from stoker.store.database import Database

PERCENTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class InputRecord:
    """One input. `status` is that of its result, 0 while it has none; `running` then tells whether a container works on it."""

    call_id: str
    enqueued_at: float
    started_at: float | None
    finished_at: float | None
    task_id: str
    status: int
    running: bool = False
    method: str = ""  # of a class, which the input is for


@dataclass(frozen=True)
class TaskRecord:
    """One container of the past or the present."""

    id: str
    app_id: str
    function_id: str
    enqueued_at: float
    started_at: float | None
    finished_at: float | None
    ending: Ending | None = None  # None while it lives, and when it went down with an earlier server
    detail: str = ""  # why it ended, for the user


@dataclass
class Totals:
    """What a function did in a time. statuses: finished inputs by status. Percentiles in seconds, by share, empty without data."""

    statuses: Counter[int] = field(default_factory=Counter)
    unfinished: int = 0
    containers: int = 0
    containers_started: int = 0  # without those that failed
    containers_failed: int = 0
    containers_starting: int = 0
    run_times: dict[float, float] = field(default_factory=dict)
    wait_times: dict[float, float] = field(default_factory=dict)
    start_times: dict[float, float] = field(default_factory=dict)


class History:
    """Reads the database beside the event loop: a look back must not slow down what goes on."""

    def __init__(self, *, database: Database, functions: Functions, scheduler: Scheduler) -> None:
        self._database = database
        self._functions = functions
        self._scheduler = scheduler

    def variants(self, function_id: str) -> list[str]:
        """The ids of the functions that are this one with parameters or options bound, newest first. Raises NotFound."""
        self._functions.get(function_id)
        functions = tables.functions
        query = sa.select(functions.c.id).where(functions.c.base_id == function_id)
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(functions.c.created_at.desc(), functions.c.id)).scalars())

    async def newest(self, function_ids: Sequence[str], count: int) -> list[InputRecord]:
        """The last `count` inputs, newest first, as `modal function calls` shows them."""
        query = _inputs(function_ids).order_by(tables.inputs.c.created_at.desc(), tables.inputs.c.idx.desc())
        return await self._records(function_ids, query.limit(count))

    async def between(self, function_ids: Sequence[str], since: float, until: float, limit: int) -> list[InputRecord]:
        """The first `limit` inputs that came in [since, until), oldest first; 0 for no limit."""
        created = tables.inputs.c.created_at
        query = _inputs(function_ids).where(created >= since, created < until).order_by(created, tables.inputs.c.idx)
        return await self._records(function_ids, query.limit(limit) if limit else query)

    async def counts(self, function_ids: Sequence[str], since: float, until: float, width: float) -> dict[float, int]:
        """Inputs that came in [since, until), by the start of their piece of `width` seconds."""
        inputs, calls = tables.inputs, tables.calls
        query = (
            sa.select(inputs.c.created_at)
            .select_from(inputs.join(calls, calls.c.id == inputs.c.call_id))
            .where(calls.c.function_id.in_(function_ids), inputs.c.created_at >= since, inputs.c.created_at < until)
        )

        def read() -> Counter[float]:
            with self._database.read() as connection:
                return Counter(since + (t - since) // width * width for t in connection.execute(query).scalars())

        return dict(sorted((await asyncio.to_thread(read)).items()))

    async def totals(self, function_ids: Sequence[str], since: float, until: float, task_id: str = "") -> Totals:
        """What was finished in [since, until), and the containers that lived in it; of one container when `task_id` is given."""
        return await asyncio.to_thread(self._totals, function_ids, since, until, task_id)

    def task(self, task_id: str) -> TaskRecord:
        """Raises NotFound."""
        live = self._scheduler.task(task_id)
        if live is not None:
            return TaskRecord(live.id, live.app_id, live.function_id, live.enqueued_at, live.started_at, None)
        tasks = tables.tasks
        with self._database.read() as connection:
            row = connection.execute(sa.select(tasks).where(tasks.c.id == task_id)).first()
        if row is None:
            raise NotFound(f"There is no container {task_id!r}. `modal container list` shows those that run.")
        # A row without an end belongs to a container that went down with an earlier server.
        ended = row.finished_at or row.started_at or row.enqueued_at
        ending = Ending(row.exit) if row.exit else None
        return TaskRecord(
            row.id, row.app_id, row.function_id, row.enqueued_at, row.started_at, ended, ending, row.detail
        )

    async def _records(self, function_ids: Sequence[str], query: sa.Select[tuple[object, ...]]) -> list[InputRecord]:
        running = self._running(function_ids)

        def read() -> list[InputRecord]:
            with self._database.read() as connection:
                return [
                    InputRecord(
                        call_id=row.call_id,
                        enqueued_at=row.enqueued_at,
                        started_at=row.started_at or None,
                        finished_at=row.finished_at,
                        task_id=row.task_id or running.get(row.id, ""),
                        status=row.status or 0,
                        running=row.id in running,
                        method=row.method,
                    )
                    for row in connection.execute(query)
                ]

        return await asyncio.to_thread(read)

    def _running(self, function_ids: Sequence[str]) -> dict[str, str]:
        """The container of each input that runs now."""
        found: dict[str, str] = {}
        for runner in map(self._scheduler.runner, function_ids):
            if runner is not None:
                found.update((i, c.id) for c in runner.pool.containers.values() for i in c.running)
        return found

    def _totals(self, function_ids: Sequence[str], since: float, until: float, task_id: str) -> Totals:
        inputs, outputs, calls, tasks = tables.inputs, tables.outputs, tables.calls, tables.tasks
        joined = inputs.join(calls, calls.c.id == inputs.c.call_id)
        done = (
            sa.select(
                outputs.c.status, outputs.c.started_at, outputs.c.created_at, inputs.c.created_at.label("enqueued")
            )
            .select_from(joined.join(outputs, outputs.c.input_id == inputs.c.id))
            .where(calls.c.function_id.in_(function_ids), outputs.c.created_at >= since, outputs.c.created_at < until)
        )
        left = (
            sa.select(sa.func.count())
            .select_from(joined.outerjoin(outputs, outputs.c.input_id == inputs.c.id))
            .where(
                calls.c.function_id.in_(function_ids),
                inputs.c.created_at < until,
                sa.or_(outputs.c.input_id.is_(None), outputs.c.created_at >= until),
            )
        )
        lived = sa.select(tasks).where(
            tasks.c.function_id.in_(function_ids),
            tasks.c.enqueued_at < until,
            sa.or_(tasks.c.finished_at.is_(None), tasks.c.finished_at >= since),
        )
        if task_id:
            done = done.where(outputs.c.task_id == task_id)
            lived = lived.where(tasks.c.id == task_id)
        runners = [runner for runner in map(self._scheduler.runner, function_ids) if runner is not None]
        live = {task.id: task.started_at for runner in runners for task in list(runner.tasks.values())}
        totals, runs, waits, starts = Totals(), list[float](), list[float](), list[float]()
        with self._database.read() as connection:
            for row in connection.execute(done):
                totals.statuses[row.status] += 1
                if row.started_at:
                    runs.append(row.created_at - row.started_at)
                    waits.append(row.started_at - row.enqueued)
            totals.unfinished = connection.execute(left).scalar_one() if not task_id else 0
            for row in connection.execute(lived):
                totals.containers += 1
                failed = row.exit not in ("", Ending.STOPPED.value)
                totals.containers_failed += failed
                started_at = row.started_at or live.get(row.id)  # the row of one that lives does not know yet
                if started_at:
                    totals.containers_started += not failed
                    starts.append(started_at - row.enqueued_at)
        totals.containers_starting = list(live.values()).count(None)
        totals.run_times, totals.wait_times = percentiles(runs), percentiles(waits)
        totals.start_times = percentiles(starts)
        return totals


def percentiles(values: Sequence[float]) -> dict[float, float]:
    """The smallest value that a share of all values does not exceed, for each share (nearest rank)."""
    ordered = sorted(max(0.0, v) for v in values)
    return {p: ordered[math.ceil(p * len(ordered)) - 1] for p in PERCENTILES} if ordered else {}


def _inputs(function_ids: Sequence[str]) -> sa.Select[tuple[object, ...]]:
    inputs, outputs, calls = tables.inputs, tables.outputs, tables.calls
    query: sa.Select[tuple[object, ...]] = (
        sa.select(
            inputs.c.id,
            inputs.c.call_id,
            inputs.c.created_at.label("enqueued_at"),
            inputs.c.method,
            outputs.c.started_at,
            outputs.c.created_at.label("finished_at"),
            outputs.c.task_id,
            outputs.c.status,
        )
        .select_from(
            inputs.join(calls, calls.c.id == inputs.c.call_id).outerjoin(outputs, outputs.c.input_id == inputs.c.id)
        )
        .where(calls.c.function_id.in_(function_ids))
    )
    return query

"""What must be cleaned up now and then, without anybody asking for it."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa
import structlog

from stoker.batches import batches
from stoker.services.calls.call_records import WEB
from stoker.services.files.blobs import Blobs, give_up
from stoker.store import tables
from stoker.store.database import Database

_PERIOD, _RARE = 60.0, 5  # seconds; rounds
_MOST_WEB = 200_000  # web requests of which a line of history is kept: whoever reaches an endpoint makes them
# What is removed in one transaction, so that work under way hardly waits: rows of a table, and bytes that have to be looked through.
_SLICE, _SLICE_BYTES = 2_000, 64 << 20
# A field of a serialised message that holds a blob's id and nothing else: the length, then the id.
_BLOB_FIELD = re.compile(rb"\x19(bl-[0-9A-Za-z]{22})")
_log = structlog.get_logger(__name__)

Chore = Callable[[], Awaitable[object]]


class Housekeeping:
    """Does its chores every minute, and all of `rare` every fifth time: one after the other, the first time at once.

    A chore that fails is logged and tried again the next time."""

    def __init__(self, chores: Sequence[Chore], rare: Sequence[Chore] = ()) -> None:
        self._chores = chores
        self._rare = rare
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        for round_ in itertools.count():
            for chore in (*self._chores, *(self._rare if round_ % _RARE == 0 else ())):
                try:
                    await chore()
                except Exception:
                    _log.exception("a chore failed", chore=getattr(chore, "__qualname__", str(chore)))
            await asyncio.sleep(_PERIOD)


async def forget_old_calls(database: Database, blobs: Blobs, days: float, most_web: int = _MOST_WEB) -> int:
    """Removes calls of which nothing was made or ended in the last `days` days and that have no unfinished input, with their inputs, outputs
    and the blobs that these name; of web requests also all but the newest. How many calls."""
    total = 0
    oldest_web = await asyncio.to_thread(_oldest_web, database, most_web)
    while True:
        oldest = _Age(_oldest_kept(days), oldest_web)
        part = await asyncio.to_thread(_old_part, database, oldest)
        if not part.contents and not part.whole:
            return total
        removed, named = await database.write(partial(_remove, part, oldest))
        await blobs.delete(named)
        total += removed


async def forget_old_tasks(database: Database, live: Callable[[], Iterable[str]], days: float) -> None:
    """Removes the records of containers that ended more than `days` days ago. live: the ids of those that have not."""
    tasks = tables.tasks
    last = sa.func.coalesce(tasks.c.finished_at, tasks.c.started_at, tasks.c.enqueued_at)

    def old() -> list[str]:
        with database.read() as connection:
            return list(connection.execute(sa.select(tasks.c.id).where(last < _oldest_kept(days))).scalars())

    alive = set(live())  # before the look: whatever starts later is not old
    await _delete(database, tasks.c.id, [i for i in await asyncio.to_thread(old) if i not in alive])


async def forget_old_logs(database: Database, days: float) -> None:
    """Removes log entries older than `days` days."""
    logs = tables.logs
    # From the front only, for it is in the order of the entries: nothing else has to be looked at.
    front = sa.select(logs.c.seq, logs.c.timestamp).order_by(logs.c.seq).limit(_SLICE).subquery()
    old = sa.select(front.c.seq).where(front.c.timestamp < _oldest_kept(days))

    def next_slice() -> list[int]:
        with database.read() as connection:
            return list(connection.execute(old).scalars())

    while seqs := await asyncio.to_thread(next_slice):
        await _delete(database, logs.c.seq, seqs)


@dataclass(frozen=True)
class _Age:
    """What is older than this is to be removed. Seconds since the epoch."""

    any: float
    web: float  # of web requests alone


@dataclass
class _OldPart:
    """A part of what old calls left, small enough for one transaction."""

    contents: dict[str, list[str]] = field(default_factory=dict)  # call -> inputs
    blobs: dict[str, set[str]] = field(default_factory=dict)  # call -> what its inputs and outputs name
    whole: set[str] = field(default_factory=set)  # calls of which that is all


def _oldest_kept(days: float) -> float:
    return time.time() - days * 86_400


def _oldest_web(database: Database, most: int) -> float:
    """When the oldest of the newest `most` web requests came; 0 when there are no more."""
    times = sa.select(tables.calls.c.created_at).where(tables.calls.c.kind == WEB)
    with database.read() as connection:
        newest = connection.execute(times.order_by(tables.calls.c.created_at.desc()).offset(most).limit(1)).scalar()
    return float(newest or 0.0)


def _old_calls(oldest: _Age) -> sa.Select[Any]:
    calls, inputs, outputs = tables.calls, tables.inputs, tables.outputs
    unfinished = (
        sa.select(inputs.c.id)
        .outerjoin(outputs, outputs.c.input_id == inputs.c.id)
        .where(inputs.c.call_id == calls.c.id, outputs.c.input_id.is_(None))
        .exists()
    )
    fresh = (
        sa.select(outputs.c.input_id)
        .where(outputs.c.call_id == calls.c.id, outputs.c.created_at >= oldest.any)
        .exists()
    )
    old = sa.and_(calls.c.created_at < oldest.any, ~fresh)
    old_web = sa.and_(calls.c.kind == WEB, calls.c.created_at <= oldest.web)
    return sa.select(calls.c.id).where(sa.or_(old, old_web), ~unfinished)


def _old_part(database: Database, oldest: _Age) -> _OldPart:
    """Reads what is to be removed, beside the writer: to look through large contents takes a while."""
    inputs, outputs = tables.inputs, tables.outputs
    part, size = _OldPart(), 0
    with database.read() as connection:
        ids = list(connection.execute(_old_calls(oldest).limit(_SLICE)).scalars())
        contents = (
            sa.select(inputs.c.id, inputs.c.call_id, inputs.c.payload, outputs.c.result)
            .select_from(inputs.join(outputs, outputs.c.input_id == inputs.c.id))
            .where(inputs.c.call_id.in_(ids))
            .order_by(inputs.c.call_id)
            .limit(_SLICE)
            .execution_options(yield_per=100)
        )
        count, last = 0, ""
        for row in connection.execute(contents):
            count, last, size = count + 1, row.call_id, size + len(row.payload) + len(row.result)
            part.contents.setdefault(last, []).append(row.id)
            named = part.blobs.setdefault(last, set())
            named.update(i.decode() for content in (row.payload, row.result) for i in _BLOB_FIELD.findall(content))
            if size > _SLICE_BYTES:
                break
        all_of_them = count < _SLICE and size <= _SLICE_BYTES
    part.whole = set(ids) if all_of_them else part.contents.keys() - {last}
    return part


def _remove(part: _OldPart, oldest: _Age, connection: sa.Connection) -> tuple[int, list[str]]:
    """How many calls are gone, and blobs that are to go."""
    inputs, outputs, calls = tables.inputs, tables.outputs, tables.calls
    chosen = part.whole | part.contents.keys()
    old: set[str] = set(connection.execute(_old_calls(oldest).where(calls.c.id.in_(chosen))).scalars())  # still
    input_ids = [i for call_id in old for i in part.contents.get(call_id, ())]
    named = sorted(b for call_id in old for b in part.blobs.get(call_id, ()))
    for column, ids in ((outputs.c.input_id, input_ids), (inputs.c.id, input_ids), (calls.c.id, part.whole & old)):
        connection.execute(sa.delete(column.table).where(column.in_(ids)))
    # With the rows, so that whatever comes in between, the sweep of blobs finds them.
    for batch in batches(named):
        connection.execute(give_up(batch))
    return len(part.whole & old), named


async def _delete(database: Database, key: sa.Column[Any], values: Sequence[Any]) -> None:
    """Deletes rows by their keys, many but not all in one transaction."""
    for batch in batches(values, _SLICE):
        some = sa.delete(key.table).where(key.in_(batch))
        await database.write(partial(sa.Connection.execute, statement=some))

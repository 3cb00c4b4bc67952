"""What must be cleaned up now and then, without anybody asking for it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence

import sqlalchemy as sa
import structlog

from stoker.services.blobs import Blobs
from stoker.store import tables
from stoker.store.database import Database

_PERIOD = 300.0  # seconds
_SLICE = 2_000  # calls removed in one transaction, so that work under way hardly waits
# A field of a serialised message that holds a blob's id and nothing else: the length, then the id.
_BLOB_FIELD = re.compile(rb"\x19(bl-[0-9A-Za-z]{22})")
_log = structlog.get_logger(__name__)

Chore = Callable[[], Awaitable[object]]


class Housekeeping:
    """Does its chores every five minutes. A chore that fails is logged and tried again the next time."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = chores
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            for chore in self._chores:
                try:
                    await chore()
                except Exception:
                    _log.exception("a chore failed", chore=getattr(chore, "__qualname__", str(chore)))
            await asyncio.sleep(_PERIOD)


async def forget_old_calls(database: Database, blobs: Blobs, days: float) -> int:
    """Removes calls that were made more than `days` days ago and have no unfinished input, with their inputs, outputs and the blobs that
    these name; how many."""
    calls, inputs, outputs = tables.calls, tables.inputs, tables.outputs
    unfinished = (
        sa.select(inputs.c.id)
        .outerjoin(outputs, outputs.c.input_id == inputs.c.id)
        .where(inputs.c.call_id == calls.c.id, outputs.c.input_id.is_(None))
        .exists()
    )
    old = (
        sa.select(calls.c.id)
        .where(calls.c.created_at < time.time() - days * 86_400, sa.or_(calls.c.cancelled, ~unfinished))
        .limit(_SLICE)
    )

    def remove(connection: sa.Connection) -> tuple[int, list[str]]:
        ids = list(connection.execute(old).scalars())
        named: set[str] = set()
        for column, call_id in ((inputs.c.payload, inputs.c.call_id), (outputs.c.result, outputs.c.call_id)):
            for content in connection.execute(sa.select(column).where(call_id.in_(ids))).scalars():
                named.update(found.decode() for found in _BLOB_FIELD.findall(content))
        for table, column in ((outputs, outputs.c.call_id), (inputs, inputs.c.call_id), (calls, calls.c.id)):
            connection.execute(sa.delete(table).where(column.in_(ids)))
        return len(ids), sorted(named)

    total = 0
    while True:
        removed, named = await database.write(remove)
        if named:
            await blobs.delete(named)
        if not removed:
            return total
        total += removed


async def forget_old_logs(database: Database, days: float) -> None:
    """Removes log entries older than `days` days."""
    statement = sa.delete(tables.logs).where(tables.logs.c.timestamp < time.time() - days * 86_400)
    await database.write(lambda connection: connection.execute(statement))

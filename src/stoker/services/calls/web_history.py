"""Writes a line of history for every web request that has ended: which function, when, how it ended, in which container.

The line is written beside the work: nobody waits for it, and when the database is away for long, lines are lost rather than memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import ResourceExhausted, Unavailable
from stoker.services.calls.call_records import Call, web_rows
from stoker.store.appender import Rows
from stoker.store.database import Database

_MOST_WAITING = 20_000  # requests whose lines are not written yet
_AT_ONCE = 100  # in one transaction, which the database takes on the spot
_TRY_AGAIN = 1.0  # seconds
_LONGEST_END = 5.0  # seconds for what is left when the server stops
_log = structlog.get_logger(__name__)
_Line = TypeVar("_Line")


class HistoryWriter(Generic[_Line]):
    """A bounded list of lines and the task that stores them. What does not find a place is counted, and the log says how much that was."""

    def __init__(
        self, database: Database, rows: Callable[[Sequence[_Line]], Sequence[Rows]], *, gather: float = 0.0
    ) -> None:
        """rows: of lines, for the database. gather: seconds for which lines gather before they are written together."""
        self._database = database
        self._rows = rows
        self._gather = gather
        self._waiting: list[_Line] = []
        self._lost = 0
        self._jobs = Jobs("web history")
        self._writer: asyncio.Task[None] | None = None

    def add(self, line: _Line) -> None:
        """Event: a web request has ended."""
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(line)
        if self._writer is None or self._writer.done():
            self._writer = self._jobs.start("write", self._write())

    async def close(self) -> None:
        await self._jobs.close(patience=_LONGEST_END)

    async def _write(self) -> None:
        await asyncio.sleep(self._gather)
        while self._waiting:
            await self._write_some(self._waiting[:_AT_ONCE])
            if self._lost:
                _log.warning("web requests are missing in the history: the database was away", requests=self._lost)
                self._lost = 0

    async def _write_some(self, lines: list[_Line]) -> None:
        try:
            await self._database.append(*self._rows(lines))
        except (ResourceExhausted, Unavailable):
            await asyncio.sleep(_TRY_AGAIN)
            return
        except Exception as error:
            _log.warning("web requests are missing in the history", requests=len(lines), error=str(error))
        del self._waiting[: len(lines)]


class WebHistory(HistoryWriter[Call]):
    """Of the requests that are calls of functions."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, web_rows)

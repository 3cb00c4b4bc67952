"""The lines that containers print: kept in the database, streamed to whoever watches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from stoker.store import tables
from stoker.store.database import Database

STDOUT, STDERR, INFO = 1, 2, 3
_KEEP_IN_MEMORY = 5_000  # entries per app
_FLUSH_SECONDS = 0.2
_FORGET_AFTER = 120.0  # seconds the entries of an app that is over stay in memory
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LogEntry:
    """A piece of output, usually one line with its line end. `seq` orders all entries of the server."""

    seq: int
    app_id: str
    function_id: str
    task_id: str
    fd: int
    data: str
    timestamp: float


@dataclass(frozen=True)
class LogFilter:
    """Which entries of an app are wanted; empty fields match all."""

    function_id: str = ""
    task_id: str = ""
    fd: int = 0
    search: str = ""
    since: float = 0.0
    until: float = 0.0

    def matches(self, entry: LogEntry) -> bool:
        return (
            (not self.function_id or self.function_id == entry.function_id)
            and (not self.task_id or self.task_id == entry.task_id)
            and (not self.fd or self.fd == entry.fd)
            and (not self.search or self.search in entry.data)
            and entry.timestamp >= self.since
            and (not self.until or entry.timestamp < self.until)
        )


class _AppLog:
    """The newest entries of one app and those who wait for more."""

    def __init__(self) -> None:
        self.entries: deque[LogEntry] = deque(maxlen=_KEEP_IN_MEMORY)
        self.done = False
        self.waiters: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class Logs:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._apps: dict[str, _AppLog] = {}
        self._unsaved: list[LogEntry] = []
        self._being_saved: list[LogEntry] = []
        self._saving: asyncio.Task[None] | None = None
        with database.read() as connection:
            newest = connection.execute(sa.select(sa.func.max(tables.logs.c.seq))).scalar() or 0
        # Time in it: a server that was killed had shown entries that it had not stored, and whoever saw them asks for what comes after.
        self._seq = max(newest, int(time.time() * 1e6))

    def write(self, app_id: str, fd: int, data: str, *, function_id: str = "", task_id: str = "") -> None:
        """Adds an entry; watchers see it at once, the database a moment later."""
        self._seq += 1
        entry = LogEntry(self._seq, app_id, function_id, task_id, fd, data, time.time())
        log = self._app(app_id)
        log.entries.append(entry)
        log.wake()
        self._unsaved.append(entry)
        if self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(self._save_soon())

    @property
    def position(self) -> int:
        """The seq after which come all entries from now on."""
        return self._seq

    def finish(self, app_id: str) -> None:
        """No more entries will come: streams of the app end."""
        log = self._app(app_id)
        log.done = True
        log.wake()
        asyncio.get_running_loop().call_later(_FORGET_AFTER, self._apps.pop, app_id, None)

    async def follow(
        self, app_id: str, after: int, timeout: float, wanted: LogFilter, *, over: bool = False
    ) -> AsyncIterator[LogEntry | None]:
        """Entries with a seq above `after`, as they come, until `timeout` seconds are over. None: the log is at its end for good.

        over: the app has stopped, maybe long ago or under an earlier server."""
        if over and app_id not in self._apps:
            for entry in self.fetch(app_id, wanted, _KEEP_IN_MEMORY):
                if entry.seq > after:
                    yield entry
            yield None
            return
        log = self._app(app_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            for entry in [e for e in log.entries if e.seq > after]:
                after = entry.seq
                if wanted.matches(entry):
                    yield entry
            if log.done and (not log.entries or log.entries[-1].seq <= after):
                yield None
                return
            if log.entries and log.entries[-1].seq > after:
                continue
            waiter = loop.create_future()
            log.waiters.add(waiter)
            done, _ = await asyncio.wait([waiter], timeout=max(0.0, deadline - loop.time()))
            log.waiters.discard(waiter)
            if not done:
                return

    def fetch(self, app_id: str, wanted: LogFilter, limit: int) -> list[LogEntry]:
        """The newest `limit` entries that match, oldest first, also from before the last restart."""
        logs = tables.logs
        query = sa.select(logs).where(logs.c.app_id == app_id)
        for column, value in (
            (logs.c.function_id, wanted.function_id),
            (logs.c.task_id, wanted.task_id),
            (logs.c.fd, wanted.fd),
        ):
            if value:
                query = query.where(column == value)
        if wanted.since:
            query = query.where(logs.c.timestamp >= wanted.since)
        if wanted.until:
            query = query.where(logs.c.timestamp < wanted.until)
        if wanted.search:
            query = query.where(logs.c.data.contains(wanted.search, autoescape=True))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(logs.c.seq.desc()).limit(limit)).all()
        stored = [
            LogEntry(r.seq, r.app_id, r.function_id, r.task_id, r.fd, r.data, r.timestamp) for r in reversed(rows)
        ]
        newest = stored[-1].seq if stored else 0
        unsaved = self._being_saved + self._unsaved
        fresh = [e for e in unsaved if e.app_id == app_id and e.seq > newest and wanted.matches(e)]
        return (stored + fresh)[-limit:]

    def tail(self, app_id: str, task_id: str, lines: int = 20) -> str:
        """The last output of one container, for error messages."""
        log = self._app(app_id)
        return "".join(e.data for e in [e for e in log.entries if e.task_id == task_id and e.fd != INFO][-lines:])

    async def close(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
        await self._save()

    def _app(self, app_id: str) -> _AppLog:
        return self._apps.setdefault(app_id, _AppLog())

    async def _save_soon(self) -> None:
        await asyncio.sleep(_FLUSH_SECONDS)
        self._saving = None
        await self._save()

    async def _save(self) -> None:
        entries, self._unsaved = self._unsaved, []
        self._being_saved += entries
        try:
            await self._database.insert(tables.logs, [_row(entry) for entry in entries])
        except Exception as error:  # logs must never stop the work
            _log.warning("logs were not stored", entries=len(entries), error=str(error))
        finally:
            del self._being_saved[: len(entries)]  # stored in the order in which they were given


def _row(entry: LogEntry) -> dict[str, object]:
    return {
        "seq": entry.seq,
        "app_id": entry.app_id,
        "function_id": entry.function_id,
        "task_id": entry.task_id,
        "input_id": "",
        "fd": entry.fd,
        "data": entry.data,
        "timestamp": entry.timestamp,
    }

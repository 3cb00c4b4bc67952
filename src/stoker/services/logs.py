"""The lines that containers print: kept in the database, streamed to whoever watches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from stoker.aio.bell import Bell
from stoker.aio.jobs import Jobs
from stoker.cancelling import finished
from stoker.errors import ResourceExhausted, Unavailable
from stoker.store import tables
from stoker.store.database import Database

STDOUT, STDERR, INFO = 1, 2, 3
_KEEP_IN_MEMORY = 5_000  # entries per app
_FLUSH_SECONDS = 0.2
_LONGEST_PAUSE = 30.0  # seconds between tries while nothing can be stored
_MOST_UNSAVED_BYTES = 64 << 20  # in memory, until it can be stored
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
        self.news = Bell()


class Logs:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._apps: dict[str, _AppLog] = {}
        self._unsaved: list[LogEntry] = []
        self._being_saved: list[LogEntry] = []
        self._unsaved_bytes = 0  # of both
        self._lost = 0  # entries for which there was no room while none could be stored
        self._nul = (
            "\N{REPLACEMENT CHARACTER}" if database.engine.dialect.name == "postgresql" else "\0"
        )  # it keeps none
        self._jobs = Jobs("logs")
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
        log.news.ring()
        self._unsaved.append(entry)
        self._unsaved_bytes += _size(entry)
        if self._unsaved_bytes > _MOST_UNSAVED_BYTES:
            self._make_room()
        if self._saving is None:
            self._saving = self._jobs.start("store entries", self._save_soon())

    def finish(self, app_id: str) -> None:
        """No more entries will come: streams of the app end."""
        log = self._app(app_id)
        log.done = True
        log.news.ring()
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
            if not await log.news.wait(deadline - loop.time()):
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
        await self._jobs.close()
        await self._save()

    def _app(self, app_id: str) -> _AppLog:
        return self._apps.setdefault(app_id, _AppLog())

    async def _save_soon(self) -> None:
        pause = _FLUSH_SECONDS
        try:
            while self._unsaved:
                await asyncio.sleep(pause)
                stored = await finished(self._save())
                pause = _FLUSH_SECONDS if stored else min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._saving = None

    async def _save(self) -> bool:
        """Stores what waits; False when that must be tried again, because the disk is full or the database away."""
        entries, self._unsaved = self._unsaved, []
        self._being_saved += entries
        try:
            await self._store(entries)
        except (ResourceExhausted, Unavailable):
            self._unsaved[:0] = entries
            self._make_room()
            return False
        else:
            self._unsaved_bytes -= sum(map(_size, entries))
        finally:
            del self._being_saved[: len(entries)]  # stored in the order in which they were given
        if self._lost:
            _log.warning("log entries were lost while none could be stored", entries=self._lost)
            self._lost = 0
        return True

    async def _store(self, entries: Sequence[LogEntry]) -> None:
        """Logs must never stop the work: what can never be stored is left out."""
        try:
            await self._database.insert(tables.logs, [_row(entry, self._nul) for entry in entries], known=True)
        except (ResourceExhausted, Unavailable):
            raise
        except Exception as error:
            if len(entries) > 1:
                middle = len(entries) // 2
                await self._store(entries[:middle])
                await self._store(entries[middle:])
            else:
                _log.warning("a log entry cannot be stored", app=entries[0].app_id, error=str(error))

    def _make_room(self) -> None:
        """Of what cannot be stored only so much is kept, the newest of it."""
        gone = 0
        while self._unsaved_bytes > _MOST_UNSAVED_BYTES and gone < len(self._unsaved):
            self._unsaved_bytes -= _size(self._unsaved[gone])
            gone += 1
        del self._unsaved[:gone]
        if gone and not self._lost:
            _log.warning("log entries are lost, since none can be stored")
        self._lost += gone


def _size(entry: LogEntry) -> int:
    """Bytes in memory, about."""
    return len(entry.data) + 300


def _row(entry: LogEntry, nul: str) -> dict[str, object]:
    return {
        "seq": entry.seq,
        "app_id": entry.app_id,
        "function_id": entry.function_id,
        "task_id": entry.task_id,
        "input_id": "",
        "fd": entry.fd,
        "data": entry.data.replace("\0", nul),
        "timestamp": entry.timestamp,
    }

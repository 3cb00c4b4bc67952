"""The lines that containers print: kept in the database, streamed to whoever watches.

Nothing of it is dropped to save memory: whoever prints faster than the database stores is held up (`room`), and whoever watches too slowly for
what is in memory reads on from the database. What the database refuses for long is lost, and the log says how much."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from stoker.aio.bell import Bell
from stoker.aio.jobs import Jobs
from stoker.aio.waiting import settled
from stoker.errors import ResourceExhausted, Unavailable
from stoker.store import tables
from stoker.store.database import Database

STDOUT, STDERR, INFO = 1, 2, 3
_KEEP_IN_MEMORY = (5_000, 8 << 20)  # entries per app, and characters in them
_MOST_UNSAVED = 4 << 20  # characters, of all apps; those who print wait then
_FLUSH_SECONDS = 0.2
_PATIENCE = (60, 1.0)  # tries to store entries while the database does not answer or is full, and seconds between them
_SLICE = 500  # entries that are read from the database at once
_FORGET_AFTER = 120.0  # seconds the entries of an app that is over stay in memory
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LogEntry:
    """A piece of output, usually one line with its line end. `seq` orders all entries of the server.

    input_id: the input that ran when it was printed, "" when there were several. call_ids: the calls of all that ran then."""

    seq: int
    app_id: str
    function_id: str
    task_id: str
    fd: int
    data: str
    timestamp: float
    input_id: str = ""
    call_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogFilter:
    """Which entries of an app are wanted; empty fields match all."""

    function_id: str = ""
    task_id: str = ""
    call_id: str = ""
    input_id: str = ""
    fd: int = 0
    search: str = ""
    since: float = 0.0
    until: float = 0.0

    def matches(self, entry: LogEntry) -> bool:
        return (
            (not self.function_id or self.function_id == entry.function_id)
            and (not self.task_id or self.task_id == entry.task_id)
            and (not self.call_id or self.call_id in entry.call_ids)
            and (not self.input_id or self.input_id == entry.input_id)
            and (not self.fd or self.fd == entry.fd)
            and (not self.search or self.search in entry.data)
            and entry.timestamp >= self.since
            and (not self.until or entry.timestamp < self.until)
        )


class _AppLog:
    """The newest entries of one app and those who wait for more."""

    def __init__(self) -> None:
        self.entries: deque[LogEntry] = deque()
        self.dropped = 0  # seq of the newest entry that is no longer in `entries`
        self.done = False
        self.news = Bell()
        self._size = 0

    @property
    def newest(self) -> int:
        return self.entries[-1].seq if self.entries else self.dropped

    def add(self, entry: LogEntry) -> None:
        most, largest = _KEEP_IN_MEMORY
        self.entries.append(entry)
        self._size += len(entry.data)
        while len(self.entries) > most or (self._size > largest and len(self.entries) > 1):
            oldest = self.entries.popleft()
            self.dropped = oldest.seq
            self._size -= len(oldest.data)
        self.news.ring()


class Logs:
    """The logs of all apps. Made by the composition root; written to by whatever speaks to the owner of an app, followed by RPC."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._apps: dict[str, _AppLog] = {}
        self._unsaved: list[LogEntry] = []
        self._being_saved: list[LogEntry] = []
        self._unsaved_size = 0  # characters, with those that are being saved
        self._jobs = Jobs("logs")
        self._saving: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None  # while there are too many
        self._hurry: asyncio.Future[None] | None = None  # ends the delay of `_saving`
        self._lost: dict[str, tuple[int, str]] = {}  # by app: characters that were not stored, and why
        with database.read() as connection:
            newest = connection.execute(sa.select(sa.func.max(tables.logs.c.seq))).scalar() or 0
        # Time in it: a server that was killed had shown entries that it had not stored, and whoever saw them asks for what comes after.
        self._seq = max(newest, int(time.time() * 1e6))

    def write(
        self,
        app_id: str,
        fd: int,
        data: str,
        *,
        function_id: str = "",
        task_id: str = "",
        input_id: str = "",
        call_ids: tuple[str, ...] = (),
    ) -> None:
        """Adds an entry; watchers see it at once, the database a moment later."""
        self._seq += 1
        entry = LogEntry(self._seq, app_id, function_id, task_id, fd, data, time.time(), input_id, call_ids)
        self._app(app_id).add(entry)
        self._unsaved.append(entry)
        self._unsaved_size += len(data)
        if self._unsaved_size > _MOST_UNSAVED and self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        self._plan_saving()

    def room(self) -> asyncio.Future[None] | None:
        """None while there is room for more entries; else a future that is done when there is again. Whoever writes what may be without end
        waits for it."""
        return self._room

    @property
    def position(self) -> int:
        """The seq after which come all entries from now on."""
        return self._seq

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
            async for entry in self._stored(app_id, after, None, wanted):
                yield entry
            yield None
            return
        log = self._app(app_id)
        after = after or log.dropped  # who begins to watch begins with what is in memory
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            while log.dropped > after:
                upto = log.dropped
                async for entry in self._stored(app_id, after, upto, wanted):
                    yield entry
                after = upto
            for entry in [e for e in log.entries if e.seq > after]:
                after = entry.seq
                if wanted.matches(entry):
                    yield entry
            if log.newest > after:
                continue
            if log.done:
                yield None
                return
            if not await log.news.wait(deadline - loop.time()):
                return

    def fetch(self, app_id: str, wanted: LogFilter, limit: int) -> list[LogEntry]:
        """The newest `limit` entries that match, oldest first, also from before the last restart."""
        query = _query(app_id, wanted).order_by(tables.logs.c.seq.desc()).limit(limit)
        with self._database.read() as connection:
            stored = [_entry(row) for row in reversed(connection.execute(query).all())]
        newest = stored[-1].seq if stored else 0
        return (stored + self._fresh(app_id, newest, wanted))[-limit:]

    def tail(self, app_id: str, task_id: str, lines: int = 20) -> str:
        """The last output of one container, for error messages."""
        log = self._app(app_id)
        return "".join(e.data for e in [e for e in log.entries if e.task_id == task_id and e.fd != INFO][-lines:])

    async def close(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
        await self._jobs.close()
        await self._save(tries=1)

    async def _stored(self, app_id: str, after: int, upto: int | None, wanted: LogFilter) -> AsyncIterator[LogEntry]:
        """Entries with a seq above `after`, up to `upto`, from the database and from those on their way there."""
        logs = tables.logs
        query = _query(app_id, wanted).order_by(logs.c.seq).limit(_SLICE)
        if upto is not None:
            query = query.where(logs.c.seq <= upto)

        def read(after: int) -> list[LogEntry]:
            with self._database.read() as connection:
                return [_entry(row) for row in connection.execute(query.where(logs.c.seq > after))]

        while True:
            # Looked at before the database is: what is stored meanwhile is in one of the two.
            fresh = self._fresh(app_id, after, wanted)
            entries = await asyncio.to_thread(read, after)
            if len(entries) < _SLICE:
                seen = entries[-1].seq if entries else after
                entries += [e for e in fresh if e.seq > seen and (upto is None or e.seq <= upto)]
            for entry in entries:
                after = entry.seq
                yield entry
            if len(entries) < _SLICE:
                return

    def _fresh(self, app_id: str, after: int, wanted: LogFilter) -> list[LogEntry]:
        """Those that are not in the database yet."""
        unsaved = self._being_saved + self._unsaved
        return [e for e in unsaved if e.app_id == app_id and e.seq > after and wanted.matches(e)]

    def _app(self, app_id: str) -> _AppLog:
        return self._apps.setdefault(app_id, _AppLog())

    def _plan_saving(self) -> None:
        loop = asyncio.get_running_loop()
        if self._saving is None:
            self._hurry = loop.create_future()
            self._saving = self._jobs.start("store entries", self._save_soon(self._hurry))
        if self._room is not None and self._hurry is not None and not self._hurry.done():
            self._hurry.set_result(None)

    async def _save_soon(self, hurry: asyncio.Future[None]) -> None:
        await settled(hurry, _FLUSH_SECONDS)
        await self._save()
        self._saving = None
        if self._unsaved:
            self._plan_saving()

    async def _save(self, tries: int = _PATIENCE[0]) -> None:
        self._tell_lost()
        entries, self._unsaved = self._unsaved, []
        self._being_saved += entries
        try:
            await self._store(entries, tries)
        except asyncio.CancelledError:
            self._unsaved[:0] = entries  # for the last try, at the end
            raise
        finally:
            del self._being_saved[: len(entries)]  # stored in the order in which they were given
        self._unsaved_size -= sum(len(entry.data) for entry in entries)
        if self._room is not None and self._unsaved_size <= _MOST_UNSAVED:
            self._room.set_result(None)
            self._room = None

    async def _store(self, entries: Sequence[LogEntry], tries: int) -> None:
        """Logs must not stop the work for ever: what can never be stored is left out, and so is all when `tries` were in vain."""
        try:
            await self._insert(entries, tries)
        except Exception as error:
            if len(entries) > 1 and not isinstance(error, (ResourceExhausted, Unavailable)):
                middle = len(entries) // 2
                await self._store(entries[:middle], tries)
                await self._store(entries[middle:], tries)
                return
            _log.warning("logs were not stored", entries=len(entries), error=str(error))
            for entry in entries:
                self._lost[entry.app_id] = (self._lost.get(entry.app_id, (0, ""))[0] + len(entry.data), str(error))

    async def _insert(self, entries: Sequence[LogEntry], tries: int) -> None:
        takes_nul = self._database.engine.dialect.name == "sqlite"
        rows = [_row(entry, takes_nul=takes_nul) for entry in entries]
        while True:
            try:
                # Known: some may have been stored though the answer was lost.
                await self._database.insert(tables.logs, rows, known=True)
                return
            except (ResourceExhausted, Unavailable):
                tries -= 1
                if tries <= 0:
                    raise
            await asyncio.sleep(_PATIENCE[1])

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, {}
        for app_id, (characters, why) in lost.items():
            self.write(app_id, INFO, f"[{characters} characters of output before this line were lost: {why}]\n")


def _query(app_id: str, wanted: LogFilter) -> sa.Select[Any]:
    """The stored entries of an app that match."""
    logs = tables.logs
    query = sa.select(logs).where(logs.c.app_id == app_id)
    for column, value in (
        (logs.c.function_id, wanted.function_id),
        (logs.c.task_id, wanted.task_id),
        (logs.c.input_id, wanted.input_id),
        (logs.c.fd, wanted.fd),
    ):
        if value:
            query = query.where(column == value)
    if wanted.call_id:
        query = query.where(logs.c.call_ids.contains(wanted.call_id, autoescape=True))
    if wanted.since:
        query = query.where(logs.c.timestamp >= wanted.since)
    if wanted.until:
        query = query.where(logs.c.timestamp < wanted.until)
    if wanted.search:
        query = query.where(logs.c.data.contains(wanted.search, autoescape=True))
    return query


def _entry(row: Any) -> LogEntry:
    context = row.input_id, tuple(row.call_ids.split())
    return LogEntry(row.seq, row.app_id, row.function_id, row.task_id, row.fd, row.data, row.timestamp, *context)


def _row(entry: LogEntry, *, takes_nul: bool) -> dict[str, object]:
    """takes_nul: whether the database can store the character NUL."""
    return {
        "seq": entry.seq,
        "app_id": entry.app_id,
        "function_id": entry.function_id,
        "task_id": entry.task_id,
        "input_id": entry.input_id,
        "call_ids": " ".join(entry.call_ids),
        "fd": entry.fd,
        "data": entry.data if takes_nul else entry.data.replace("\0", "\u2400"),
        "timestamp": entry.timestamp,
    }

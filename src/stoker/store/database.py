"""The database: one writer that commits in groups, and cheap reads beside it.

Every change goes through `write`. The writer takes all changes that wait, runs them in one transaction and commits once (group commit), so
that a thousand small changes cost one commit; a change is acknowledged only after the commit that holds it. With SQLite (WAL) readers
never wait for the writer.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command as alembic_command
from alembic.config import Config as AlembicConfig
from sqlalchemy import event

from stoker.errors import ResourceExhausted

T = TypeVar("T")
Work = Callable[[sa.Connection], Any]
_LARGEST_GROUP = 2000  # changes in one transaction
_PLAIN_TYPES = (sa.String, sa.Integer, sa.Float, sa.LargeBinary)  # passed to the driver as they are
_MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass
class _Job:
    """One change on its way to the writer. `insert` is set for plain inserts, which are merged into one executemany."""

    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    work: Work | None = None
    insert: tuple[sa.Table, Sequence[Mapping[str, Any]]] | None = None
    result: Any = None
    error: BaseException | None = None


class Database:
    """Opened by `open`, closed by `close`; all methods are called from one event loop."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._inserts: dict[tuple[str, tuple[str, ...]], str | None] = {}
        self._writer = threading.Thread(target=self._run_writer, name="stoker-db-writer", daemon=True)

    @classmethod
    def open(cls, url: str, *, synchronous: str = "NORMAL") -> Database:
        """Opens and migrates the database at an SQLAlchemy URL. `synchronous` is SQLite's: FULL also survives a power cut, at a price."""
        sqlite: dict[str, Any] = {"connect_args": {"check_same_thread": False}, "paramstyle": "named"}
        engine = sa.create_engine(url, **(sqlite if url.startswith("sqlite") else {}))
        if engine.dialect.name == "sqlite":
            _tune_sqlite(engine, synchronous)
        with engine.begin() as connection:
            config = AlembicConfig()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            alembic_command.upgrade(config, "head")
        database = cls(engine)
        database._writer.start()
        return database

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Runs `work(connection)` on the writer and returns its result once it is committed. An exception from `work` undoes only
        `work`. It may be run a second time when a change beside it fails, so it must change nothing but the database."""
        job = self._job(work=work)
        self._jobs.put(job)
        result: T = await job.done
        return result

    async def insert(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores rows with equal keys; cheaper than `write` for many small inserts."""
        job = self._job(insert=(table, rows))
        self._jobs.put(job)
        await job.done

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries. Keep it short: it runs on the caller's thread."""
        with self.engine.connect() as connection:
            yield connection

    async def close(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        self.engine.dispose()

    def _job(self, **what: Any) -> _Job:
        loop = asyncio.get_running_loop()
        return _Job(loop, loop.create_future(), **what)

    def _run_writer(self) -> None:
        stop = False
        with self.engine.connect() as connection:
            while not stop:
                jobs: list[_Job] = []
                job = self._jobs.get()
                while job is not None:
                    jobs.append(job)
                    if len(jobs) == _LARGEST_GROUP or self._jobs.empty():
                        break
                    job = self._jobs.get()
                stop = job is None
                self._commit(connection, jobs)
                _acknowledge(jobs)

    def _commit(self, connection: sa.Connection, jobs: list[_Job]) -> None:
        """All in one transaction; when one of them fails, each in its own, so that only the wrong ones fail."""
        if not jobs:
            return
        try:
            with connection.begin():
                for group in _merge_inserts(jobs):
                    self._apply(connection, group)
        except BaseException as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._commit(connection, [job])
            else:
                jobs[0].error = _explain(error)

    def _apply(self, connection: sa.Connection, group: list[_Job]) -> None:
        if group[0].insert is None:
            assert group[0].work is not None
            group[0].result = group[0].work(connection)
            return
        table = group[0].insert[0]
        rows = [row for job in group if job.insert for row in job.insert[1]]
        statement = self._plain_insert(table, tuple(rows[0]))
        if statement is None:
            connection.execute(sa.insert(table), rows)
        else:
            connection.exec_driver_sql(statement, rows)

    def _plain_insert(self, table: sa.Table, columns: tuple[str, ...]) -> str | None:
        """The INSERT as text, for rows that need no conversion: these are the ones written for every call."""
        key = (table.name, columns)
        if key not in self._inserts:
            plain = all(isinstance(table.c[name].type, _PLAIN_TYPES) for name in columns)
            defaults = any(c.default is not None and c.name not in columns for c in table.columns)
            statement = sa.insert(table).values({name: sa.bindparam(name) for name in columns})
            text = str(statement.compile(dialect=self.engine.dialect))
            self._inserts[key] = text if plain and not defaults and not self.engine.dialect.positional else None
        return self._inserts[key]


def _merge_inserts(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Runs of inserts into one table become one group; order is kept."""
    group: list[_Job] = []
    for job in jobs:
        same = (
            group
            and job.insert is not None
            and group[0].insert is not None
            and job.insert[0] is group[0].insert[0]
            and job.insert[1]
            and job.insert[1][0].keys() == group[0].insert[1][0].keys()
        )
        if group and not same:
            yield group
            group = []
        if job.insert is not None and not job.insert[1]:
            continue  # nothing to store
        group.append(job)
    if group:
        yield group


def _explain(error: BaseException) -> BaseException:
    """A full disk is something the caller can wait out; everything else passes unchanged."""
    if isinstance(error, sa.exc.OperationalError) and "full" in str(error.orig):
        return ResourceExhausted(
            "The server's disk is full, so nothing can be stored. Free some space; the request may then be repeated.",
            5.0,
        )
    return error


def _acknowledge(jobs: list[_Job]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, group in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, group)


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.done.done():
            continue  # the waiter was cancelled; the change stands
        if job.error is not None:
            job.done.set_exception(job.error)
        else:
            job.done.set_result(job.result)


def _tune_sqlite(engine: sa.Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy emits BEGIN itself, below, so that savepoints work
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

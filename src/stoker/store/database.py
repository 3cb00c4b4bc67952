"""The database: one writer that commits in groups, and cheap reads beside it.

Every change goes through `write`. The writer takes all changes that wait, runs them in one transaction and commits once (group commit), so
that a thousand small changes cost one commit; a change is acknowledged only after the commit that holds it. With SQLite (WAL) readers
never wait for the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa
import structlog
from alembic import command as alembic_command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite

from stoker.errors import Damaged, FailedPrecondition, InvalidArgument, StokerError, Unavailable
from stoker.integrity import wal
from stoker.store.appender import Appender, Rows, append
from stoker.store.changes import Change, Doubts, Job
from stoker.store.failures import explain

__all__ = ["Change", "Database"]

T = TypeVar("T")
_LARGEST_GROUP = 2000  # changes in one transaction
_MIGRATIONS = Path(__file__).parent / "migrations"
_WRITES = "writes"  # marks the writer's connection
# Of PostgreSQL's client: a machine that vanished is given up soon. Seconds, and milliseconds.
_PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
_BUSY = 30_000  # milliseconds for which SQLite waits for another program that has locked the database
_LARGEST_LOG_LOOKED_AT = 16 << 20  # bytes; a second or so
_ASK_AGAIN = 1.0  # seconds between questions what became of a commit that was not answered
_log = structlog.get_logger(__name__)


class Database:
    """Opened by `open`, closed by `close`; all methods are called from one event loop."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._gathered: list[Job] = []  # rows appended since the event loop's last turn
        self._with_writer = 0  # appended rows that the writer has and has not stored yet
        self._appender: Appender | None = None
        self._checkpoint_due = False
        self._lost = False
        self._doubts = Doubts()
        self._connection = engine.connect()  # the writer's
        self._writer = threading.Thread(target=self._run_writer, name="stoker-db-writer", daemon=True)

    @classmethod
    def open(cls, url: str, *, synchronous: str = "NORMAL") -> Database:
        """Opens and migrates the database at an SQLAlchemy URL. `synchronous` is SQLite's: FULL also survives a power cut, at a price.

        Raises InvalidArgument, FailedPrecondition, or Damaged, with the sentence for the user."""
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        sqlite: dict[str, Any] = {"connect_args": {"check_same_thread": False}}
        try:
            engine = sa.create_engine(url, **(sqlite if url.startswith("sqlite") else _remote(url)))
        except (ImportError, sa.exc.ArgumentError) as error:
            raise InvalidArgument(
                f"The setting database_url cannot be used: {error}. It is an SQLAlchemy URL such as postgresql://user@host/stoker, "
                "which also needs `pip install 'stoker[postgresql]'`."
            ) from None
        if engine.dialect.name == "sqlite":
            _make_private(engine.url.database)
            _tune_sqlite(engine, synchronous)
            _look_at_log(engine.url.database)
        with _explained(engine), engine.connect() as connection, connection.begin():
            config = AlembicConfig()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            alembic_command.upgrade(config, "head")
        database = cls(engine)
        if engine.dialect.name == "sqlite" and synchronous == "NORMAL" and engine.url.database:
            database._appender = Appender(engine.url.database, database._want_checkpoint)
        database._writer.start()
        return database

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Runs `work(connection)` on the writer and returns its result once it is committed. An exception from `work` undoes only
        `work`. It may be run a second time when a change beside it fails, so it must change nothing but the database; what is to change in
        memory with it is said by a `Change`."""
        job = self._job(work=work)
        self._jobs.put(job)
        result: T = await job.done
        return result

    async def insert(self, table: sa.Table, rows: Sequence[Mapping[str, Any]], *, known: bool = False) -> None:
        """Stores rows with equal keys; columns that are not named get their defaults. known: one that is there already stays as it is, for an
        earlier try may have stored it."""
        statement = self._unless_there(table) if known else sa.insert(table)
        if rows:
            await self.write(lambda connection: connection.execute(statement, rows))

    async def append(self, *rows: Rows) -> None:
        """Stores whole rows of one or more tables, all or none: the cheapest way, for what every call writes. Rows appended in one turn of
        the event loop share a commit, and appends end in the order in which they began. Changes made by `write` that are still under way
        may come later."""
        job = self._job(rows=rows)
        self._gathered.append(job)
        job.loop.call_soon(self._flush)
        await job.done

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries. Keep it short: it runs on the caller's thread."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            explained = explain(error)
            if explained is error:
                raise
            raise explained from error

    async def close(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        if self._appender is not None:
            self._appender.close()
        self.engine.dispose()

    def _job(self, **what: Any) -> Job:
        loop = asyncio.get_running_loop()
        return Job(loop, loop.create_future(), **what)

    def _flush(self) -> None:
        jobs, self._gathered = self._gathered, []
        if not jobs:
            return
        # Rows that the writer has must not be overtaken: who reads "all after the last I saw" would never see them.
        if not self._with_writer and self._appender is not None and self._appender.commit(_by_table(jobs)):
            _resolve([job for job in jobs if not job.loop.is_closed()])
        else:
            self._with_writer += sum(1 for job in jobs if job.rows)
            for job in jobs:
                self._jobs.put(job)

    def _want_checkpoint(self) -> None:
        self._checkpoint_due = True
        self._jobs.put(self._job())  # wakes the writer

    def _run_writer(self) -> None:
        stop = False
        with self._connection as connection:
            connection.info[_WRITES] = True
            while not stop:
                jobs, stop = self._next_group()
                self._settle_doubts(connection)
                self._commit(connection, jobs)
                self._tell_lost(jobs)
                self._acknowledge(jobs)
                if self._checkpoint_due and self._appender is not None:
                    self._checkpoint_due = False
                    _checkpoint(connection)
                    self._appender.resume()
                del jobs  # payloads that are stored need not wait in memory for the next group

    def _next_group(self) -> tuple[list[Job], bool]:
        """Waits for changes, while there are doubts not for long; and whether they are the last."""
        jobs: list[Job] = []
        try:
            job = self._jobs.get(timeout=_ASK_AGAIN if self._doubts else None)
        except queue.Empty:
            return jobs, False
        while job is not None:
            jobs.append(job)
            if len(jobs) == _LARGEST_GROUP or self._jobs.empty():
                break
            job = self._jobs.get()
        return jobs, job is None

    def _settle_doubts(self, connection: sa.Connection) -> None:
        """What follows changes whose commit had arrived is done now, before later changes."""
        if not self._doubts:
            return
        try:
            late = self._doubts.settle(connection)
        except sa.exc.DBAPIError:
            return  # it still does not answer
        for job in late:
            if not job.loop.is_closed():
                job.loop.call_soon_threadsafe(job.follow)

    def _commit(self, connection: sa.Connection, jobs: list[Job]) -> None:
        """All in one transaction; when one of them fails, each in its own, so that only the wrong ones fail. Those of a lost connection are
        not done again once their commit was sent: it may have arrived."""
        if not jobs:
            return
        try:
            if self.engine.dialect.name == "sqlite" and not any(job.work for job in jobs):
                append(_driver(connection), _by_table(jobs))
            else:
                self._transact(connection, jobs)
        except BaseException as error:
            lost = isinstance(explain(error), Unavailable)
            if len(jobs) > 1 and not lost:
                for job in jobs:
                    self._commit(connection, [job])
            else:
                for job in jobs:
                    job.error = explain(error)

    def _transact(self, connection: sa.Connection, jobs: list[Job]) -> None:
        sent: list[str] = []  # transactions whose commit was sent
        try:
            self._try(connection, jobs, sent)
        except sa.exc.DBAPIError as error:
            if sent or not error.connection_invalidated:
                raise
            self._try(connection, jobs, sent)  # on a new connection: the old one may have been lost long ago

    def _try(self, connection: sa.Connection, jobs: list[Job], sent: list[str]) -> None:
        try:
            with connection.begin():
                self._apply(connection, jobs)
                sent.append(Doubts.transaction(connection, jobs))
        except sa.exc.DBAPIError:
            if sent:
                self._doubts.add(sent[-1], jobs)
            raise

    def _apply(self, connection: sa.Connection, jobs: list[Job]) -> None:
        for job in jobs:
            if job.work is not None:
                job.result = job.work(connection)
            for table, rows in job.rows:
                names = table.columns.keys()
                if rows:  # an insert without rows would store a row of defaults
                    connection.execute(self._insert(table), [dict(zip(names, row, strict=True)) for row in rows])

    def _insert(self, table: sa.Table) -> sa.Insert:
        """Of appended rows. One that is there is what an earlier try has stored whose commit was lost on its way."""
        return self._unless_there(table) if self.engine.dialect.name == "postgresql" else sa.insert(table)

    def _unless_there(self, table: sa.Table) -> sa.Insert:
        if self.engine.dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    def _tell_lost(self, jobs: list[Job]) -> None:
        """The log says once that the database does not answer, and once that it does again."""
        if not jobs:
            return
        error = next((job.error for job in jobs if isinstance(job.error, Unavailable)), None)
        if error is not None and not self._lost:
            _log.warning("the database does not answer", error=str(error))
        elif error is None and self._lost:
            _log.info("the database answers again")
        self._lost = error is not None

    def _acknowledge(self, jobs: list[Job]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, group in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._written, group)

    def _written(self, jobs: list[Job]) -> None:
        self._with_writer -= sum(1 for job in jobs if job.rows)
        _resolve(jobs)


def _remote(url: str) -> dict[str, Any]:
    """How a database behind a connection is used. What the URL says itself counts."""
    said = sa.make_url(url).query
    return {"pool_pre_ping": True, "connect_args": {key: value for key, value in _PATIENCE.items() if key not in said}}


@contextlib.contextmanager
def _explained(engine: sa.Engine) -> Iterator[None]:
    """Around what opens a database."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        explained = explain(error)
        if isinstance(explained, Damaged):
            raise Damaged(
                f"The database {engine.url.database} is damaged ({error.orig}), so the server cannot start on it. Restore it with the rest of "
                "the data directory from a backup, as docs/operate.md says under Backup. `stoker fsck` shows what else is damaged."
            ) from None
        if engine.dialect.name == "sqlite":
            why = explained if isinstance(explained, StokerError) else f"{error.orig}."
            raise FailedPrecondition(f"The database {engine.url.database} cannot be opened: {why}") from None
        if isinstance(error, sa.exc.OperationalError):
            raise FailedPrecondition(
                f"The database of the setting database_url does not answer: {error.orig}"
            ) from None
        raise
    except CommandError as error:
        raise FailedPrecondition(
            f"The database was written by a newer version of Stoker ({error}). Use that version, or restore a backup of before."
        ) from None


def _look_at_log(database: str | None) -> None:
    """SQLite says nothing when it leaves out the end of its log, for after a crash that is right."""
    log = Path(f"{database}-wal")
    if database and log.exists() and log.stat().st_size <= _LARGEST_LOG_LOOKED_AT:
        state = wal.examine(log)
        if state.problem:
            _log.error(
                "the database's log is damaged: the newest changes are lost", path=str(log), problem=state.problem
            )


def _checkpoint(connection: sa.Connection) -> None:
    """Moves what SQLite's write-ahead log holds into the database."""
    with contextlib.suppress(sqlite3.Error):  # such as a full disk; the next one tries again
        _driver(connection).execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _driver(connection: sa.Connection) -> sqlite3.Connection:
    """SQLite's own connection."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def _by_table(jobs: Iterable[Job]) -> list[Rows]:
    """The rows of many jobs, one list a table: appended rows do not depend on each other, so their order does not matter."""
    gathered: dict[sa.Table, list[tuple[Any, ...]]] = {}
    for job in jobs:
        for table, rows in job.rows:
            gathered.setdefault(table, []).extend(rows)
    return list(gathered.items())


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.error is None:
            job.follow()
        job.resolve()


def _make_private(path: str | None) -> None:
    """A new database is its owner's alone to read; SQLite gives the files beside it the same mode."""
    if path and path != ":memory:":
        with contextlib.suppress(OSError):  # SQLite says better what is wrong
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _tune_sqlite(engine: sa.Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy emits BEGIN itself, below, so that savepoints work
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON", f"busy_timeout={_BUSY}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A change that reads first must have the lock from the start: SQLite refuses it with "database is locked", whatever the timeout, when
        # the appender has committed between its first read and its first write.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get(_WRITES) else "BEGIN")

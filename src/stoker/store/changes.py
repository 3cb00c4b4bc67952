"""Changes of the database with what follows them in memory, and what becomes of those whose commit was not answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
import structlog

from stoker.store.appender import Rows

T = TypeVar("T")
Work = Callable[[sa.Connection], Any]

_log = structlog.get_logger(__name__)

_CURRENT = sa.text("SELECT CAST(txid_current() AS TEXT)")
_STATUS = sa.text("SELECT txid_status(CAST(:id AS BIGINT))")
_COMMITTED, _UNDER_WAY = "committed", "in progress"
_LOOKS, _LOOK_AGAIN = 40, 0.05  # at a transaction that is under way; seconds


class Change(Generic[T]):
    """Work for `Database.write` of which there is a copy in memory: the copy is changed by `then`, after the disk.

    `then(result)` runs in the event loop as soon as the commit is known, also when the caller was cancelled meanwhile, and also when the
    connection was lost before the commit was answered: then later, when the database has said that the commit had arrived. So it must not
    fail, and what it does must not depend on the caller."""

    def __init__(self, work: Callable[[sa.Connection], T], then: Callable[[T], None]) -> None:
        self._work = work
        self.then = then

    def __call__(self, connection: sa.Connection) -> T:
        return self._work(connection)


@dataclass(slots=True)
class Job:
    """One change on its way to the writer: something to do, or rows to append."""

    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    work: Work | None = None
    rows: Sequence[Rows] = ()
    result: Any = None
    error: BaseException | None = None

    def follow(self) -> None:
        """Changes the copy in memory after the change was committed."""
        if isinstance(self.work, Change):
            try:
                self.work.then(self.result)
            except Exception as error:
                _log.exception("what is in memory could not follow the database")
                self.error = error

    def resolve(self) -> None:
        """Tells whoever waits."""
        if self.done.done():
            return  # the waiter was cancelled; the change stands
        if self.error is not None:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(self.result)


class Doubts:
    """Transactions of PostgreSQL whose commit was sent and not answered. PostgreSQL remembers which of its transactions were committed."""

    def __init__(self) -> None:
        self._open: list[tuple[str, list[Job]]] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    @staticmethod
    def transaction(connection: sa.Connection, jobs: Sequence[Job]) -> str:
        """What PostgreSQL calls the transaction under way; "" when nothing in memory follows these changes, so that nobody will ask."""
        if connection.dialect.name != "postgresql" or not any(isinstance(job.work, Change) for job in jobs):
            return ""
        return str(connection.execute(_CURRENT).scalar_one())

    def add(self, transaction: str, jobs: Sequence[Job]) -> None:
        if transaction:
            self._open.append((transaction, [job for job in jobs if isinstance(job.work, Change)]))

    def settle(self, connection: sa.Connection) -> list[Job]:
        """Asks the database; the jobs that turn out to be committed, in the order of their commits. The others were not, or are asked for
        again the next time. Blocks. Raises what the database raises when it does not answer."""
        committed: list[Job] = []
        looks = _LOOKS
        while self._open:
            transaction, jobs = self._open[0]
            with connection.begin():
                status = connection.execute(_STATUS, {"id": transaction}).scalar_one()
            if status == _UNDER_WAY:  # the database has not noticed yet that the connection is gone
                looks -= 1
                if not looks:
                    break
                time.sleep(_LOOK_AGAIN)
                continue
            del self._open[0]
            if status == _COMMITTED:
                committed += jobs
        return committed

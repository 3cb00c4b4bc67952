"""What must still be done about something, whatever comes in between: noted in the transaction that makes it due, done until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import sqlalchemy as sa

from stoker.aio.jobs import Jobs
from stoker.store import tables
from stoker.store.database import Database

_settings = tables.settings


class Duty:
    """One kind of work, such as removing the files of a volume that was deleted. Its notes are rows of the table of settings."""

    def __init__(self, database: Database, kind: str, work: Callable[[str], Awaitable[None]]) -> None:
        """work: is given the id of what it is about. It may come again after it was done, or done in part."""
        self._database = database
        self._kind = kind
        self._prefix = f"duty/{kind}/"
        self._work = work
        self._jobs = Jobs("duties")
        self._tried: dict[str, asyncio.Future[None]] = {}  # by subject: how the first try ended

    def note(self, connection: sa.Connection, subject: str) -> None:
        """To be called in the transaction that makes the work due."""
        self._strike_out(connection, subject)
        connection.execute(sa.insert(_settings), [{"key": self._prefix + subject, "value": b""}])

    def due(self) -> list[str]:
        """What was noted and is not done."""
        with self._database.read() as connection:
            keys = connection.execute(
                sa.select(_settings.c.key).where(_settings.c.key.startswith(self._prefix, autoescape=True))
            )
            return [key.removeprefix(self._prefix) for key in keys.scalars()]

    def begin(self, subject: str) -> None:
        """Does it beside, unless that goes on already. To be called when the note is committed."""
        if subject not in self._tried:
            self._tried[subject] = tried = asyncio.get_running_loop().create_future()
            job = self._jobs.insist(f"{self._kind} {subject}", partial(self._do, subject, tried))
            job.add_done_callback(lambda _: self._tried.pop(subject).cancel())  # no change when it was tried

    async def see_to(self, subject: str) -> None:
        """Waits until it is done. When it fails the caller sees why, and it is repeated beside until it is done."""
        self.begin(subject)
        await asyncio.shield(self._tried[subject])

    async def catch_up(self) -> None:
        """Begins all that is due, such as what an earlier server left. To be called now and then."""
        for subject in self.due():
            self.begin(subject)

    async def close(self) -> None:
        """Gives up what cannot be done now; the next server does it."""
        await self._jobs.close(patience=0.0)

    async def _do(self, subject: str, tried: asyncio.Future[None]) -> None:
        try:
            await self._work(subject)
            await self._database.write(lambda connection: self._strike_out(connection, subject))
        except Exception as error:
            if not tried.done():
                tried.set_exception(error)
                tried.exception()  # seen, for nobody may ask
            raise
        if not tried.done():
            tried.set_result(None)

    def _strike_out(self, connection: sa.Connection, subject: str) -> None:
        connection.execute(sa.delete(_settings).where(_settings.c.key == self._prefix + subject))

"""Objects that have a name in an environment, or none and live as long as heartbeats come: what dicts, queues and file systems share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from stoker.errors import AlreadyExists, InvalidArgument, NotFound
from stoker.ids import is_name, new_id
from stoker.services.environments.environments import Environments
from stoker.store.database import Change, Database

EPHEMERAL_LOST_AFTER = 960.0  # seconds; the client sends a heartbeat every 300 s

Forget = Callable[[sa.Connection, Sequence[str]], None]
"""Deletes what belongs to the objects of these ids, in the transaction that deletes the objects."""


class SignsOfLife:
    """When clients were last heard of, by a clock that neither leaps nor runs while the machine sleeps or the server is down: then no
    heartbeat could come, and what lives by them must not end for it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._heard: dict[str, float] = {}

    def heard(self, object_id: str) -> None:
        self._heard[object_id] = time.monotonic()

    def silence(self, object_id: str) -> float:
        """Seconds since the last sign, or since the server began."""
        return time.monotonic() - self._heard.get(object_id, self._began)

    def forget(self, object_id: str) -> None:
        self._heard.pop(object_id, None)


@dataclass
class Named:
    """`name` None for ephemeral ones, which have a `heartbeat_at`. Seconds since the epoch."""

    id: str
    environment_id: str
    name: str | None
    created_at: float
    heartbeat_at: float | None


class NamedObjects:
    """All objects of one kind, in memory, for nearly every RPC looks one up; `table` keeps them."""

    def __init__(
        self,
        *,
        database: Database,
        environments: Environments,
        table: sa.Table,
        prefix: str,
        noun: str,
        forget: Forget | None = None,
        on_deleted: Callable[[str], None] | None = None,
    ) -> None:
        """prefix: of the ids. noun: for messages; the client's command of that name makes such objects. on_deleted: called with each id."""
        self._database = database
        self._environments = environments
        self._table = table
        self._prefix = prefix
        self._noun = noun
        self._title = noun.upper() if noun == "nfs" else noun.capitalize()  # clients look for "Queue 'x' not found"
        self._forget = forget
        self._on_deleted = on_deleted
        self._signs = SignsOfLife()
        with database.read() as connection:
            rows = connection.execute(sa.select(table)).all()
        self._by_id = {row.id: Named(**row._asdict()) for row in rows}
        self._by_name = {(o.environment_id, o.name): o for o in self._by_id.values() if o.name is not None}
        environments.on_delete.append(self._delete_all)

    def get(self, object_id: str) -> Named:
        """Raises NotFound."""
        found = self._by_id.get(object_id)
        if found is None:
            raise NotFound(f"{self._title} {object_id!r} not found on this server; it may have been deleted.")
        return found

    def find(self, environment_id: str, name: str) -> Named:
        """The object of that name. Raises NotFound."""
        found = self._by_name.get((environment_id, name))
        if found is None:
            raise NotFound(
                f"{self._title} {name!r} not found in the environment {self._environments.get(environment_id).name!r}. "
                f"`modal {self._noun} list` shows those there are; `modal {self._noun} create {name}` or create_if_missing=True makes it."
            )
        return found

    async def create(self, environment_id: str, name: str, *, if_exists: str) -> tuple[Named, bool]:
        """A named object, and whether it is new. if_exists: "fail" (AlreadyExists), "keep" or "replace". Raises InvalidArgument."""
        if not is_name(name):
            raise InvalidArgument(
                f"{name!r} cannot name a {self._noun}: use 1 to 64 letters, digits, '-', '_' and '.'."
            )
        new = Named(new_id(self._prefix), environment_id, name, time.time(), None)

        def store(connection: sa.Connection) -> tuple[Named, Named | None]:
            """The object of that name, and the one that it replaces."""
            table = self._table
            query = sa.select(table).where(table.c.environment_id == environment_id, table.c.name == name)
            row = connection.execute(query).first()
            known = Named(**row._asdict()) if row is not None else None
            if known is not None and if_exists != "replace":
                return known, None
            if known is not None:
                self._remove(connection, [known.id])
            connection.execute(sa.insert(table), [asdict(new)])
            return new, known

        def then(stored: tuple[Named, Named | None]) -> None:
            found, replaced = stored
            if replaced is not None:
                self._removed([replaced.id])
            self._know(found)

        found = self._by_name.get((environment_id, name))
        if found is None or if_exists == "replace":
            found = (await self._database.write(Change(store, then)))[0]
        if found.id != new.id and if_exists == "fail":
            raise AlreadyExists(f"The {self._noun} {name!r} exists already. Choose another name, or delete it first.")
        return self._by_id.get(found.id, found), found.id == new.id

    async def create_ephemeral(self, environment_id: str) -> Named:
        """An object without a name that lives while heartbeats come."""
        now = time.time()
        new = Named(new_id(self._prefix), environment_id, None, now, now)
        self._signs.heard(new.id)
        work = partial(sa.Connection.execute, statement=sa.insert(self._table), parameters=[asdict(new)])
        await self._database.write(Change(work, lambda _: self._know(new)))
        return new

    async def heartbeat(self, object_id: str) -> None:
        """Raises NotFound."""
        found = self.get(object_id)
        if found.heartbeat_at is not None:
            self._signs.heard(object_id)
            statement = sa.update(self._table).where(self._table.c.id == object_id).values(heartbeat_at=time.time())
            await self._database.write(lambda connection: connection.execute(statement))

    async def delete(self, object_id: str) -> None:
        """Raises NotFound."""
        self.get(object_id)
        await self._delete([object_id])

    def named(self, environment_id: str, limit: int = 0, created_before: float = 0.0) -> list[Named]:
        """Those with a name, newest first. limit and created_before (seconds since the epoch): 0 for none."""
        found = [
            o
            for o in self._by_id.values()
            if o.environment_id == environment_id
            and o.name is not None
            and (not created_before or o.created_at < created_before)
        ]
        found.sort(key=lambda o: (-o.created_at, o.id))
        return found[:limit] if limit else found

    async def sweep(self) -> None:
        """Deletes ephemeral objects whose client is gone. To be called now and then."""
        ephemeral = [o.id for o in self._by_id.values() if o.heartbeat_at is not None]
        lost = [object_id for object_id in ephemeral if self._signs.silence(object_id) > EPHEMERAL_LOST_AFTER]
        if lost:
            await self._delete(lost)

    async def _delete_all(self, environment_id: str) -> None:
        doomed = [o.id for o in self._by_id.values() if o.environment_id == environment_id]
        if doomed:
            await self._delete(doomed)

    async def _delete(self, object_ids: Sequence[str]) -> None:
        work = partial(self._remove, object_ids=object_ids)
        await self._database.write(Change(work, lambda _: self._removed(object_ids)))

    def _remove(self, connection: sa.Connection, object_ids: Sequence[str]) -> None:
        connection.execute(sa.delete(self._table).where(self._table.c.id.in_(object_ids)))
        if self._forget is not None:
            self._forget(connection, object_ids)

    def _removed(self, object_ids: Sequence[str]) -> None:
        """Event: what `_remove` did is committed."""
        for object_id in object_ids:
            self._signs.forget(object_id)
            gone = self._by_id.pop(object_id, None)
            if gone is not None and self._by_name.get((gone.environment_id, gone.name or "")) is gone:
                del self._by_name[gone.environment_id, gone.name or ""]
            if self._on_deleted is not None:
                self._on_deleted(object_id)

    def _know(self, found: Named) -> None:
        known = self._by_id.setdefault(found.id, found)
        if known.name is not None:
            self._by_name[known.environment_id, known.name] = known


def named_rows(
    database: Database, table: sa.Table, environment_id: str, limit: int, created_before: float
) -> Sequence[sa.Row[Any]]:
    """The rows of a table that have a name in an environment, newest first. limit, created_before (seconds since the epoch): 0 for none."""
    columns = table.c
    query = sa.select(table).where(columns.environment_id == environment_id, columns.name.is_not(None))
    if created_before:
        query = query.where(columns.created_at < created_before)
    query = query.order_by(columns.created_at.desc(), columns.id)
    if limit:
        query = query.limit(limit)
    with database.read() as connection:
        return connection.execute(query).all()

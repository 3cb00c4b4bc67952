"""Dicts: keys and values that outlive apps. Both are opaque bytes; keys are equal when their bytes are."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from stoker.batches import batches
from stoker.errors import InvalidArgument, NotFound
from stoker.services.environments.environments import Environments
from stoker.services.environments.named import NamedObjects
from stoker.store import tables
from stoker.store.database import Database

MAX_KEY_BYTES = 1 << 20
MAX_VALUE_BYTES = 100 << 20
MAX_UPDATES = 10_000  # entries of one request
_PAGE_BYTES = 8 << 20
_PAGE_ENTRIES = 500

_KEEP_ANSWERS = 600.0  # seconds; the client gives up long before

_entries, _answers = tables.dict_entries, tables.dict_answers


class Dicts:
    """All dicts. An entry is stored before it is acknowledged, and stays until it is removed."""

    def __init__(self, *, database: Database, environments: Environments) -> None:
        self._database = database
        self.objects = NamedObjects(
            database=database,
            environments=environments,
            table=tables.dicts,
            prefix="di",
            noun="dict",
            forget=_forget,
        )

    def get(self, dict_id: str, key: bytes) -> bytes | None:
        """None when there is no such key. Raises NotFound for an unknown dict."""
        self.objects.get(dict_id)
        query = sa.select(_entries.c.value).where(_entries.c.dict_id == dict_id, _entries.c.digest == _digest(key))
        with self._database.read() as connection:
            value: bytes | None = connection.execute(query).scalar()
        return value

    def contains(self, dict_id: str, key: bytes) -> bool:
        """Raises NotFound."""
        self.objects.get(dict_id)
        query = sa.select(_entries.c.digest).where(_entries.c.dict_id == dict_id, _entries.c.digest == _digest(key))
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def length(self, dict_id: str) -> int:
        """Raises NotFound."""
        self.objects.get(dict_id)
        query = sa.select(sa.func.count()).where(_entries.c.dict_id == dict_id)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    async def update(
        self, dict_id: str, entries: Sequence[tuple[bytes, bytes]], *, if_absent: bool = False, request: str = ""
    ) -> bool:
        """Sets keys, or with `if_absent` only those that are not there; whether any was set.

        request: names an `if_absent`, for ten minutes and over a restart: a repeat changes nothing and gets the same answer. Raises NotFound
        or InvalidArgument."""
        self.objects.get(dict_id)
        _check(entries)
        rows = {_digest(key): {"key": key, "value": value} for key, value in entries}  # the last of equal keys counts

        def work(connection: sa.Connection) -> bytes | None:
            _check_there(connection, dict_id)  # it may have been deleted meanwhile
            fresh = dict(rows)
            for digests in batches(list(rows)):
                chosen = sa.and_(_entries.c.dict_id == dict_id, _entries.c.digest.in_(digests))
                if if_absent:
                    for digest in connection.execute(sa.select(_entries.c.digest).where(chosen)).scalars():
                        fresh.pop(digest)
                else:
                    connection.execute(sa.delete(_entries).where(chosen))
            if fresh:
                connection.execute(
                    sa.insert(_entries), [{"dict_id": dict_id, "digest": d, **row} for d, row in fresh.items()]
                )
            return b"set" if fresh else None

        return await self._database.write(_once(request if if_absent else "", work)) is not None

    async def pop(self, dict_id: str, key: bytes, *, request: str = "") -> bytes | None:
        """Removes a key; its value, or None when it was not there. request: as for `update`. Raises NotFound."""
        self.objects.get(dict_id)
        chosen = sa.and_(_entries.c.dict_id == dict_id, _entries.c.digest == _digest(key))

        def work(connection: sa.Connection) -> bytes | None:
            value: bytes | None = connection.execute(sa.select(_entries.c.value).where(chosen)).scalar()
            if value is not None:
                connection.execute(sa.delete(_entries).where(chosen))
            return value

        return await self._database.write(_once(request, work))

    async def sweep(self) -> None:
        """To be called now and then."""
        await self.objects.sweep()
        old = sa.delete(_answers).where(_answers.c.answered_at < time.time() - _KEEP_ANSWERS)
        await self._database.write(lambda connection: connection.execute(old))

    async def clear(self, dict_id: str) -> None:
        """Raises NotFound."""
        self.objects.get(dict_id)
        await self._database.write(lambda connection: _forget(connection, [dict_id]))

    async def contents(self, dict_id: str, after: bytes, *, values: bool) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """A page of entries as (key, value), values empty unless asked for, and where the next page begins ("" when there is none).

        Begin with `after` = b"". An entry that is there all the time is on exactly one page. Raises NotFound."""
        self.objects.get(dict_id)
        return await asyncio.to_thread(self._page, dict_id, after, values)

    def _page(self, dict_id: str, after: bytes, values: bool) -> tuple[list[tuple[bytes, bytes]], bytes]:
        size = sa.func.length(_entries.c.value)
        heads = (
            sa.select(_entries.c.digest, _entries.c.key, size.label("size"))
            .where(_entries.c.dict_id == dict_id, _entries.c.digest > after)
            .order_by(_entries.c.digest)
            .limit(_PAGE_ENTRIES)
        )
        with self._database.read() as connection:
            rows = connection.execute(heads).all()
            if not values:
                return [(row.key, b"") for row in rows], rows[-1].digest if len(rows) == _PAGE_ENTRIES else b""
            chosen = _within(rows, _PAGE_BYTES)
            query = (
                sa.select(_entries.c.key, _entries.c.value)
                .where(_entries.c.dict_id == dict_id, _entries.c.digest.in_([row.digest for row in chosen]))
                .order_by(_entries.c.digest)
            )
            page = [(row.key, row.value) for row in connection.execute(query)]
        more = len(chosen) < len(rows) or len(rows) == _PAGE_ENTRIES
        return page, chosen[-1].digest if more else b""


def _within(rows: Sequence[Any], limit: int) -> Sequence[Any]:
    """The first rows whose sizes add up to `limit` bytes, at least one."""
    total = 0
    for count, row in enumerate(rows):
        total += row.size
        if count and total > limit:
            return rows[:count]
    return rows


def _check(entries: Sequence[tuple[bytes, bytes]]) -> None:
    if len(entries) > MAX_UPDATES:
        raise InvalidArgument(
            f"One update of a dict may set {MAX_UPDATES} entries, and this one has {len(entries)}: send several."
        )
    for key, value in entries:
        if len(key) > MAX_KEY_BYTES:
            raise InvalidArgument(
                f"A key of a dict may have {MAX_KEY_BYTES >> 20} MiB, and this one has {len(key)} bytes."
            )
        if len(value) > MAX_VALUE_BYTES:
            raise InvalidArgument(
                f"A value of a dict may have {MAX_VALUE_BYTES >> 20} MiB, and this one has {len(value) >> 20}. "
                "Put it on a volume and keep its path in the dict."
            )


def _once(request: str, work: Callable[[sa.Connection], bytes | None]) -> Callable[[sa.Connection], bytes | None]:
    """Does the work and stores its answer in one transaction; when there is an answer already, that is all."""

    def once(connection: sa.Connection) -> bytes | None:
        name = _digest(request.encode("utf-8", "replace"))
        known = connection.execute(sa.select(_answers.c.value).where(_answers.c.request == name)).first()
        if known is not None:
            value: bytes | None = known.value
        else:
            value = work(connection)
            row = {"request": name, "answered_at": time.time(), "value": value}
            connection.execute(sa.insert(_answers), [row])
        return value

    return once if request else work


def _check_there(connection: sa.Connection, dict_id: str) -> None:
    if connection.execute(sa.select(tables.dicts.c.id).where(tables.dicts.c.id == dict_id)).first() is None:
        raise NotFound(f"Dict {dict_id!r} not found on this server; it may have been deleted.")


def _forget(connection: sa.Connection, dict_ids: Sequence[str]) -> None:
    connection.execute(sa.delete(_entries).where(_entries.c.dict_id.in_(dict_ids)))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

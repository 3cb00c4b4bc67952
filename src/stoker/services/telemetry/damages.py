"""What was found damaged on the disk: told once, remembered, and answered for until it is whole again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import sqlalchemy as sa
import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import Damaged
from stoker.store import tables
from stoker.store.database import Database

BLOB, FILE, VOLUME_FILE, SNAPSHOT, LAYER = "blob", "file", "volume file", "snapshot", "layer"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Damage:
    """`name` tells things of one kind apart; `detail` is a sentence. Seconds since the epoch."""

    id: str
    kind: str
    name: str
    detail: str
    found_at: float


class Damages:
    """All that is known of, in memory; `stoker fsck` reads it and strikes out what is whole again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # without a loop, for who only looks
            self._loop = asyncio.get_running_loop()
        self._jobs = Jobs("damages")
        with database.read() as connection:
            rows = connection.execute(sa.select(tables.damages)).all()
        self._known = {row.id: Damage(**row._asdict()) for row in rows}
        self.total = len(self._known)
        """How many were ever known to this server."""

    def __len__(self) -> int:
        return len(self._known)

    def all(self) -> list[Damage]:
        """Oldest first."""
        return sorted(self._known.values(), key=lambda damage: (damage.found_at, damage.id))

    def check(self, kind: str, name: str) -> None:
        """Raises Damaged for what is known to be damaged."""
        found = self._known.get(damage_id(kind, name)) if self._known else None
        if found is not None:
            raise Damaged(found.detail)

    def found(self, kind: str, name: str, detail: str) -> Damaged:
        """Notes a damage; the error to raise. `detail`: a sentence for the user, with what to do next. From any thread."""
        damage = Damage(damage_id(kind, name), kind, name, detail, time.time())
        if damage.id not in self._known:
            _log.error("found damaged", kind=kind, name=name, detail=detail)
            self._known[damage.id] = damage
            self.total += 1
            self._write(f"note a damaged {kind}", partial(store, damage=damage))
        return Damaged(detail)

    def whole(self, kind: str, name: str) -> None:
        """It was stored anew, or is gone. From any thread."""
        damage = self._known.pop(damage_id(kind, name), None)
        if damage is not None:
            self._write(f"strike out a {kind}", partial(forget, damage_id=damage.id))

    def gone(self, kind: str, place: str) -> None:
        """A thing was removed, with all whose names are below its own."""
        for damage in self.all():
            if damage.kind == kind and f"{damage.name}/".startswith(f"{place}/"):
                self.whole(kind, damage.name)

    async def close(self) -> None:
        await asyncio.sleep(0)  # what was just found
        await self._jobs.close(patience=5.0)

    def _write(self, name: str, work: Callable[[sa.Connection], None]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._jobs.insist, name, lambda: self._database.write(work))


def damage_id(kind: str, name: str) -> str:
    return hashlib.sha256(f"{kind}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()


def store(connection: sa.Connection, damage: Damage) -> None:
    forget(connection, damage.id)
    connection.execute(sa.insert(tables.damages), [asdict(damage)])


def forget(connection: sa.Connection, damage_id: str) -> None:
    connection.execute(sa.delete(tables.damages).where(tables.damages.c.id == damage_id))

"""Recorded traffic, from rows as finished calls leave them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from stoker.services.watch.traffic import Traffic
from stoker.store import tables
from stoker.store.database import Database


def test_the_newest_inputs_come_oldest_first_and_not_too_many(tmp_path: Path) -> None:
    async def body() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        try:
            await database.write(_fill)
            known: Any = SimpleNamespace(get=lambda _: _FOUND)
            traffic = Traffic(database=database, functions=known, apps=known)
            assert [r["arrived_at"] for r in await traffic.records(0, 100)] == [0, 1, 2, 3, 4]
            assert [r["arrived_at"] for r in await traffic.records(0, 100, most=2)] == [3, 4]
        finally:
            await database.close()

    asyncio.run(body())


_FOUND = SimpleNamespace(id="fu-1", app_id="ap-1", name="f", description="", binding=None, latest=None)


def _fill(connection: sa.Connection) -> None:
    call = {"id": "fc-1", "function_id": "fu-1", "app_id": "ap-1", "kind": "map", "invocation": 1, "created_at": 0.0}
    connection.execute(sa.insert(tables.calls), [call])
    for number in range(5):
        place = {"call_id": "fc-1", "idx": number}
        arrived = {"id": f"in-{number}", "payload": b"", "created_at": float(number)}
        ended = {"input_id": f"in-{number}", "seq": number, "result": b"", "status": 1, "started_at": number + 0.5}
        connection.execute(sa.insert(tables.inputs), [place | arrived])
        connection.execute(sa.insert(tables.outputs), [place | ended | {"created_at": number + 0.75}])

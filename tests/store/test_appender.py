"""Appended rows: all or none, whoever commits them, and the log they leave does not grow without end."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from stoker.store import appender, tables
from stoker.store.appender import Rows, append
from stoker.store.database import Database


def call(id: str) -> Rows:
    return tables.calls, [(id, "fu-1", "ap-1", "", "map", 4, False, 1.0, "")]


def inputs(call_id: str, count: int, payload: bytes = b"x") -> Rows:
    return tables.inputs, [(f"{call_id}-{n}", call_id, n, payload, 1.0, "") for n in range(count)]


def count(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        found: int = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    return found


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_a_bad_row_spoils_its_own_group_and_no_other(tmp_path: Path, synchronous: str) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db", synchronous=synchronous)
        await database.append(call("fc-taken"))
        results = await asyncio.gather(
            database.append(call("fc-a"), inputs("fc-a", 3)),
            database.append(inputs("fc-b", 3), call("fc-taken")),
            database.append(call("fc-c"), inputs("fc-c", 0)),
            return_exceptions=True,
        )
        assert [isinstance(r, Exception) for r in results] == [False, True, False]
        assert (count(database, tables.calls), count(database, tables.inputs)) == (3, 3)
        await database.close()

    asyncio.run(scenario())


def test_rows_wait_for_whoever_writes_just_now(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        appended = asyncio.ensure_future(database.append(call("fc-a")))
        await asyncio.wait([appended], timeout=0.3)
        assert not appended.done()
        other.execute("ROLLBACK")
        await asyncio.wait_for(appended, 30)
        assert count(database, tables.calls) == 1
        other.close()
        await database.close()

    asyncio.run(scenario())


def test_large_groups_are_stored_like_small_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        await asyncio.gather(
            database.append(inputs("fc-many", 5_000)), database.append(inputs("fc-heavy", 2, bytes(1 << 20)))
        )
        assert count(database, tables.inputs) == 5_002
        await database.close()

    asyncio.run(scenario())


def test_no_append_overtakes_an_earlier_one(tmp_path: Path) -> None:
    """Readers of outputs ask for all after the last they saw, so a later one that is stored first would hide an earlier one for ever."""

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        stored: list[int] = []

        async def append(number: int) -> None:
            # Every third goes to the writer for its size, the others to whoever is at hand.
            await database.append(inputs(f"fc-{number}", 2_000 if number % 3 == 0 else 1))
            stored.append(number)

        appends = []
        for number in range(60):
            appends.append(asyncio.ensure_future(append(number)))
            await asyncio.sleep(0.001 * (number % 2))
            if number % 7 == 0:
                appends.pop().cancel()  # its waiter leaves; the rows are stored all the same, and in their turn
        await asyncio.gather(*appends)
        assert stored == sorted(stored)
        with database.read() as connection:
            order = connection.execute(sa.text("SELECT DISTINCT call_id FROM inputs ORDER BY rowid")).scalars().all()
        numbers = [int(call_id.removeprefix("fc-")) for call_id in order]
        assert numbers == sorted(numbers)
        await database.close()

    asyncio.run(scenario())


def test_the_write_ahead_log_stays_small(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        for number in range(1_500):
            await database.append(inputs(f"fc-{number}", 1, bytes(8_000)))
        log = tmp_path / "db-wal"
        assert log.stat().st_size < 20 << 20, "1,500 commits leave over 30 MB when nothing moves them on"
        await database.close()

    asyncio.run(scenario())


def test_a_slow_disk_holds_up_the_event_loop_once_and_not_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_loop: list[str] = []

    def slow(connection: sqlite3.Connection, groups: list[Rows]) -> None:
        if threading.current_thread() is threading.main_thread():
            on_loop.extend(row[0] for _, rows in groups for row in rows)
            time.sleep(0.1)
        append(connection, groups)

    monkeypatch.setattr(appender, "append", slow)

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        for name in ("fc-a", "fc-b", "fc-c"):  # soon after each other
            await database.append(call(name))
        assert on_loop == ["fc-a"]
        await asyncio.sleep(1.0)
        await database.append(call("fc-d"))
        assert on_loop == ["fc-a", "fc-d"]
        assert count(database, tables.calls) == 4
        await database.close()

    asyncio.run(scenario())

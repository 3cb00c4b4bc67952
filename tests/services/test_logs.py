"""Logs: an app that is over costs no memory for ever, its log can be followed to its end all the same, and nobody misses an entry."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stoker.errors import ResourceExhausted, Unavailable
from stoker.services import logs as logs_service
from stoker.services.logs import LogFilter, Logs
from stoker.store import tables
from stoker.store.database import Database


async def hold_up(database: Database) -> tuple[asyncio.Future[None], threading.Event]:
    """The database stores nothing more before the event is set; the first is done then."""
    held, go_on = threading.Event(), threading.Event()

    def hold(connection: sa.Connection) -> None:
        held.set()
        assert go_on.wait(10)

    holding = asyncio.ensure_future(database.write(hold))
    await asyncio.to_thread(held.wait, 10)
    return holding, go_on


def test_the_log_of_an_app_that_is_over_is_forgotten_and_still_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_service, "_FORGET_AFTER", 0.0)

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        for number in range(3):
            logs.write("ap-1", 1, f"line {number}\n")
        first = logs.fetch("ap-1", LogFilter(), 10)[0].seq
        logs.finish("ap-1")
        await asyncio.sleep(0.01)
        assert not logs._apps, "its entries stay in memory"
        said = [
            entry.data if entry else None async for entry in logs.follow("ap-1", first, 5.0, LogFilter(), over=True)
        ]
        assert said == ["line 1\n", "line 2\n", None]
        await logs.close()
        await database.close()

    asyncio.run(scenario())


def test_a_follower_misses_nothing_after_a_server_that_was_killed(tmp_path: Path) -> None:
    async def seen_before() -> int:
        logs = Logs(Database.open(f"sqlite:///{tmp_path}/db"))
        for number in range(100):
            logs.write("ap-1", 1, f"line {number}\n")
        seen = 0
        async for entry in logs.follow("ap-1", 0, 0.0, LogFilter()):
            assert entry is not None
            seen = entry.seq
        return seen  # killed here, before the entries are stored

    async def after(seen: int) -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        logs.write("ap-1", 1, "new\n")
        said = [entry.data if entry else None async for entry in logs.follow("ap-1", seen, 0.0, LogFilter())]
        assert said == ["new\n"]
        await logs.close()
        await database.close()

    asyncio.run(after(asyncio.run(seen_before())))


def test_entries_that_are_being_stored_are_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        holding, go_on = await hold_up(database)
        logs.write("ap-1", 1, "first\n")
        storing = asyncio.ensure_future(logs._save())
        await asyncio.sleep(0)
        logs.write("ap-1", 1, "second\n")
        found = [[entry.data for entry in logs.fetch("ap-1", LogFilter(), 10)]]
        go_on.set()
        await asyncio.gather(holding, storing)
        found.append([entry.data for entry in logs.fetch("ap-1", LogFilter(), 10)])
        assert found == [["first\n", "second\n"]] * 2
        await logs.close()
        await database.close()

    asyncio.run(scenario())


def test_who_prints_faster_than_the_database_stores_is_held_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        holding, go_on = await hold_up(database)
        written = 0
        while (room := logs.room()) is None:
            logs.write("ap-1", 1, "x" * 65_536)
            written += 65_536
            await asyncio.sleep(0)
        assert written <= 5 << 20, "the memory of the server is the limit"
        await asyncio.sleep(0.3)
        assert not room.done()
        go_on.set()
        await asyncio.wait_for(room, 10)
        assert logs.room() is None
        await holding
        await logs.close()
        assert sum(len(e.data) for e in logs.fetch("ap-1", LogFilter(), 1_000)) == written
        await database.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("over", [False, True])
def test_a_follower_who_is_too_slow_for_what_is_in_memory_misses_nothing(tmp_path: Path, over: bool) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        logs.write("ap-1", 1, "the first\n")
        first = logs.fetch("ap-1", LogFilter(), 1)[0].seq
        for number in range(7_000):
            logs.write("ap-1", 1, f"{number}\n")
            logs.write("ap-2", 1, "another's\n")
            if number % 1_000 == 0:
                await asyncio.sleep(0.25)  # some are stored, some not yet
        logs.finish("ap-1")
        if over:
            await logs.close()
            logs = Logs(database)
        seen = [
            entry.data if entry else None async for entry in logs.follow("ap-1", first, 5.0, LogFilter(), over=over)
        ]
        assert seen == [*(f"{number}\n" for number in range(7_000)), None]
        await logs.close()
        await database.close()

    asyncio.run(scenario())


def test_large_entries_do_not_pile_up_in_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        for _ in range(1_000):
            logs.write("ap-1", 1, "x" * 65_536)
            if (room := logs.room()) is not None:
                await room
        assert sum(len(e.data) for e in logs._apps["ap-1"].entries) <= 8 << 20
        await logs.close()
        await database.close()

    asyncio.run(scenario())


def test_what_could_not_be_stored_is_counted_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_service, "_PATIENCE", (3, 0.01))

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        insert, refused = database.insert, 0

        async def refuse(*_: object, **__: object) -> None:
            nonlocal refused
            refused += 1
            raise Unavailable("The database is away.")

        monkeypatch.setattr(database, "insert", refuse)
        logs.write("ap-1", 1, "x" * 1_000)
        await logs._save(tries=3)
        assert refused == 3, "it is not tried again"
        monkeypatch.setattr(database, "insert", insert)
        logs.write("ap-1", 1, "later\n")
        await logs.close()
        assert [e.data for e in Logs(database).fetch("ap-1", LogFilter(), 10)] == [
            "later\n",
            "[1000 characters of output before this line were lost: The database is away.]\n",
        ]
        await database.close()

    asyncio.run(scenario())


def test_entries_wait_while_none_can_be_stored_and_are_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_service, "_FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(logs_service, "_PATIENCE", (60, 0.05))

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs, write = Logs(database), database.write
        failures: list[Exception] = [Unavailable("away"), ResourceExhausted("full"), Unavailable("away")]
        tried = asyncio.Event()

        async def sometimes(work: Any) -> Any:
            if failures:
                tried.set()
                error = failures.pop(0)
                if len(failures) == 1:
                    await write(work)  # stored, though nobody hears of it
                raise error
            return await write(work)

        monkeypatch.setattr(database, "write", sometimes)
        logs.write("ap-1", 1, "first\n")
        await tried.wait()
        logs.write("ap-1", 1, "second\n")
        assert [entry.data for entry in logs.fetch("ap-1", LogFilter(), 10)] == ["first\n", "second\n"]
        while logs._saving is not None:
            await asyncio.wait([logs._saving])
        assert stored(database) == ["first\n", "second\n"] and logs._unsaved_size == 0

        failures += [Unavailable("away")]
        tried.clear()
        logs.write("ap-1", 1, "third\n")
        await tried.wait()
        await logs.close()
        assert stored(database) == ["first\n", "second\n", "third\n"], (
            "what waits for its next try is stored at the end"
        )
        await database.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_entry_that_can_never_be_stored_holds_up_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        for number in range(5):
            logs.write("ap-1", 1, "\ud800" if number == 3 else f"{number}\n")  # half of a pair, which is no text
        await logs.close()
        assert stored(database) == ["0\n", "1\n", "2\n", "4\n"]
        await database.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def stored(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(sa.select(tables.logs.c.data).order_by(tables.logs.c.seq)).scalars())

"""The database: migrations say what the tables say, changes are grouped, and one bad change spoils no other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import event

from stoker.errors import Damaged, FailedPrecondition, ResourceExhausted, Unavailable
from stoker.services.telemetry.logs import LogFilter, Logs
from stoker.store import database as database_module
from stoker.store import tables
from stoker.store.database import Database
from tests.disks import small_disk


def test_the_migrations_make_exactly_the_tables(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/db")
    with database.engine.connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), tables.metadata)
    assert difference == [], "write a migration in store/migrations/versions for this"


def check_that_data_of_version_0004_is_taken_over(url: str) -> None:
    """As an earlier server left it: with calls and log entries."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(database_module._MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        connection.execute(
            sa.text(
                "INSERT INTO calls (id, function_id, app_id, parent_input_id, kind, invocation, cancelled, created_at) "
                "VALUES ('fc-1', 'fu', 'ap', 'in-1', 'map', 1, :cancelled, 1.0)"
            ).bindparams(cancelled=False)
        )
        connection.execute(
            sa.text(
                "INSERT INTO logs (seq, app_id, function_id, task_id, input_id, fd, data, timestamp) "
                "VALUES (7, 'ap', '', '', '', 1, :data, 1.0)"
            ).bindparams(data="old\n")
        )
    engine.dispose()

    async def look() -> None:
        database = Database.open(url)
        logs = Logs(database)
        logs.write("ap", 1, "new\n")
        await logs.close()
        assert [entry.data for entry in logs.fetch("ap", LogFilter(), 10)] == ["old\n", "new\n"]
        query = sa.select(tables.calls.c.id, tables.calls.c.caller_app_id)
        with database.read() as connection:
            in_1 = query.where(tables.calls.c.parent_input_id.in_(["in-1"]))
            assert connection.execute(in_1).all() == [("fc-1", "")]
        indexed = [index["column_names"] for index in sa.inspect(database.engine).get_indexes("calls")]
        assert ["parent_input_id"] in indexed
        await database.close()

    asyncio.run(look())


def test_data_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    check_that_data_of_version_0004_is_taken_over(f"sqlite:///{tmp_path}/db")


def test_the_calls_that_an_input_made_are_found_by_an_index(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/db")
    query = sa.select(tables.calls.c.id).where(tables.calls.c.parent_input_id.in_(["in-1", "in-2"]))
    with database.read() as connection:
        text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    assert "USING INDEX ix_calls_parent_input_id" in str(plan)
    asyncio.run(database.close())


def setting(key: str) -> dict[str, object]:
    return {"key": key, "value": b"x"}


def test_one_bad_change_spoils_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        await database.insert(tables.settings, [setting("taken")])
        results = await asyncio.gather(
            *(database.insert(tables.settings, [setting(key)]) for key in ("a", "taken", "b")),
            database.write(lambda connection: connection.execute(sa.text("nonsense"))),
            database.insert(tables.settings, [setting("c")]),
            database.insert(tables.settings, []),
            return_exceptions=True,
        )
        assert [isinstance(r, Exception) for r in results] == [False, True, False, True, False, False]
        with database.read() as connection:
            keys = connection.execute(sa.select(tables.settings.c.key)).scalars().all()
        assert sorted(keys) == ["a", "b", "c", "taken"]
        await database.close()

    asyncio.run(scenario())


def test_what_was_acknowledged_is_there_after_reopening(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        await asyncio.gather(*(database.insert(tables.settings, [setting(str(n))]) for n in range(500)))
        # No close: as if the process had been killed here.
        again = Database.open(f"sqlite:///{tmp_path}/db")
        with again.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(tables.settings)).scalar() == 500
        await again.close()
        await database.close()

    asyncio.run(scenario())


def test_writers_of_a_closed_loop_do_not_break_the_writer(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/db")

    async def forgotten() -> None:
        task = asyncio.ensure_future(database.insert(tables.settings, [setting("late")]))
        await asyncio.sleep(0)
        task.cancel()

    async def after() -> None:
        await asyncio.wait_for(database.insert(tables.settings, [setting("fine")]), 5)
        await database.close()

    asyncio.run(forgotten())
    asyncio.run(after())


def test_a_change_that_reads_first_is_not_refused_for_rows_appended_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        loop = asyncio.get_running_loop()
        has_read, may_write = threading.Event(), threading.Event()

        def change(connection: sa.Connection) -> None:
            connection.execute(sa.select(tables.settings.c.key)).all()
            has_read.set()
            assert may_write.wait(10)
            connection.execute(sa.insert(tables.settings), [setting("a")])

        changed = asyncio.ensure_future(database.write(change))
        await asyncio.to_thread(has_read.wait, 10)
        appended = asyncio.ensure_future(
            database.append((tables.calls, [("fc-1", "fu-1", "ap-1", "", "map", 4, False, 1.0, "")]))
        )
        loop.call_soon(lambda: loop.call_soon(may_write.set))  # when the appended rows have been tried
        await asyncio.wait_for(asyncio.gather(changed, appended), 30)
        await database.close()

    asyncio.run(scenario())


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _spoil(path: Path, start: int, end: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * (end - start))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_bytes(b"nonsense " * 1_000),
    "cut": _cut,
    "head": lambda path: _spoil(path, 0, 16),
    "schema": lambda path: _spoil(path, 100, 4096),
    "pages": lambda path: _spoil(path, 4096, path.stat().st_size),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_told_in_a_sentence(tmp_path: Path, damage: str) -> None:
    url, path = f"sqlite:///{tmp_path}/db", tmp_path / "db"
    asyncio.run(Database.open(url).close())
    DAMAGES[damage](path)
    with pytest.raises(Damaged, match=r"The database .*/db is damaged .* Restore it .* from a backup"):
        Database.open(url)


def test_a_page_that_turns_out_damaged_later_is_told_as_such(tmp_path: Path) -> None:
    """Not as a defect that clients would try again."""
    path = tmp_path / "db"

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{path}")
        await database.write(
            lambda c: c.execute(
                sa.insert(tables.settings), [{"key": f"k{n}", "value": bytes(3_000)} for n in range(50)]
            )
        )
        await database.close()
        with sqlite3.connect(path) as connection:
            [root] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'settings'").fetchone()
        _spoil(path, (root - 1) * 4096, root * 4096)
        database = Database.open(f"sqlite:///{path}")
        with pytest.raises(Damaged, match="stoker fsck"), database.read() as connection:
            connection.execute(sa.select(tables.settings)).all()
        with pytest.raises(Damaged, match="stoker fsck"):
            await database.write(lambda c: c.execute(sa.delete(tables.settings)))
        await database.close()

    asyncio.run(scenario())


def test_a_database_that_is_locked_for_long_is_told_as_such_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who wait are told at the same time, and not one after the other."""
    monkeypatch.setattr(database_module, "_BUSY", 300)
    tries: list[str] = []

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        event.listen(database.engine, "begin", lambda _: tries.append("begin"))
        with contextlib.closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writes = [database.insert(tables.settings, [setting(str(n))]) for n in range(50)]
            appends = [database.append((tables.calls, [call(str(n))])) for n in range(50)]
            results = await asyncio.gather(*writes, *appends, return_exceptions=True)
            assert {type(result) for result in results} == {Unavailable}
            assert "does not answer (database is locked)" in str(results[0])
            assert len(tries) < 5
        await database.insert(tables.settings, [setting("after")])
        await database.append((tables.calls, [call("after")]))
        await database.close()

    asyncio.run(scenario())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python says the reason since 3.11")
def test_a_file_that_may_not_grow_is_no_damage(tmp_path: Path) -> None:
    """A quota and a limit for files make writes short, then refuse them."""

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        with largest_file(200_000):
            with pytest.raises(ResourceExhausted, match="disk does not take what is written") as told:
                await database.insert(tables.settings, [{"key": "large", "value": bytes(1 << 20)}])
            assert told.value.retry_after > 0
            with pytest.raises(ResourceExhausted, match="disk does not take what is written"):
                await database.append(
                    *[(tables.inputs, [(f"in-{n}", "fc-1", n, bytes(100_000), 1.0, "")]) for n in range(9)]
                )
        await database.insert(tables.settings, [{"key": "large", "value": bytes(1 << 20)}])
        with database.read() as connection:
            assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
        await database.close()

    asyncio.run(scenario())


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """This process can write no file beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small disk is made by mount, as root on Linux"
)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python says the reason since 3.11")
def test_a_database_opened_on_a_full_disk_is_not_damaged(tmp_path: Path) -> None:
    """SQLite's index of the log finds no room, before anything is written."""
    with small_disk(tmp_path / "small", 4) as disk:
        url = f"sqlite:///{disk}/db"
        asyncio.run(Database.open(url).close())
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(FailedPrecondition, match=r"cannot be opened: .* is full"):
            Database.open(url)
        (disk / "ballast").unlink()
        asyncio.run(Database.open(url).close())


def call(id: str) -> tuple[object, ...]:
    return (id, "fu-1", "ap-1", "", "map", 4, False, 1.0, "")


def test_a_database_of_a_newer_version_is_told_as_such(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/db"
    asyncio.run(Database.open(url).close())
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FailedPrecondition, match="newer version of Stoker"):
        Database.open(url)

"""The same tables and the same server on PostgreSQL: a private cluster, started for these tests as a user that is not root."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

from stoker.errors import ResourceExhausted, StokerError, Unavailable
from stoker.store import tables
from stoker.store.database import Change, Database
from tests import postgresql
from tests.conftest import start_server, stop_server
from tests.postgresql import Cluster
from tests.store.test_database import check_that_data_of_version_0004_is_taken_over

pytestmark = pytest.mark.skipif(not postgresql.is_there(), reason=postgresql.MISSING)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgresql.running() as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster) -> str:
    """A database of the test's own."""
    return cluster.new_database()


def test_the_migrations_make_exactly_the_tables(url: str) -> None:
    database = Database.open(url)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    asyncio.run(database.close())


def test_data_of_an_earlier_version_is_taken_over(url: str) -> None:
    check_that_data_of_version_0004_is_taken_over(url)


def test_one_bad_change_spoils_no_other(url: str) -> None:
    async def scenario() -> None:
        database = Database.open(url)
        await database.insert(tables.settings, [setting("taken")])
        results = await asyncio.gather(
            *(database.insert(tables.settings, [setting(key)]) for key in ("a", "taken", "b")),
            database.write(lambda connection: connection.execute(sa.text("nonsense"))),
            database.insert(tables.settings, [setting("c")]),
            return_exceptions=True,
        )
        assert [isinstance(r, Exception) for r in results] == [False, True, False, True, False]
        with database.read() as connection:
            keys = connection.execute(sa.select(tables.settings.c.key)).scalars().all()
        assert sorted(keys) == ["a", "b", "c", "taken"]
        await database.close()

    asyncio.run(scenario())


END_ALL = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def keys_of(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(sa.select(tables.settings.c.key)).scalars())


def end_all_connections(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.execute(END_ALL)
    engine.dispose()


def setting(key: str) -> dict[str, object]:
    return {"key": key, "value": b"x"}


def test_connections_lost_between_requests_are_made_anew(url: str) -> None:
    async def scenario() -> None:
        database = Database.open(url)
        await database.insert(tables.settings, [setting("before")])
        assert keys_of(database) == ["before"]
        end_all_connections(url)
        assert keys_of(database) == ["before"]
        end_all_connections(url)
        await database.insert(tables.settings, [setting("after")])
        assert keys_of(database) == ["after", "before"]
        await database.close()

    asyncio.run(scenario())


def test_a_change_whose_commit_is_lost_is_not_done_twice(url: str) -> None:
    async def scenario() -> None:
        database = Database.open(url)
        done = 0

        def change(connection: sa.Connection) -> None:
            nonlocal done
            done += 1
            connection.execute(sa.insert(tables.settings), [setting(f"change {done}")])

        event.listen(database.engine, "commit", lambda connection: end_all_connections(url), once=True)
        results = await asyncio.gather(database.write(change), database.write(change), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable, Unavailable] and done == 2
        await database.write(change)
        assert keys_of(database) == ["change 3"]
        await database.close()

    asyncio.run(scenario())


def test_memory_follows_a_commit_whose_answer_was_lost(url: str) -> None:
    """The caller cannot know, and the database does: what is in memory must not stay behind."""

    async def scenario() -> None:
        database = Database.open(url)
        memory: list[str] = []
        followed = asyncio.Event()

        def change(key: str) -> Change[None]:
            def work(connection: sa.Connection) -> None:
                connection.execute(sa.insert(tables.settings), [setting(key)])

            def then(_: None) -> None:
                memory.append(key)
                followed.set()

            return Change(work, then)

        event.listen(database.engine, "commit", lambda connection: _commit_and_lose(connection, url), once=True)
        with pytest.raises(Unavailable):
            await database.write(change("arrived"))
        await followed.wait()  # by itself, though nobody writes
        event.listen(database.engine, "commit", lambda connection: end_all_connections(url), once=True)
        with pytest.raises(Unavailable):
            await database.write(change("did not arrive"))
        await database.write(change("after"))
        assert memory == ["arrived", "after"] and keys_of(database) == ["after", "arrived"]
        await database.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def _commit_and_lose(connection: sa.Connection, url: str) -> None:
    """The commit arrives, and its answer does not."""
    driver: Any = connection.connection.driver_connection
    driver.commit()
    driver.execute("SELECT 1")  # so that there is something to commit
    end_all_connections(url)


def test_rows_whose_commit_was_lost_on_its_way_back_can_be_appended_again(url: str) -> None:
    call = ("fc-1", "fu-1", "ap-1", "", "map", 4, False, 1.0, "")

    async def scenario() -> None:
        database = Database.open(url)
        first, second = (tables.calls, [call]), (tables.inputs, [("in-1", "fc-1", 0, b"x", 1.0, "")])
        await database.append(first)
        await database.append(first, second)
        with database.read() as connection:
            assert connection.execute(sa.select(tables.inputs.c.id)).scalars().all() == ["in-1"]
        await database.close()

    asyncio.run(scenario())


def test_a_database_that_is_away_is_told_as_such_and_found_again(url: str, cluster: Cluster) -> None:
    async def scenario() -> None:
        database = Database.open(url)
        cluster.stop()
        try:
            writes = [database.insert(tables.settings, [setting(key)]) for key in ("a", "b")]
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert [type(result) for result in results] == [Unavailable, Unavailable]
            assert "database does not answer" in str(results[0]) and "INSERT" not in str(results[0])
            with pytest.raises(Unavailable, match="does not answer"):
                keys_of(database)
        finally:
            cluster.start()
        await database.insert(tables.settings, [setting("after")])
        assert keys_of(database) == ["after"]
        await database.close()

    asyncio.run(scenario())


def test_a_full_disk_of_the_database_is_told_as_such(url: str) -> None:
    full = "DO $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left' USING ERRCODE = 'disk_full'; END $$"

    async def scenario() -> None:
        database = Database.open(url)
        with pytest.raises(ResourceExhausted, match="disk of the server's database is full") as told:
            await database.write(lambda connection: connection.execute(sa.text(full)))
        assert told.value.retry_after > 0
        await database.close()

    asyncio.run(scenario())


PROGRAM = """
import io, modal
app = modal.App("on-postgresql")
volume = modal.Volume.from_name("v", create_if_missing=True)
secret = modal.Secret.from_dict({"WORD": "sesame"})
d = modal.Dict.from_name("d", create_if_missing=True)
q = modal.Queue.from_name("q", create_if_missing=True)

@app.function(serialized=True, secrets=[secret])
def square(x):
    import os
    return x * x, os.environ["WORD"]

with app.run():
    assert list(square.map(range(50))) == [(x * x, "sesame") for x in range(50)]
    assert square.spawn(9).get() == (81, "sesame")
    d["key"] = {"value": 1}
    assert d["key"] == {"value": 1} and d.len() == 1 and list(d.keys()) == ["key"]
    q.put_many([1, 2, 3])
    q.put("other", partition="p")
    assert q.get_many(2) == [1, 2] and q.len() == 1 and q.get(partition="p") == "other"
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"content"), "f")
    assert b"".join(volume.read_file("f")) == b"content"
print("all of it")
"""


def test_a_whole_server(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_DATABASE_URL", url)
    server = start_server(tmp_path / "data", "process")
    try:
        assert "all of it" in server.python(PROGRAM).stdout
        server.modal("deploy", "basics.py")
        assert "basics" in server.modal("app", "list").stdout
        server.modal("app", "history", "basics")
        server.modal("environment", "create", "staging")
        server.modal("volume", "rename", "--yes", "v", "w")
        stop_server(server)
        server = start_server(tmp_path / "data", "process")  # finds everything again
        assert "w" in server.modal("volume", "list").stdout and "staging" in server.modal("environment", "list").stdout
        assert not (server.data / "stoker.db").exists()
    finally:
        stop_server(server)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [("postgresql://nobody@127.0.0.1:1/x", "does not answer"), ("nonsense", "database_url cannot be used")],
)
def test_a_database_that_cannot_be_used_is_told_in_a_sentence(wrong: str, sentence: str) -> None:
    with pytest.raises(StokerError, match=sentence):
        Database.open(wrong)

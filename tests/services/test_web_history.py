"""The lines of history that web requests leave, when the database takes them and when it does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from stoker.errors import Unavailable
from stoker.services.calls import web_history
from stoker.services.calls.call_records import WEB, Call, Output
from stoker.services.calls.web_history import WebHistory
from stoker.store import tables
from stoker.store.appender import Rows
from stoker.store.database import Database


def request(number: int) -> Call:
    call = Call(f"fc-{number}", "fu-x", "ap-x", WEB, 0, 100.0 + number)
    call.outputs = [Output(f"in-{number}", call.id, 0, 1, b"what was answered", 3, 1, "ta-x", 101.0, 102.0)]
    return call


def test_lines_are_written_when_the_database_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_history, "_TRY_AGAIN", 0.01)

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        append, away = database.append, asyncio.Event()

        async def refuse(*rows: Rows) -> None:
            away.set()
            raise Unavailable("The database is away.")

        monkeypatch.setattr(database, "append", refuse)
        history = WebHistory(database)
        for number in range(250):
            history.add(request(number))
        await away.wait()
        monkeypatch.setattr(database, "append", append)
        await history.close()
        with database.read() as connection:
            [ended] = connection.execute(sa.select(tables.outputs).where(tables.outputs.c.call_id == "fc-7")).all()
            assert connection.execute(sa.select(sa.func.count()).select_from(tables.inputs)).scalar() == 250
        assert (ended.status, ended.task_id, ended.started_at, ended.result) == (1, "ta-x", 101.0, b"")
        await database.close()

    asyncio.run(scenario())


def test_a_database_that_stays_away_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_history, "_MOST_WAITING", 30)

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        history = WebHistory(database)
        for number in range(100):
            history.add(request(number))
        await history.close()
        with database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(tables.calls)).scalar() == 30
        await database.close()

    asyncio.run(scenario())

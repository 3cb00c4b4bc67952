"""Logs: an app that is over costs no memory for ever, and its log can be followed to its end all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stoker.services import logs as logs_service
from stoker.services.logs import LogFilter, Logs
from stoker.store.database import Database


def test_the_log_of_an_app_that_is_over_is_forgotten_and_still_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_service, "_FORGET_AFTER", 0.0)

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        logs = Logs(database)
        for number in range(3):
            logs.write("ap-1", 1, f"line {number}\n")
        logs.finish("ap-1")
        await asyncio.sleep(0.01)
        assert not logs._apps, "its entries stay in memory"
        said = [entry.data if entry else None async for entry in logs.follow("ap-1", 1, 5.0, LogFilter(), over=True)]
        assert said == ["line 1\n", "line 2\n", None]
        await logs.close()
        await database.close()

    asyncio.run(scenario())

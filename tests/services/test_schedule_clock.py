"""Schedules on a machine whose clock was wrong, or whose disk was full."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from stoker.core.schedules import Cron, next_run
from stoker.errors import ResourceExhausted, Unavailable
from stoker.protocol.wire import ModalWire
from stoker.services.calls import schedules as schedules_module
from stoker.services.calls.schedules import Plan, Schedules
from stoker.services.telemetry.logs import LogFilter, Logs
from stoker.store import tables
from stoker.store.appender import Rows
from tests.services.world import World, run_for, world

_HOUR = 3600.0


def schedules_of(it: World) -> Schedules:
    return Schedules(
        apps=it.apps, functions=it.functions, calls=it.calls, logs=Logs(it.database), wire=ModalWire(), catch_up=_HOUR
    )


def test_a_schedule_goes_on_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            schedules = schedules_of(it)
            right, wrong = 1_800_000_000.0, 2_000_000_000.0
            hourly = Cron("0 * * * *")
            plan = Plan("ap-1", "fu-1", hourly, right - 1.0, next_run(hourly, right - 1.0, wrong))
            schedules._plans["ap-1"] = [plan]
            monkeypatch.setattr(schedules_module, "time", SimpleNamespace(time=lambda: right))
            schedules._alarm()
            assert plan.next_at is not None and right < plan.next_at <= right + _HOUR
            await asyncio.wait_for(schedules.close(), 5.0)

    run_for(10, scenario())


@pytest.mark.parametrize(
    "failure", [ResourceExhausted("The disk is full."), Unavailable("The database is away."), OSError("a defect")]
)
def test_a_run_that_met_a_full_disk_begins_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(schedules_module, "_TRY_AGAIN", 0.0)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            function_id = await it.a_function()
            app_id = it.functions.get(function_id).app_id
            schedules, now = schedules_of(it), time.time()
            hourly = Cron("0 * * * *")
            plan = Plan(app_id, function_id, hourly, now, now)
            schedules._plans[app_id] = [plan]
            append, failures = it.database.append, iter([failure] * 3)

            async def full(*rows: Rows) -> None:
                error = next(failures, None)
                if error is not None:
                    raise error
                await append(*rows)

            monkeypatch.setattr(it.database, "append", full)
            schedules._run(plan, now)
            await it.launcher.started.wait()
            assert plan.last_at == now
            said = [entry.data for entry in schedules._logs.fetch(app_id, LogFilter(), 10)]
            assert said == [f"The scheduled run of f could not begin and is tried again: {failure}\n"]
            with it.database.read() as connection:
                assert len(connection.execute(sa.select(tables.calls.c.id)).all()) == 1
            await schedules.close()

    run_for(10, scenario())


def test_a_run_that_could_not_begin_gives_way_to_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            schedules, begun = schedules_of(it), list[float]()
            plan = Plan("ap-1", "fu-1", Cron("0 * * * *"), 0.0, None, last_at=2.0)
            schedules._plans["ap-1"] = [plan]
            schedules._run = lambda plan, moment, again=False: begun.append(moment)  # type: ignore[method-assign]
            schedules._run_again(plan, 1.0)
            schedules._run_again(plan, 2.0)
            schedules.forget("ap-1")
            schedules._run_again(plan, 2.0)
            assert begun == [2.0]
            await schedules.close()

    run_for(10, scenario())

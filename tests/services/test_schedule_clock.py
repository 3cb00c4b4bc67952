"""Schedules on a machine whose clock was wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from stoker.core.schedules import Cron, next_run
from stoker.protocol.wire import ModalWire
from stoker.services import schedules as schedules_module
from stoker.services.logs import Logs
from stoker.services.schedules import Plan, Schedules
from tests.services.world import run_for, world

_HOUR = 3600.0


def test_a_schedule_goes_on_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            schedules = Schedules(
                apps=it.apps,
                functions=it.functions,
                calls=it.calls,
                logs=Logs(it.database),
                wire=ModalWire(),
                catch_up=_HOUR,
            )
            right, wrong = 1_800_000_000.0, 2_000_000_000.0
            hourly = Cron("0 * * * *")
            plan = Plan("ap-1", "fu-1", hourly, right - 1.0, next_run(hourly, right - 1.0, wrong))
            schedules._plans["ap-1"] = [plan]
            monkeypatch.setattr(schedules_module, "time", SimpleNamespace(time=lambda: right))
            schedules._alarm()
            assert plan.next_at is not None and right < plan.next_at <= right + _HOUR
            await asyncio.wait_for(schedules.close(), 5.0)

    run_for(10, scenario())

"""What goes wrong in a pool is in the server's log, with its story."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from stoker.services.containers.task import Delivery
from stoker.services.pools import runner as runner_module
from stoker.services.pools.pool_faults import BROKEN, checked_pool
from tests.services.world import World, run_for, world


def test_an_input_that_loses_its_containers_is_told_of_with_its_story(tmp_path: Path) -> None:
    """Each container dies of it, until it is given up."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(1)
            with capture_logs() as log:
                died = [await _die(it) for _ in range(3)]
            [told] = [entry for entry in log if entry["event"] == "an input is given up"]
            assert told["call"] == call.id and told["log_level"] == "warning"
            lost = [step for step in told["story"] if "is lost with its container" in step]
            assert [next(i for i in died if i in step) for step in lost] == died
            assert told["story"][-1].endswith("ends: lost")

    run_for(60, scenario())


async def _die(it: World) -> str:
    """The next container gets the input and dies."""
    await it.launcher.started.wait()
    it.launcher.started.clear()
    task = it.launcher.tasks[-1]
    await it.scheduler.next_inputs(task.id, 1)
    assert task.job is not None
    await task.kill()  # nobody of the server asked for it
    await asyncio.wait([task.job])
    return task.id


def test_a_delivery_that_never_arrives_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(poll: asyncio.Future[Delivery], seconds: float) -> None:
        assert poll.done()
        raise asyncio.CancelledError  # as the wire does when the container's connection is gone

    async def scenario() -> None:
        async with world(tmp_path) as it:
            await it.a_map(1)
            [task] = it.launcher.tasks
            monkeypatch.setattr(runner_module, "settled", breaks)
            with capture_logs() as log:
                for _ in range(10):
                    with pytest.raises(asyncio.CancelledError):
                        await it.scheduler.next_inputs(task.id, 1)
            told = [entry for entry in log if entry["event"] == "an input is given back often"]
            assert [entry["times"] for entry in told] == [10]
            assert sum("is given back" in step for step in told[0]["story"]) == 10

    run_for(60, scenario())


def test_books_that_do_not_agree_are_told_of_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.scheduler._make_pool = checked_pool
            call = await it.a_map(3)
            runner: Any = it.scheduler.runner(call.function_id)
            lost = next(iter(runner.pool.waiting))
            del runner.pool.waiting[lost]
            with capture_logs() as log:
                await it.report(await it.next_input())
                await it.report(await it.next_input())
            [told] = [entry for entry in log if entry["event"] == BROKEN]
            assert told["log_level"] == "error" and told["function"] == call.function_id
            assert told["violations"][0] == f"{lost} is nowhere"
            assert any(step.endswith(f"{lost} waits") for step in told["story"])

    run_for(60, scenario())

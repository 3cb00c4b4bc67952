"""Containers that are called off or late while they are launched: nothing of them stays."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stoker.aio import jobs
from stoker.core.autoscaler import ScalingSettings
from stoker.engine.base import Never, NotNow
from stoker.errors import FailedPrecondition, Unavailable
from stoker.services.apps.apps import STOPPED
from stoker.services.containers.endings import Ending
from stoker.services.containers.task import Task
from stoker.services.containers.task_records import TaskRecords
from stoker.services.functions.spec import Function
from stoker.services.pools import runner as runner_module
from stoker.store import tables
from stoker.store.database import Database
from tests.services.world import SUCCESS, Starts, World, run_for, world


class SlowStarts(Starts):
    """Starts containers when the test says so; cleans up for a while after a launch that was called off."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.cleaning, self.clean = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.cleaned = self.landed = False

    async def launch(self, function: Function, task: Task) -> None:
        self.begin(task)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cleaning.set()
            await self.clean.wait()
            self.cleaned = True
            raise
        self.node.launch(task)

    async def clean_up(self, task: Task) -> None:
        await asyncio.sleep(0)
        self.landed = True


async def slow_world(directory: Path, use: Callable[[World, SlowStarts], Awaitable[None]]) -> None:
    async with world(directory) as it:
        it.launcher = starts = SlowStarts()
        it.scheduler._launcher = starts
        await use(it, starts)


def test_a_launch_that_is_called_off_twice_cleans_up_to_its_end(tmp_path: Path) -> None:
    async def use(it: World, starts: SlowStarts) -> None:
        call = await it.a_map(1)
        runner = it.scheduler.runner(call.function_id)
        assert runner is not None
        [task] = starts.tasks
        runner.kill(task.id, "first")
        await starts.cleaning.wait()
        runner.kill(task.id, "second")
        await asyncio.sleep(0)
        starts.clean.set()
        assert task.job is not None
        await asyncio.wait([task.job])
        assert starts.cleaned and starts.landed
        assert task.id not in runner.tasks and task.id not in runner.pool.containers

    run_for(10, slow_world(tmp_path, use))


def test_a_container_that_is_called_off_before_its_launch_began_is_gone(tmp_path: Path) -> None:
    async def use(it: World, starts: SlowStarts) -> None:
        call = await it.a_map(1)
        runner = it.scheduler.runner(call.function_id)
        assert runner is not None
        runner._start()
        late = list(runner.tasks.values())[-1]
        runner.kill(late.id, "at once")
        assert late.job is not None
        await asyncio.wait([late.job])
        assert late.id not in runner.tasks and late.id not in runner.pool.containers
        starts.clean.set()

    run_for(10, slow_world(tmp_path, use))


def test_a_container_whose_launch_outlasts_the_startup_timeout_is_ended(tmp_path: Path) -> None:
    async def use(it: World, starts: SlowStarts) -> None:
        call = await it.a_map(1)
        runner = it.scheduler.runner(call.function_id)
        assert runner is not None
        [task] = starts.tasks
        runner._fail_slow_start(task.id, 1.0)
        starts.clean.set()
        assert task.job is not None
        await asyncio.wait([task.job])  # though the launch would never end by itself
        assert "start-up timeout" in task.detail and starts.cleaned

    run_for(10, slow_world(tmp_path, use))


class OneStarts(Starts):
    """Starts a single container; the others fail in a way that another try would meet again."""

    async def launch(self, function: Function, task: Task) -> NotNow | Never | None:
        if self.tasks:
            raise FailedPrecondition("There is something wrong with it.")
        return await super().launch(function, task)


def test_a_start_that_fails_fails_no_input_that_a_running_container_can_serve(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.launcher = starts = OneStarts()
            it.scheduler._launcher = starts
            call = await it.a_map(3)
            await it.report(await it.next_input())
            runner = it.scheduler.runner(call.function_id)
            assert runner is not None
            runner._start()
            second = list(runner.tasks.values())[-1]
            assert second.job is not None
            await asyncio.wait([second.job])
            for _ in range(2):
                await it.report(await it.next_input())
            outputs, unfinished = await it.calls.outputs(call.id, 0, 0.0)
            assert [output.status for output in outputs] == [SUCCESS] * 3 and unfinished == 0

    run_for(10, scenario())


def test_no_container_starts_for_an_app_that_is_over(tmp_path: Path) -> None:
    async def use(it: World, starts: SlowStarts) -> None:
        starts.clean.set()
        call = await it.a_map(1)
        await it.scheduler.stop_app(call.app_id, drain=False)
        it.apps.get(call.app_id).state = STOPPED
        it.functions.get(call.function_id).scaling_override = ScalingSettings(min_containers=1)
        with pytest.raises(FailedPrecondition, match="stopped"):
            it.scheduler.rescale(call.function_id)
        assert it.scheduler.runner(call.function_id) is None

    run_for(10, slow_world(tmp_path, use))


def test_a_container_that_does_not_exit_after_its_last_input_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_GRACE", 0.01)

    async def use(it: World, starts: SlowStarts) -> None:
        starts.go.set()
        call = await it.a_map(1)
        runner = it.scheduler.runner(call.function_id)
        assert runner is not None
        runner.pool.settings = dataclasses.replace(runner.pool.settings, max_inputs_per_container=1)
        [task] = starts.tasks
        await it.report(await it.next_input())
        assert task.job is not None
        ended, _ = await asyncio.wait([task.job], timeout=3.0)
        assert ended

    run_for(10, slow_world(tmp_path, use))


def test_a_container_that_could_not_be_killed_is_killed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds what others wait for."""
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", 0.01)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            await it.a_map(1)
            await it.next_input()
            [task], tries = it.launcher.tasks, [OSError("no process can be started"), ZeroDivisionError("a defect")]
            assert task.job is not None
            kill = it.launcher.node.kill

            async def sometimes(task_id: str) -> None:
                if tries:
                    raise tries.pop()
                await kill(task_id)

            it.launcher.node.kill = sometimes  # type: ignore[method-assign]
            it.scheduler.stop_task(task.id, graceful=False)
            runner = it.scheduler.runner(task.function_id)
            assert runner is not None
            runner.kill(task.id, "It is in the way.")
            await asyncio.wait([task.job])
            assert not tries and task.id not in runner.tasks

    run_for(20, scenario())


def test_inputs_go_back_though_not_everything_of_their_container_could_be_given_back(tmp_path: Path) -> None:
    class Untidy(Starts):
        async def clean_up(self, task: Task) -> None:
            raise ZeroDivisionError("a defect")

    async def scenario() -> None:
        it = World(Database.open(f"sqlite:///{tmp_path}/db"), Untidy())
        call = await it.a_map(1)
        first = await it.next_input()
        [task] = it.launcher.tasks
        it.launcher.started.clear()
        await task.kill()
        await it.launcher.started.wait()
        delivery = await it.scheduler.next_inputs(it.launcher.tasks[1].id, 1)
        assert [input_id for input_id, _ in delivery.inputs] == [first]
        await it.calls.cancel(call.id, terminate_containers=True)
        await it.scheduler.close(0.0)
        await it.calls.close()
        await it.database.close()

    run_for(20, scenario())


def test_the_newest_that_is_known_of_a_container_is_stored_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", 0.01)

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        records, failures, write = TaskRecords(database), [Unavailable("away")] * 2, database.write

        async def sometimes(work: Any) -> Any:
            if failures:
                raise failures.pop()
            return await write(work)

        monkeypatch.setattr(database, "write", sometimes)
        task = Task("ta-1", "fu-1", "ap-1", "de-1", enqueued_at=1.0)
        records.keep(task)
        await asyncio.sleep(0)
        task.started_at, task.ending, task.detail = 2.0, Ending.CRASHED, "It exited."
        records.keep(task, 3.0)
        await records.close()
        with database.read() as connection:
            [row] = connection.execute(sa.select(tables.tasks)).all()
        assert (row.started_at, row.finished_at, row.exit, row.detail) == (2.0, 3.0, "crashed", "It exited.")
        await database.close()

    run_for(20, scenario())

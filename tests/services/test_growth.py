"""What a function gets when the machine is busy or full, and its containers wait for others: through the real scheduler, without containers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from modal_proto import api_pb2

from stoker.core.autoscaler import ScalingSettings
from stoker.engine.base import GpuRequest, Never, NotNow, ResourceRequest
from stoker.engine.gpus import declared_gpus
from stoker.engine.local import local_engine
from stoker.protocol.containers import ContainerServicer
from stoker.rpc.methods import Caller
from stoker.services.calls.call_records import Call
from stoker.services.containers.identity import ContainerIdentity
from stoker.services.containers.task import Task
from stoker.services.functions.spec import Function
from stoker.services.pools import notices, runner, scheduler
from stoker.services.pools.runner import Runner
from tests.services.world import Starts, World, run_for, world


class Busy(Starts):
    """A machine whose processors are busy; what its log says, and when the next container starts."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.full = ""  # why nothing fits
        self.refused = 0
        self.waited = 0.0  # seconds, as the machine says when nothing fits
        self._changed = asyncio.Event()

    def start_slots(self) -> int:
        return 0

    async def launch(self, function: Function, task: Task) -> NotNow | Never | None:
        self._changed.set()
        if self.full:
            self.refused += 1
            return NotNow(self.full, {"gpu:H100": 1}, self.waited)
        return await super().launch(function, task)

    def say(self, task: Task, text: str) -> None:
        self.said.append(text)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Something that follows a launch or a line in the log."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_started(self, count: int) -> None:
        await self.until(lambda: len(self.tasks) >= count)


async def a_call(
    it: World, launcher: Starts, spec: dict[str, Any], scaling: ScalingSettings, inputs: int
) -> tuple[Runner, Call]:
    """A map of a function whose definition says that."""
    it.launcher = launcher
    it.scheduler._launcher = launcher
    function_id = await it.a_function()
    function = it.functions.get(function_id)
    assert function.current is not None
    function.current = dataclasses.replace(
        function.current, spec=dataclasses.replace(function.current.spec, scaling=scaling, **spec)
    )
    call, _ = await it.calls.start(function_id, "map", 1, "", [(n, b"x") for n in range(inputs)], spawned=False)
    await launcher.started.wait()
    found = it.scheduler.runner(function_id)
    assert found is not None
    return found, call


def test_a_function_with_a_gpu_does_not_wait_for_busy_processors(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            launcher = Busy()
            wants = {"resources": ResourceRequest(gpus=(GpuRequest("H100"),))}
            await a_call(it, launcher, wants, ScalingSettings(), 3)
            for number in range(3):
                await launcher.until_started(number + 1)
                assert len((await it.scheduler.next_inputs(launcher.tasks[number].id, 1)).inputs) == 1
            assert all(task.overcommit for task in launcher.tasks)

    run_for(20, scenario())


def test_what_grows_on_busy_processors_gets_what_is_not_promised_to_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            launcher = Busy()
            await a_call(it, launcher, {}, ScalingSettings(), 2)
            await it.scheduler.next_inputs(launcher.tasks[0].id, 1)
            await launcher.until_started(2)
            first, second = launcher.tasks
            assert first.overcommit and not second.overcommit

    run_for(20, scenario())


def test_a_nested_call_gets_a_container_at_once_and_goes_first(tmp_path: Path) -> None:
    """Also while the processors are busy; and whoever starts it knows who waits for it."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            launcher = Busy()
            function, _ = await a_call(it, launcher, {}, ScalingSettings(), 2)
            parent = launcher.tasks[0].id
            [(parent_input, _)] = (await it.scheduler.next_inputs(parent, 1)).inputs
            function_id = function.function.id
            child, [item] = await it.calls.start(
                function_id, "unary", 1, parent_input, [(0, b"x")], spawned=False, task_id=parent
            )
            assert child.callers == {function_id}
            waits = asyncio.ensure_future(it.calls.outputs(child.id, 0, 30.0, task_id=parent))
            await launcher.until_started(2)
            assert launcher.tasks[1].overcommit and set(launcher.tasks[1].awaited_by) == {parent}
            [(first, _)] = (await it.scheduler.next_inputs(launcher.tasks[1].id, 1)).inputs
            assert first == item.id, "not the one that waited longer"
            waits.cancel()
            await asyncio.wait([waits])
            assert not function.awaited_by and not function.pool.containers[parent].waits

    run_for(20, scenario())


def test_a_thread_that_knows_no_input_is_known_by_its_container(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            launcher = Busy()
            function, _ = await a_call(it, launcher, {}, ScalingSettings(), 1)
            parent = launcher.tasks[0].id
            await it.scheduler.next_inputs(parent, 1)
            child, _ = await it.calls.start(
                function.function.id, "unary", 1, "", [(0, b"x")], spawned=False, task_id=parent
            )
            assert child.callers == {function.function.id}
            waits = asyncio.ensure_future(it.calls.outputs(child.id, 0, 30.0, task_id=parent))
            await launcher.until_started(2)
            waits.cancel()

    run_for(20, scenario())


def test_calls_that_wait_for_each_other_are_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_STUCK_FOR", 0.0)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            launcher = Busy()
            function, _ = await a_call(it, launcher, {}, ScalingSettings(max_containers=1), 2)
            task_id = launcher.tasks[0].id
            await it.scheduler.next_inputs(task_id, 1)
            function.block(task_id, "a thread")
            for _ in range(4):
                function._rescale()
            [said] = launcher.said
            assert "all that max_containers allows (1) wait for the results of other calls" in said

    run_for(20, scenario())


def test_starts_that_fail_end_the_inputs_that_nobody_serves(tmp_path: Path) -> None:
    """The one container that is up waits for those very inputs."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            launcher = Busy()
            function, call = await a_call(it, launcher, {}, ScalingSettings(), 2)
            parent = launcher.tasks[0].id
            await it.scheduler.next_inputs(parent, 1)
            function.block(parent, "a thread")
            await launcher.until_started(2)
            launcher.tasks[1].init_result = (b"broken", 2)
            function.kill(launcher.tasks[1].id, "")
            launcher.tasks[1].stopping = False  # it ended by itself
            outputs, _ = await it.calls.outputs(call.id, 0, 10.0)
            assert [output.result for output in outputs] == [b"broken"]

    run_for(20, scenario())


def test_who_calls_again_and_again_does_not_keep_its_container_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle for a moment whenever somebody looks, it is neither idle enough nor busy."""
    monkeypatch.setattr(scheduler, "_LEAST_IDLE", 1_000.0)
    monkeypatch.setattr(runner, "_LOOK_FOR_ROOM", 0.01)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            launcher = Busy()
            engine = it.scheduler._engine = local_engine(declared_gpus("H100:1"))
            holder, _ = await a_call(it, launcher, {}, ScalingSettings(), 1)
            [idle] = launcher.tasks
            await engine.reserve(idle.id, ResourceRequest(gpus=(GpuRequest("H100"),)), holder.function.id)
            [(input_id, _)] = (await it.scheduler.next_inputs(idle.id, 1)).inputs
            await it.report(input_id)
            launcher.full = "H100 are in use by other containers"
            await it.calls.start(await it.a_function(), "unary", 1, "", [(0, b"x")], spawned=False)
            await launcher.until(lambda: launcher.refused == 5)
            assert not idle.stopping, "others have not waited long enough for what is in use"
            launcher.waited = 1_000.0
            await launcher.until(lambda: idle.stopping)
            assert any("make room" in text for text in launcher.said)

    run_for(20, scenario())


def test_a_lack_of_room_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOOK_FOR_ROOM", 0.01)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            launcher = Busy()
            it.launcher = it.scheduler._launcher = launcher  # type: ignore[assignment]
            launcher.full = "there is no room"
            await it.calls.start(await it.a_function(), "unary", 1, "", [(0, b"x")], spawned=False)
            await launcher.until(lambda: launcher.refused == 5)
            assert launcher.said == ["Waiting for resources: there is no room.\n"]

    run_for(20, scenario())


def test_an_input_that_ended_on_its_way_leaves_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between hand-over and answer; no output of it will ever come."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            await it.a_map(2)
            nobody: Any = None
            servicer = ContainerServicer(
                calls=it.calls, scheduler=it.scheduler, checkpoints=nobody, history=nobody, heartbeats=nobody
            )
            [task] = it.launcher.tasks
            caller = Caller(ContainerIdentity(task.id, task.function_id, task.app_id))
            monkeypatch.setattr(it.calls, "find_input", lambda input_id: None)
            answer = await servicer.get_inputs(api_pb2.FunctionGetInputsRequest(), caller)
            assert not answer.inputs
            monkeypatch.undo()
            assert await it.next_input()

    run_for(20, scenario())


def test_a_canary_that_is_called_off_keeps_its_target_to_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            scaling = ScalingSettings(min_containers=1, target_inputs=5, predictive=True)
            function, _ = await a_call(it, Busy(), {}, scaling, 1)
            it.scheduler.retire([function.function.id])
            assert function.function.scaling == ScalingSettings(target_inputs=5, scaledown_window=0.0)

    run_for(20, scenario())

"""A container that falls silent is looked at; only one that cannot go on ends, and its input runs elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stoker.services.pools import heartbeats as service
from stoker.services.pools.heartbeats import Heartbeats
from tests.services.world import Idle, Starts, World, world

SILENCE = 0.3


class Frozen(Idle):
    """Tells what its runtime would."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why
        self.asked = asyncio.Event()

    async def stuck(self, task_id: str, timeout: float) -> str:
        self.asked.set()
        return self.why


class Speaking(Starts):
    def __init__(self, why: str) -> None:
        super().__init__()
        self.node: Frozen = Frozen(why)
        self.said: list[str] = []

    def say(self, task: object, text: str) -> None:
        self.said.append(text)


@asynccontextmanager
async def running(path: Path, why: str) -> AsyncIterator[tuple[World, Speaking, Heartbeats, str]]:
    """A container that runs an input, has given one sign of life, and whose runtime says `why` it is stuck."""
    launcher = Speaking(why)
    async with world(path, launcher) as it:
        heartbeats = Heartbeats(it.scheduler, launcher, lost_after=SILENCE)
        await it.a_map(1)
        input_id = await it.next_input()
        heartbeats.beat(launcher.tasks[0].id)
        yield it, launcher, heartbeats, input_id
        await heartbeats.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_QUEUE", 0.05)
    monkeypatch.setattr(service, "_LONG", 2 * SILENCE)


async def second_container(launcher: Speaking) -> None:
    while len(launcher.tasks) < 2:
        launcher.started.clear()
        await asyncio.wait_for(launcher.started.wait(), 20)


def test_a_stuck_container_ends_and_its_input_runs_elsewhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, "its process x is stopped") as (it, launcher, _, input_id):
            await second_container(launcher)
            assert "gave no sign of life" in launcher.said[0] and "its process x is stopped" in launcher.said[0]
            delivery = await it.scheduler.next_inputs(launcher.tasks[1].id, 1)
            assert [i for i, _ in delivery.inputs] == [input_id]

    asyncio.run(scenario())


def test_a_busy_container_lives_and_its_silence_is_told_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, "") as (_, launcher, _, _):
            await asyncio.sleep(6 * SILENCE)
            assert launcher.node.asked.is_set() and len(launcher.tasks) == 1
            assert len(launcher.said) == 1 and "its processes run" in launcher.said[0]

    asyncio.run(scenario())


def test_a_container_that_speaks_is_not_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, "its sandbox does not answer") as (_, launcher, heartbeats, _):
            for _ in range(20):
                heartbeats.beat(launcher.tasks[0].id)
                await asyncio.sleep(SILENCE / 5)
            assert len(launcher.tasks) == 1

    asyncio.run(scenario())


def test_what_came_while_the_server_could_not_look_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_QUEUE", 1.0)

    async def scenario() -> None:
        async with running(tmp_path, "its sandbox does not answer") as (_, launcher, heartbeats, _):
            await asyncio.sleep(SILENCE + 0.1)
            for _ in range(40):
                heartbeats.beat(launcher.tasks[0].id)
                await asyncio.sleep(SILENCE / 10)
            assert not launcher.node.asked.is_set()

    asyncio.run(scenario())


def test_one_that_shall_end_may_fall_silent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, "its sandbox does not answer") as (it, launcher, _, _):
            it.scheduler.stop_task(launcher.tasks[0].id, graceful=True)
            await asyncio.sleep(3 * SILENCE)
            assert not launcher.node.asked.is_set()

    asyncio.run(scenario())

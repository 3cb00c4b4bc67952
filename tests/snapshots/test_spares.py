"""Which function has a sandbox made ahead of time, and when it goes: the service on real snapshots, with a node that only takes notes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import FailedPrecondition
from stoker.nodes.builds import ImageConfig
from stoker.nodes.messages import ContainerRequest
from stoker.services.containers import spares
from stoker.services.containers.snapshots import SnapshotUse
from stoker.services.containers.spares import Spares
from tests.snapshots.test_policy import House

Body = Callable[["Place"], Awaitable[None]]


class Notes:
    """A node whose sandboxes are names in `made`."""

    def __init__(self) -> None:
        self.made: dict[str, ContainerRequest] = {}
        self.able, self.fails = True, False
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def containers(self) -> Notes:
        return self

    async def prepare(self, request: ContainerRequest) -> bool:
        await self.gate.wait()
        if self.fails:
            raise FailedPrecondition("No room.")
        if self.able:
            self.made[request.task_id] = request
        return self.able

    async def discard(self, task_id: str) -> None:
        self.made.pop(task_id, None)


class Place:
    def __init__(self, house: House, most: int) -> None:
        self.house, self.node = house, Notes()
        node: Any = self.node
        self.spares = Spares(snapshots=house.snapshots, node=node, most=most, is_idle=lambda: True)

    async def started(self, function_id: str, use: SnapshotUse | None = None, task_id: str = "") -> SnapshotUse:
        """A container of the function is up, and all that follows from it has happened."""
        use = use or await self.house.make(function_id, function=function_id)
        task_id = task_id or f"ta-{function_id}"
        self.spares.starting(_request(task_id, function_id), use)
        self.spares.up(task_id)
        await self.settled()
        return use

    async def settled(self) -> None:
        while self.spares._jobs:
            await asyncio.wait(self.spares._jobs)


def _request(task_id: str, function_id: str) -> ContainerRequest:
    return ContainerRequest(task_id, "im-1", ImageConfig(), "1.6.4", b"", "main", function_id=function_id)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(spares, "_SETTLE", 0.0)

    def start(body: Body, most: int = 2) -> None:
        async def all_() -> None:
            house = House(tmp_path)
            await house.open()
            place = Place(house, most)
            await body(place)
            await place.spares.close()
            assert not place.node.made, "something was left"
            await house.snapshots.close()
            await house.database.close()

        asyncio.run(all_())

    return start


def test_the_next_start_takes_it_and_the_one_after_finds_another(run: Callable[..., None]) -> None:
    async def body(place: Place) -> None:
        assert place.spares.task_id("fu-1") != place.spares.task_id("fu-1")
        use = await place.started("fu-1")
        ((task_id, request),) = place.node.made.items()
        assert request.restore_from == use.snapshot_id and request.task_id == task_id
        assert place.spares.task_id("fu-2") != task_id
        assert place.spares.task_id("fu-1") == task_id != place.spares.task_id("fu-1")
        await place.started("fu-1", use, task_id)
        assert len(place.node.made) == 2
        await place.spares.gone(task_id)
        assert task_id not in place.node.made and place.spares.count == 1

    run(body)


def test_there_are_as_many_as_there_were_containers_at_once(run: Callable[..., None]) -> None:
    async def body(place: Place) -> None:
        use = await place.started("fu-1", task_id="ta-0")
        for n in range(1, 7):
            await place.started("fu-1", use, f"ta-{n}")
            assert place.spares.count == len(place.node.made) == min(n + 1, 4)
        taken = [place.spares.task_id("fu-1") for _ in range(5)]
        assert len(place.node.made.keys() & set(taken)) == 4 and place.spares.count == 0
        for task_id in taken:
            await place.spares.gone(task_id)
        for n in range(1, 7):
            await place.spares.gone(f"ta-{n}")
        for _ in range(3):
            await place.started("fu-1", use, "ta-0")
        assert place.spares.count == 1, "only one container is left"

    run(body, most=8)


def test_a_start_that_failed_is_followed_by_starts_without(run: Callable[..., None]) -> None:
    async def body(place: Place) -> None:
        use = await place.started("fu-1")
        task_id = place.spares.task_id("fu-1")
        assert place.spares.was_offered(task_id) and not place.spares.was_offered("ta-fu-1")
        place.spares.distrust(use.snapshot_id)
        await place.spares.gone(task_id)
        await place.started("fu-1", use, "ta-2")
        assert not place.node.made
        await place.started("fu-1", await place.house.make("another", function="fu-1"), "ta-3")
        assert place.node.made, "another snapshot may do better"

    run(body)


def test_the_least_recently_used_function_gives_way(run: Callable[..., None]) -> None:
    async def body(place: Place) -> None:
        await place.started("fu-1")
        await place.started("fu-2")
        place.spares.up("ta-fu-1")
        await place.started("fu-3")
        assert {request.function_id for request in place.node.made.values()} == {"fu-1", "fu-3"}

    run(body)


@pytest.mark.parametrize("how", ["removed", "ended", "removed while it is made", "ended while it is made"])
def test_it_goes_with_its_snapshot_and_its_function(run: Callable[..., None], how: str) -> None:
    async def body(place: Place) -> None:
        use = await place.house.make("fu-1", function="fu-1")
        if "while" in how:
            place.node.gate.clear()
            place.spares.starting(_request("ta-1", "fu-1"), use)
            place.spares.up("ta-1")
            await asyncio.sleep(0.02)
        else:
            await place.started("fu-1", use)
            assert place.node.made
        if "removed" in how:
            place.house.snapshots.remove(use.snapshot_id)
            assert place.house.snapshots.directory(use.snapshot_id).is_dir(), "its files are in use"
        else:
            place.spares.drop("fu-1")
        place.node.gate.set()
        await place.settled()
        assert not place.node.made and place.spares.count == 0
        assert await place.house.files() == (set() if "removed" in how else {use.snapshot_id})

    run(body)


@pytest.mark.parametrize("why", ["unable", "failed", "none allowed", "snapshot gone"])
def test_what_cannot_be_prepared_keeps_nothing(run: Callable[..., None], why: str) -> None:
    async def body(place: Place) -> None:
        use = await place.house.make("fu-1", function="fu-1")
        place.node.able, place.node.fails = why != "unable", why == "failed"
        if why == "snapshot gone":
            place.house.snapshots.remove(use.snapshot_id)
        await place.started("fu-1", use)
        assert not place.node.made and place.spares.count == 0
        if why != "snapshot gone":
            place.house.snapshots.remove(use.snapshot_id)
        assert await place.house.files() == set(), "nothing holds the snapshot"

    run(body, most=0 if why == "none allowed" else 2)

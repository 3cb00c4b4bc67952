"""Who makes a snapshot, who starts from it, and when it goes: the service on a real database and real files, without sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from stoker.aio import jobs
from stoker.errors import NotFound, Unavailable
from stoker.nodes.builds import ImageConfig
from stoker.nodes.messages import ContainerRequest
from stoker.services.containers import bases, checkpoints
from stoker.services.containers.snapshots import CREATING, DROPPED, FAILED, MAX_FAILURES, READY, Snapshots, SnapshotUse
from stoker.services.containers.task import Task
from stoker.store.database import Database

Body = Callable[["House"], Awaitable[None]]


class House:
    """The service on one data directory; opened again by `again`, as after a restart of the server."""

    def __init__(self, path: Path, quota: int = 1 << 40) -> None:
        self.path, self.quota = path, quota
        self.alive = {"ap-1"}
        self.directory = path / "snapshots"
        self.directory.mkdir(exist_ok=True)

    async def open(self) -> None:
        self.database = Database.open(f"sqlite:///{self.path}/db")
        self.snapshots = Snapshots(
            database=self.database,
            directory=self.directory,
            quota_bytes=self.quota,
            is_alive=lambda app_id: app_id in self.alive,
        )
        await self.snapshots.load()

    async def again(self) -> None:
        await self.snapshots.close()
        await self.database.close()
        await self.open()

    def choose(
        self, key: str = "k", task: str = "ta-1", definition: str = "de-1", function: str = "fu-1"
    ) -> SnapshotUse | None:
        return self.snapshots.choose(key, "ap-1", function, definition, task)

    async def make(self, key: str = "k", size: int = 1, **changes: str) -> SnapshotUse:
        """A complete snapshot, whose maker has ended."""
        use = self.choose(key, "ta-maker", **changes)
        assert use is not None and not use.restores
        self.snapshots.scratch(use.snapshot_id).mkdir()
        await self.snapshots.created(use, size)
        self.snapshots.release(use, "ta-maker")
        return use

    async def files(self) -> set[str]:
        await self.snapshots.close()
        return {path.name for path in self.directory.iterdir()}


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    def start(body: Body) -> None:
        async def all_() -> None:
            house = House(tmp_path)
            await house.open()
            await body(house)
            await house.snapshots.close()
            await house.database.close()

        asyncio.run(all_())

    return start


def test_one_makes_it_the_others_meanwhile_do_without(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        first = house.choose(task="ta-1")
        assert first is not None and not first.restores
        assert house.choose(task="ta-2") is None
        house.snapshots.scratch(first.snapshot_id).mkdir()
        await house.snapshots.created(first, 5)
        later = house.choose(task="ta-3")
        assert later is not None and later.restores and house.snapshots.directory(later.snapshot_id).is_dir()
        house.snapshots.started(later, 0.25)
        await house.again()
        (row,) = house.snapshots.all()
        assert (row.state, row.size, row.hits, row.restore_seconds) == (READY, 5, 1, [0.25])
        after = house.choose(task="ta-4")
        assert after is not None and after.restores

    run(body)


def test_its_row_is_stored_in_the_end_as_it_is_then(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be stored at first must not come after what was stored later."""
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", 0.01)

    async def body(house: House) -> None:
        write, failures = house.database.write, [Unavailable("away")] * 3

        async def sometimes(work: Any) -> Any:
            if failures:
                raise failures.pop()
            return await write(work)

        monkeypatch.setattr(house.database, "write", sometimes)
        await house.make(size=5)
        gone = await house.make("other", function="fu-2")
        house.snapshots.remove(gone.snapshot_id)
        monkeypatch.undo()
        await house.again()
        (row,) = house.snapshots.all()
        assert (row.state, row.size) == (READY, 5)

    run(body)


def test_a_maker_that_ends_early_leaves_the_task_to_the_next(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        first = house.choose(task="ta-1")
        assert first is not None
        house.snapshots.release(first, "ta-1")
        second = house.choose(task="ta-2")
        assert second is not None and not second.restores and second.snapshot_id != first.snapshot_id

    run(body)


def test_a_failed_start_is_followed_by_one_without_and_three_in_a_row_drop_it(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        await house.make()
        for number in range(MAX_FAILURES):
            use = house.choose(task=f"ta-{number}")
            assert use is not None and use.restores
            house.snapshots.release(use, f"ta-{number}")
            house.snapshots.not_started(use, f"broken {number}")
            assert house.choose(task="ta-fallback") is None
        (row,) = house.snapshots.all()
        assert (row.state, row.reason, row.all_failures) == (DROPPED, "broken 2", MAX_FAILURES)
        assert await house.files() == set()
        await house.again()
        assert house.choose(task="ta-9") is None, "not made again before a deployment"
        fresh = house.choose(task="ta-10", definition="de-2")
        assert fresh is not None and not fresh.restores
        assert [s.state for s in house.snapshots.all()] == [CREATING]

    run(body)


def test_a_success_forgives_earlier_failures(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        await house.make()
        for _ in range(5):
            use = house.choose()
            assert use is not None
            house.snapshots.not_started(use, "broken")
            assert house.choose() is None
            use = house.choose()
            assert use is not None
            house.snapshots.started(use, 0.1)
        (row,) = house.snapshots.all()
        assert (row.state, row.failures, row.all_failures) == (READY, 0, 5)

    run(body)


def test_what_cannot_be_saved_is_given_up(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        for number in range(MAX_FAILURES):
            use = house.choose(task=f"ta-{number}")
            assert use is not None and not use.restores
            house.snapshots.scratch(use.snapshot_id).mkdir()
            house.snapshots.not_created(use, "it holds a GPU")
            assert house.snapshots.saving_failed(use)
            house.snapshots.release(use, f"ta-{number}")
            assert house.snapshots.all()[0].state == (FAILED if number + 1 < MAX_FAILURES else DROPPED)
        assert house.choose() is None
        assert await house.files() == set()

    run(body)


def test_files_in_use_stay_until_their_last_container_ends(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        use = await house.make()
        first, second = house.choose(task="ta-1"), house.choose(task="ta-2")
        assert first is not None and second is not None
        house.snapshots.remove(use.snapshot_id)
        with pytest.raises(NotFound):
            house.snapshots.get(use.snapshot_id)
        fresh = await house.make()
        house.snapshots.release(first, "ta-1")
        assert await house.files() == {use.snapshot_id, fresh.snapshot_id}
        house.snapshots.release(second, "ta-2")
        assert await house.files() == {fresh.snapshot_id}

    run(body)


def test_a_deployment_replaces_the_snapshots_of_its_function_only(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        await house.make("old")
        other = await house.make("other", function="fu-2")
        new = await house.make("new", definition="de-2")
        assert {s.id for s in house.snapshots.all()} == {other.snapshot_id, new.snapshot_id}
        assert await house.files() == {other.snapshot_id, new.snapshot_id}

    run(body)


def test_the_least_recently_used_go_beyond_the_quota(run: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(house: House) -> None:
        house.quota = 10
        await house.again()
        first = await house.make("a", 4, function="fu-a")
        second = await house.make("b", 4, function="fu-b")
        assert house.choose("a", function="fu-a") is not None  # now the second is the older one
        third = await house.make("c", 4, function="fu-c")
        assert {s.id for s in house.snapshots.all()} == {first.snapshot_id, third.snapshot_id}
        assert second.snapshot_id not in await house.files()

    run(body)


def test_one_that_is_larger_than_the_quota_is_not_made_again_and_again(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        house.quota = 10
        await house.again()
        small = await house.make("small", 4, function="fu-1")
        large = house.choose("large", function="fu-2")
        assert large is not None
        house.snapshots.scratch(large.snapshot_id).mkdir()
        await house.snapshots.created(large, 11)
        house.snapshots.release(large, "ta-1")
        assert await house.files() == {small.snapshot_id}
        assert house.choose("large", function="fu-2") is None
        dropped = house.snapshots.get(large.snapshot_id)
        assert dropped.state == DROPPED and "snapshot_quota_gib" in dropped.reason
        again = house.choose("large", function="fu-2", definition="de-2")
        assert again is not None and not again.restores, "deployed again, it may be smaller"

    run(body)


def test_the_end_of_an_earlier_maker_is_no_concern_of_the_present_one(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        first = house.choose(task="ta-1")
        assert first is not None
        house.snapshots.not_created(first, "it holds a connection open")
        second = house.choose(task="ta-2")
        assert second is not None and not second.restores
        house.snapshots.release(first, "ta-1")  # it went on unsaved, and ends while the next one is being saved
        house.snapshots.scratch(second.snapshot_id).mkdir()
        await house.snapshots.created(second, 1)
        house.snapshots.release(second, "ta-2")
        third = house.choose(task="ta-3")
        assert third is not None and third.restores and house.snapshots.directory(third.snapshot_id).is_dir()
        (row,) = house.snapshots.all()
        assert row.all_failures == 1

    run(body)


def test_a_base_interrupted_by_the_end_of_the_server_counts_no_failure(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "_SETTLE", 0.0)

    class Node:
        def __init__(self, house: House) -> None:
            self._house = house

        def snapshot_identity(self, gpu: str) -> str:
            return "machine"

        @property
        def containers(self) -> Node:
            return self

        async def make_base(self, request: ContainerRequest, snapshot_id: str) -> int:
            self._house.snapshots.scratch(snapshot_id).mkdir()
            raise Unavailable("The server stops.")

    async def body(house: House) -> None:
        service = bases.Bases(snapshots=house.snapshots, node=Node(house), mounts=None, enabled=True)  # type: ignore[arg-type]
        request = ContainerRequest("ta-1", "im-1", ImageConfig(), "1.6.4", b"", "main")
        assert service.choose(request) is None
        service.up("ta-1")
        await asyncio.wait(service._jobs.values())
        assert house.snapshots.all() == [] and await house.files() == set()

    run(body)


@pytest.mark.parametrize("calls", [False, True])
def test_a_restored_container_that_says_nothing_is_ended(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch, calls: bool
) -> None:
    monkeypatch.setattr(checkpoints, "_SILENCE", (0.0, 1 << 60))

    class Node:
        killed = False

        @property
        def containers(self) -> Node:
            return self

        async def kill(self, task_id: str) -> None:
            self.killed = True

    async def body(house: House) -> None:
        await house.make()
        use, node, task = house.choose(), Node(), Task("ta-1", "fu-1", "ap-1", "de-1", enqueued_at=0.0, called=calls)
        task.node = cast(Any, node)
        assert use is not None and use.restores
        service = checkpoints.Checkpoints(house.snapshots)
        service.watch(task, use)
        await asyncio.wait(service._watchers.values())
        assert node.killed is not calls and bool(task.stop_reason) is not calls

    run(body)


def test_apps_that_are_over_and_unfinished_work_leave_nothing(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        await house.make()
        house.choose("unfinished", function="fu-2")
        (house.directory / "ch-unknown").mkdir()
        await house.again()
        (row,) = house.snapshots.all()
        assert await house.files() == {row.id}
        house.alive.clear()
        await house.snapshots.sweep()
        assert house.snapshots.all() == [] and await house.files() == set()
        await house.again()
        assert house.snapshots.all() == []

    run(body)


def test_what_no_container_of_the_code_can_save_is_tried_once_and_told_once(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        told: list[str] = []
        house.snapshots.on_trouble = lambda snapshot, text: told.append(text)
        use = house.choose()
        assert use is not None
        house.snapshots.not_created(use, "It holds what cannot be saved.", lasting=True)
        assert house.choose(task="ta-2") is None and house.choose(task="ta-3") is None
        (row,) = house.snapshots.all()
        assert (row.state, row.failures) == (DROPPED, 1)
        assert len(told) == 1 and told[0].endswith("It holds what cannot be saved.")
        assert house.choose(definition="de-2") is not None, "deployed again"

    run(body)


def test_a_failed_save_is_told_when_it_happens_first_and_when_no_more_is_tried(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        told: list[str] = []
        house.snapshots.on_trouble = lambda snapshot, text: told.append(text)
        for _ in range(MAX_FAILURES):
            use = house.choose()
            assert use is not None
            house.snapshots.not_created(use, "The disk is full.")
        assert len(told) == 2
        assert "next container tries again" in told[0] and "until it is deployed again" in told[1]

    run(body)


def test_one_whose_files_have_changed_is_made_anew_but_not_without_an_end(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        told: list[str] = []
        house.snapshots.on_trouble = lambda snapshot, text: told.append(text)
        old = await house.make()
        house.snapshots.outdated(old, "The file /vol/w has changed.")
        assert house.snapshots.ready("k") is None
        new = house.choose()
        assert new is not None and not new.restores and new.snapshot_id != old.snapshot_id
        assert await house.files() == set()
        # It served a start in between: what happens once in a while is no failure in a row.
        for _ in range(MAX_FAILURES):
            house.snapshots.scratch(new.snapshot_id).mkdir()
            await house.snapshots.created(new, 1)
            house.snapshots.started(new, 1.0)
            house.snapshots.outdated(new, "The file /vol/w has changed.")
            new = house.choose()
            assert new is not None and not new.restores
        for _ in range(MAX_FAILURES - 1):
            assert new is not None and not new.restores
            house.snapshots.scratch(new.snapshot_id).mkdir()
            await house.snapshots.created(new, 1)
            house.snapshots.outdated(new, "The file /vol/w has changed.")
            new = house.choose()
        assert new is None
        (row,) = house.snapshots.all()
        assert (row.state, row.reason) == (DROPPED, "The file /vol/w has changed.")
        assert "made anew" in told[0] and "until it is deployed again" in told[-1]

    run(body)

"""Memory snapshots that the disk has changed: found beside the work, and not started from any more. On real files, without sandboxes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stoker.errors import NotFound
from stoker.fsck import snapshots as fsck
from stoker.fsck.report import Report
from stoker.integrity.reading import Pace
from stoker.services.containers import snapshot_checks
from stoker.services.containers.snapshot_checks import SnapshotChecks
from stoker.services.containers.snapshots import SUMS, UNSETTLED, SnapshotUse
from stoker.services.telemetry.damages import Damages
from tests.cli.test_fsck import flip
from tests.snapshots.test_policy import House

Body = Callable[["CheckedHouse"], Awaitable[None]]
MEMORY = os.urandom(5_000_000)
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda d: flip(d / "pages.img", 4_100_000), "another SHA-256"),
    "cut": (lambda d: os.truncate(d / "pages.img", 4096), "has 4096 bytes"),
    "empty": (lambda d: os.truncate(d / "pages.img", 0), "has 0 bytes"),
    "gone": (lambda d: (d / "pages.img").unlink(), "pages.img is gone"),
    "its digests": (lambda d: os.truncate(d / SUMS, 30), "damaged themselves"),
}


class CheckedHouse(House):
    async def open(self) -> None:
        await super().open()
        self.damages = Damages(self.database)
        self.replaced: list[str] = []
        self.checks = SnapshotChecks(snapshots=self.snapshots, damages=self.damages, replace=self._replace)
        self.checks.begin()

    async def close(self) -> None:
        await self.checks.close()
        await self.damages.close()
        await self.snapshots.close()

    async def again(self) -> None:
        await self.close()
        await super().again()

    async def save(self) -> SnapshotUse:
        use = self.choose("k", "ta-maker")
        assert use is not None and not use.restores
        scratch = self.snapshots.scratch(use.snapshot_id)
        scratch.mkdir()
        (scratch / "pages.img").write_bytes(MEMORY)
        (scratch / "state.json").write_text("{}")
        await self.snapshots.created(use, len(MEMORY))
        self.snapshots.release(use, "ta-maker")
        return use

    async def checked(self) -> None:
        while self.checks._jobs:
            await asyncio.wait(self.checks._jobs)

    def fsck(self) -> Report:
        report = Report()
        engine = self.database.engine
        fsck.check(self.directory, engine, report, Pace(), lambda what, done, total: None, lambda: engine)
        return report

    def _replace(self, task_id: str) -> None:
        if task_id == "ta-ended":
            raise NotFound("It has ended.")
        self.replaced.append(task_id)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    def start(body: Body) -> None:
        async def all_() -> None:
            house = CheckedHouse(tmp_path)
            await house.open()
            await body(house)
            await house.close()
            await house.database.close()

        asyncio.run(all_())

    return start


def test_a_whole_one_stays(run: Callable[[Body], None]) -> None:
    async def body(house: CheckedHouse) -> None:
        use = await house.save()
        await house.checked()
        assert {path.name for path in house.snapshots.directory(use.snapshot_id).iterdir()} == {
            "pages.img",
            "state.json",
            SUMS,
        }
        for _ in range(2):
            await house.checks.chore()
            await house.checked()
            again = house.choose("k", "ta-1")
            assert again is not None and again.restores and again.snapshot_id == use.snapshot_id
            report = house.fsck()
            assert not report.problems and not report.unknown and report.checked["snapshot"] == 1
            await house.again()
        assert house.damages.total == 0

    run(body)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_retired(run: Callable[[Body], None], damage: str) -> None:
    """Within a day, or soon after the start of a server; what runs on it is replaced."""
    how, told = DAMAGES[damage]

    async def body(house: CheckedHouse) -> None:
        use = await house.save()
        await house.checked()
        await house.again()
        how(house.snapshots.directory(use.snapshot_id))
        for task_id in ("ta-1", "ta-ended"):
            restored = house.choose("k", task_id)
            assert restored is not None and restored.restores, "nobody waits for a check"
        [problem] = house.fsck().problems
        assert told in problem.detail and problem.heal is not None
        await house.checks.chore()
        await house.checked()
        assert house.damages.total == 1 and house.replaced == ["ta-1"]
        for task_id in ("ta-1", "ta-ended"):
            house.snapshots.release(use, task_id)
        anew = house.choose("k", "ta-2")
        assert anew is not None and not anew.restores and anew.snapshot_id != use.snapshot_id
        await house.snapshots.close()
        assert not house.snapshots.directory(use.snapshot_id).exists()

    run(body)


def test_fsck_removes_a_damaged_one(run: Callable[[Body], None]) -> None:
    async def body(house: CheckedHouse) -> None:
        use = await house.save()
        await house.checked()
        flip(house.snapshots.directory(use.snapshot_id) / "pages.img", 10)
        [problem] = house.fsck().problems
        assert problem.heal is not None
        await house.snapshots.close()
        await asyncio.to_thread(problem.heal)
        assert not house.snapshots.directory(use.snapshot_id).exists() and not house.fsck().problems
        await house.again()
        assert not house.snapshots.all()

    run(body)


def test_one_of_an_earlier_version_is_unknown_and_stays(run: Callable[[Body], None]) -> None:
    async def body(house: CheckedHouse) -> None:
        use = await house.save()
        await house.checked()
        (house.snapshots.directory(use.snapshot_id) / SUMS).unlink()
        flip(house.snapshots.directory(use.snapshot_id) / "pages.img", 10)
        report = house.fsck()
        assert not report.problems and report.unknown["snapshot"] == 1
        await house.again()
        await house.checks.chore()
        await house.checked()
        again = house.choose("k", "ta-1")
        assert again is not None and again.restores

    run(body)


def test_a_server_goes_on_where_the_last_one_was_interrupted(run: Callable[[Body], None]) -> None:
    async def body(house: CheckedHouse) -> None:
        house.checks._reader.stop()  # it ends at once
        use = await house.save()
        await house.again()
        await house.checked()
        assert {path.name for path in house.snapshots.directory(use.snapshot_id).iterdir()} == {
            "pages.img",
            "state.json",
            SUMS,
        }

    run(body)


def test_what_a_power_cut_may_have_left_half_is_not_started_from(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def body(house: CheckedHouse) -> None:
        house.checks._reader.stop()
        use = await house.save()
        assert (house.snapshots.directory(use.snapshot_id) / UNSETTLED).exists()
        (tmp_path / "boot").write_text("the next one")
        monkeypatch.setattr(snapshot_checks, "_BOOT", tmp_path / "boot")
        await house.again()
        anew = house.choose("k", "ta-1")
        assert anew is not None and not anew.restores and house.damages.total == 1

    run(body)

"""Whether memory snapshots are still what was saved: looked at in the background, once after the save and then now and then.

A restore does not wait for it. A snapshot that is found damaged is retired: its containers are replaced, and its function starts cold once and
makes another."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import NotFound
from stoker.integrity import trees
from stoker.integrity.background import BackgroundReader
from stoker.integrity.reading import CalledOff, Pace
from stoker.services.containers.snapshots import READY, SUMS, UNSETTLED, Snapshot, Snapshots
from stoker.services.telemetry.damages import SNAPSHOT, Damages

_AGAIN = 86_400.0  # seconds
_BYTES_A_SECOND = 100 << 20  # so that others hardly notice
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_log = structlog.get_logger(__name__)


class SnapshotChecks:
    """Compares the files of snapshots with their digests. Made by the composition root; told of new snapshots, and begins an old one's check as
    a chore."""

    def __init__(self, *, snapshots: Snapshots, damages: Damages, replace: Callable[[str], None]) -> None:
        """replace: ends the container of a task as soon as it has no inputs, for its memory may be wrong. Raises NotFound."""
        self._snapshots = snapshots
        self._damages = damages
        self._replace = replace
        self._checked: dict[str, float] = {}  # by snapshot: when, by the monotonic clock
        self._jobs = Jobs("snapshot checks")
        self._reader = BackgroundReader(_BYTES_A_SECOND)
        snapshots.on_created = self._created

    def begin(self) -> None:
        """Goes on with what an earlier server left. To be called before the first restore."""
        for snapshot in self._snapshots.all():
            with contextlib.suppress(FileNotFoundError):
                if (self._snapshots.directory(snapshot.id) / UNSETTLED).read_text() == _BOOT.read_text():
                    self._settle_soon(snapshot)
                else:
                    self._retire(snapshot, "the machine went down before all of it was on the disk")

    async def chore(self) -> None:
        """Begins to look at one that was not looked at for a day. To be called now and then."""
        oldest = time.monotonic() - _AGAIN
        ready = [s for s in self._snapshots.all() if s.state == READY]
        self._checked = {s.id: self._checked.get(s.id, oldest) for s in ready}
        due = min(ready, key=lambda s: self._checked[s.id], default=None)
        if due is not None and self._checked[due.id] <= oldest and not self._jobs:
            self._jobs.start(f"check {due.id}", self._check(due))

    async def close(self) -> None:
        self._reader.stop()
        await self._jobs.close(patience=10.0)

    def _created(self, snapshot: Snapshot) -> None:
        with contextlib.suppress(OSError):  # such as a full disk
            (self._snapshots.directory(snapshot.id) / UNSETTLED).write_text(_BOOT.read_text())
        self._settle_soon(snapshot)

    def _settle_soon(self, snapshot: Snapshot) -> None:
        self._jobs.start(f"note the digests of {snapshot.id}", self._settle(snapshot))

    async def _settle(self, snapshot: Snapshot) -> None:
        """It is on the disk, and what was saved is noted and found there."""
        directory = self._snapshots.directory(snapshot.id)

        def work(pace: Pace) -> None:
            trees.settle(directory)
            trees.write(directory, directory / SUMS, pace, leave_out=[UNSETTLED])
            (directory / UNSETTLED).unlink(missing_ok=True)

        if await self._read(directory, work, direct=False):
            await self._check(snapshot)

    async def _check(self, snapshot: Snapshot) -> None:
        self._checked[snapshot.id] = time.monotonic()
        directory, wrong = self._snapshots.directory(snapshot.id), list[str]()
        done = await self._read(directory, lambda pace: wrong.extend(_wrong(directory, pace)), direct=True)
        with contextlib.suppress(NotFound):  # removed while it was read
            if done and wrong and self._snapshots.get(snapshot.id).state == READY:
                self._retire(snapshot, "; ".join(wrong))

    def _retire(self, snapshot: Snapshot, what: str) -> None:
        self._damages.found(
            SNAPSHOT,
            snapshot.id,
            f"The memory snapshot {snapshot.id} is damaged on the server's disk: {what}. It is not used any more; its function makes another.",
        )
        self._snapshots.remove(snapshot.id)
        self._damages.whole(SNAPSHOT, snapshot.id)
        for task_id in sorted(snapshot.users):
            with contextlib.suppress(NotFound):  # ended meanwhile
                self._replace(task_id)

    async def _read(self, directory: Path, work: Callable[[Pace], None], *, direct: bool) -> bool:
        """Whether it could be done: not when the snapshot has no digests or is gone meanwhile, nor when the server stops."""
        try:
            await self._reader.read(work, direct=direct)
        except (FileNotFoundError, CalledOff):
            return False
        except OSError as error:
            _log.warning("a snapshot cannot be checked", snapshot=directory.name, error=str(error))
            return False
        return True


def _wrong(directory: Path, pace: Pace) -> list[str]:
    try:
        return list(trees.check(directory, directory / SUMS, pace, leave_out=[UNSETTLED]))
    except ValueError as error:
        return [str(error)]

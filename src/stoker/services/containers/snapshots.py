"""Memory snapshots: which function has one, who makes it, who starts from it, and when it goes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import sqlalchemy as sa
import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import NotFound
from stoker.ids import new_id
from stoker.store import tables
from stoker.store.database import Database

CREATING, READY, FAILED, DROPPED = "creating", "ready", "failed", "dropped"
MAX_FAILURES = 3
"""In a row; a snapshot that failed this often is dropped, and not made again before the next deployment."""

SUMS = "sums.gz"
"""In the directory of a snapshot: the digests of what is in it."""

UNSETTLED = "unsettled"
"""In the directory of a snapshot: in which run of the machine it was saved, until all of it is on the disk."""

_KEPT_TIMES = 200
_PATIENCE = 30.0  # seconds for which the end of the server waits for files to be removed
_log = structlog.get_logger(__name__)


@dataclass
class Snapshot:
    """One row. `failures` counts those in a row, `all_failures` every one. `restore_seconds`: from the start to the first poll."""

    id: str
    key: str
    app_id: str
    function_id: str
    definition_id: str
    state: str
    created_at: float
    used_at: float
    size: int = 0
    hits: int = 0
    failures: int = 0
    all_failures: int = 0
    reason: str = ""
    restore_seconds: list[float] = field(default_factory=list)
    fall_back: bool = False  # the next start does without it, for a start from it has just failed
    users: set[str] = field(default_factory=set)  # tasks that run on its files
    maker: str = ""  # the task that is to be saved as it


@dataclass(frozen=True)
class SnapshotUse:
    """What a container has to do with a snapshot: it comes from it, or is to be saved as it."""

    snapshot_id: str
    restores: bool
    base: bool = False  # not the function's own: its image's, with nothing but the client


class Snapshots:
    """All snapshots of this machine, at most one for each key. The files of one lie in `directory`/<its id>."""

    def __init__(
        self, *, database: Database, directory: Path, quota_bytes: int, is_alive: Callable[[str], bool]
    ) -> None:
        """is_alive: whether the app of this id still runs or is deployed."""
        self._database = database
        self._directory = directory
        self._quota = quota_bytes
        self._is_alive = is_alive
        self._by_id: dict[str, Snapshot] = {}
        self._by_key: dict[str, Snapshot] = {}
        self._doomed: dict[str, Snapshot] = {}  # removed, but containers still run on its files
        self._jobs = Jobs("snapshots")
        self._changed: set[str] = set()  # whose rows are not as they are to be
        self._storing: asyncio.Task[None] | None = None
        self.on_created: Callable[[Snapshot], None] = lambda snapshot: None
        """Called when a snapshot is ready for the first time."""
        self.on_release: Callable[[str], None] = lambda snapshot_id: None
        """Called when the files of a snapshot are to go, so that who only holds them lets go."""
        self.on_trouble: Callable[[Snapshot, str], None] = lambda snapshot, text: None
        """Called with a sentence for the owner of an app, once for each thing that keeps its function from a snapshot."""

    async def load(self) -> None:
        """Reads what an earlier server left, and deletes what it left unfinished."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(tables.snapshots)).mappings().all()
        for row in rows:
            snapshot = Snapshot(**row)
            if snapshot.state == CREATING or (snapshot.state == READY and not self.directory(snapshot.id).is_dir()):
                self._store(snapshot)
            else:
                self._by_id[snapshot.id] = self._by_key[snapshot.key] = snapshot
        known = {self.directory(s.id) for s in self._by_id.values() if s.state == READY}
        for path in self._directory.iterdir():
            if path not in known:
                self._delete(path)

    async def close(self) -> None:
        await self._jobs.close(patience=_PATIENCE)

    # What containers do

    def choose(self, key: str, app_id: str, function_id: str, definition_id: str, task_id: str) -> SnapshotUse | None:
        """What a new container does about the snapshot `key`: starts from it, becomes it, or (None) has nothing to do with it.

        The base of an image belongs to no app: its app_id is empty, and the image's id stands for the function's."""
        snapshot = self._by_key.get(key)
        now = time.time()
        if snapshot is not None and snapshot.fall_back:
            snapshot.fall_back = False
            return None
        if snapshot is not None and snapshot.state == DROPPED and snapshot.definition_id != definition_id:
            self.remove(snapshot.id)  # deployed again: a new chance
            snapshot = None
        if snapshot is None:
            snapshot = Snapshot(new_id("ch"), key, app_id, function_id, definition_id, CREATING, now, now)
            self._by_id[snapshot.id] = self._by_key[key] = snapshot
        elif snapshot.state in (CREATING, DROPPED):
            return None
        elif snapshot.state == FAILED:
            snapshot.state = CREATING
        if snapshot.state == CREATING:
            snapshot.maker = task_id
        changed = snapshot.definition_id != definition_id
        snapshot.definition_id = definition_id
        snapshot.used_at = now
        restores = snapshot.state == READY
        if restores:
            snapshot.hits += 1
        snapshot.users.add(task_id)
        if changed or not restores:
            self._store(snapshot)
            self._drop_outdated(function_id, definition_id)
        return SnapshotUse(snapshot.id, restores, base=not app_id)

    def is_ready(self, key: str) -> bool:
        return self.ready(key) is not None

    def ready(self, key: str) -> SnapshotUse | None:
        """The snapshot from which a new container would start."""
        snapshot = self._by_key.get(key)
        if snapshot is None or snapshot.state != READY:
            return None
        return SnapshotUse(snapshot.id, restores=True, base=not snapshot.app_id)

    def outdated(self, use: SnapshotUse, reason: str) -> None:
        """What it was made of has changed: the next container makes another one in its place, unless that happens without an end."""
        old = self._by_id.get(use.snapshot_id)
        if old is None or old.state != READY:
            return
        if old.failures + 1 >= MAX_FAILURES:
            self._count_failure(use, reason)
            return
        self.remove(old.id)
        new = replace(
            old, id=new_id("ch"), state=FAILED, size=0, hits=0, restore_seconds=[], users=set(), reason=reason
        )
        new.failures += 1
        new.all_failures += 1
        self._by_id[new.id] = self._by_key[new.key] = new
        self._store(new)
        self.on_trouble(new, f"The memory snapshot is made anew. {reason}")

    def retain(self, use: SnapshotUse, task_id: str) -> bool:
        """Keeps the files until `left`; False when they are not there (any more)."""
        snapshot = self._by_id.get(use.snapshot_id)
        if snapshot is None or snapshot.state != READY:
            return False
        snapshot.users.add(task_id)
        return True

    def is_current(self, use: SnapshotUse) -> bool:
        """Whether containers are still started from it."""
        return use.snapshot_id in self._by_id and self._by_id[use.snapshot_id].state == READY

    def scratch(self, snapshot_id: str) -> Path:
        """Where a snapshot is put together."""
        return self._directory / f"{snapshot_id}.partial"

    async def created(self, use: SnapshotUse, size: int) -> None:
        """The files are complete in `scratch`."""
        snapshot = self._by_id.get(use.snapshot_id)
        if snapshot is None:  # removed meanwhile
            self.abandoned(use)
            return
        if size > self._quota:
            # Kept, it would be the first to go, only for the next container to spend its time on making it again.
            self.abandoned(use)
            self._drop(snapshot, f"It takes {size >> 20} MiB, more than all snapshots may take (snapshot_quota_gib).")
            self._store(snapshot)
            return
        self.scratch(use.snapshot_id).rename(self.directory(use.snapshot_id))
        snapshot.state, snapshot.size, snapshot.reason = READY, size, ""
        snapshot.created_at = snapshot.used_at = time.time()
        self._store(snapshot)
        self.on_created(snapshot)
        self._keep_quota()

    def not_created(self, use: SnapshotUse, reason: str, *, lasting: bool = False) -> None:
        """The container could not be saved. lasting: the next one could not either."""
        self.abandoned(use)
        self._count_failure(use, reason, lasting=lasting)

    def abandoned(self, use: SnapshotUse) -> None:
        """The container will not be saved, through no fault of its own."""
        self._delete(self.scratch(use.snapshot_id))

    def started(self, use: SnapshotUse, seconds: float) -> None:
        """A restored container asks for its first input."""
        snapshot = self._by_id.get(use.snapshot_id)
        if snapshot is not None:
            snapshot.failures = 0
            snapshot.restore_seconds = [*snapshot.restore_seconds, round(seconds, 4)][-_KEPT_TIMES:]
            self._store(snapshot)

    def not_started(self, use: SnapshotUse, reason: str) -> None:
        """A restored container ended before it asked for an input."""
        self._count_failure(use, reason)
        snapshot = self._by_id.get(use.snapshot_id)
        if snapshot is not None:
            snapshot.fall_back = True

    def saving_failed(self, use: SnapshotUse) -> bool:
        """A container that was to be saved ended before its first input. Whether it was saving that ended it."""
        snapshot = self._by_id.get(use.snapshot_id)
        return snapshot is not None and snapshot.state in (FAILED, DROPPED)

    def release(self, use: SnapshotUse, task_id: str) -> None:
        """A container is gone."""
        snapshot = self._by_id.get(use.snapshot_id) or self._doomed.get(use.snapshot_id)
        if snapshot is None:
            return
        snapshot.users.discard(task_id)
        if snapshot.id in self._doomed:
            del self._doomed[snapshot.id]
            self._release(snapshot)
        elif snapshot.state == DROPPED:
            self._release(snapshot)
        elif snapshot.state == CREATING and snapshot.maker == task_id:
            # It ended before it could be saved, which is not the snapshot's fault: the next one may try.
            self.remove(snapshot.id)

    # What people see and do

    def size(self, use: SnapshotUse) -> int:
        """Bytes on disk; 0 when it was removed."""
        snapshot = self._by_id.get(use.snapshot_id)
        return snapshot.size if snapshot is not None else 0

    def all(self) -> list[Snapshot]:
        return sorted(self._by_id.values(), key=lambda s: -s.used_at)

    def get(self, snapshot_id: str) -> Snapshot:
        """Raises NotFound."""
        snapshot = self._by_id.get(snapshot_id)
        if snapshot is None:
            raise NotFound(f"There is no snapshot {snapshot_id!r}; `stoker snapshots list` shows all.")
        return snapshot

    def directory(self, snapshot_id: str) -> Path:
        """Where the files of a snapshot are, if it has some."""
        return self._directory / snapshot_id

    def remove(self, snapshot_id: str) -> None:
        """Forgets a snapshot; its files go when the last container that runs on them has ended. Raises NotFound."""
        snapshot = self.get(snapshot_id)
        del self._by_id[snapshot.id]
        del self._by_key[snapshot.key]
        self._store(snapshot)
        self._release(snapshot)

    async def sweep(self) -> None:
        """Removes the snapshots of apps that are over, and the least recently used ones beyond the quota."""
        for snapshot in self.all():
            if snapshot.app_id and not self._is_alive(snapshot.app_id):
                self.remove(snapshot.id)
        self._keep_quota()

    # How it is done

    def _count_failure(self, use: SnapshotUse, reason: str, *, lasting: bool = False) -> None:
        snapshot = self._by_id.get(use.snapshot_id)
        if snapshot is None:
            return
        snapshot.failures += 1
        snapshot.all_failures += 1
        snapshot.reason = reason
        if lasting or snapshot.failures >= MAX_FAILURES:
            self._drop(snapshot, reason)
        elif snapshot.state == CREATING:
            snapshot.state = FAILED
            if snapshot.failures == 1:
                self.on_trouble(snapshot, f"No memory snapshot was made; the next container tries again. {reason}")
        self._store(snapshot)

    def _drop(self, snapshot: Snapshot, reason: str) -> None:
        snapshot.state, snapshot.size, snapshot.reason = DROPPED, 0, reason
        _log.warning("snapshot dropped", snapshot=snapshot.id, function=snapshot.function_id, reason=reason)
        self._release(snapshot)
        self.on_trouble(snapshot, f"There is no memory snapshot of this function until it is deployed again. {reason}")

    def _drop_outdated(self, function_id: str, definition_id: str) -> None:
        for snapshot in self.all():
            if snapshot.function_id == function_id and snapshot.definition_id != definition_id:
                self.remove(snapshot.id)

    def _keep_quota(self) -> None:
        ready = [s for s in self.all() if s.state == READY]
        total = 0
        for snapshot in ready:
            total += snapshot.size
            if total > self._quota:
                _log.info("snapshot removed to keep the quota", snapshot=snapshot.id, function=snapshot.function_id)
                self.remove(snapshot.id)

    def _release(self, snapshot: Snapshot) -> None:
        """Deletes the files, or leaves that to the last container that runs on them."""
        self.on_release(snapshot.id)
        if not snapshot.users:
            self._delete(self.directory(snapshot.id))
        elif snapshot.id not in self._by_id:
            self._doomed[snapshot.id] = snapshot

    def _delete(self, path: Path) -> None:
        # Out of the way at once: the next attempt may want the same name.
        aside = self._directory / f"{new_id('ch')}.old"
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        except OSError as error:  # such as a full disk; the next server removes it
            _log.error("a snapshot could not be removed", path=str(path), error=str(error))
            return
        self._jobs.insist(f"remove {aside.name}", partial(anyio.to_thread.run_sync, _remove, aside))

    def _store(self, snapshot: Snapshot) -> None:
        """Its row is to be as it is, or to go when it is forgotten: soon, beside the work of containers."""
        self._changed.add(snapshot.id)
        if self._storing is None or self._storing.done():
            self._storing = self._jobs.insist("store rows", self._store_changed)

    async def _store_changed(self) -> None:
        while self._changed:
            changed = set(self._changed)
            kept = [self._by_id[snapshot_id] for snapshot_id in changed if snapshot_id in self._by_id]
            rows = [{column.name: getattr(s, column.name) for column in tables.snapshots.columns} for s in kept]
            self._changed -= changed
            try:
                await self._database.write(partial(_replace, ids=changed, rows=rows))
            except BaseException:
                self._changed |= changed
                raise


def _replace(connection: sa.Connection, ids: Collection[str], rows: Sequence[dict[str, Any]]) -> None:
    connection.execute(sa.delete(tables.snapshots).where(tables.snapshots.c.id.in_(ids)))
    if rows:
        connection.execute(sa.insert(tables.snapshots), rows)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)

"""Looks after what no limit of the kernel holds running sandboxes to: what they write to the disk, and being refused processes.

Quotas of file systems are rarely there, so what a container has written is counted. That is done when it may have come near its limit: when
as much of the disk was used up, by whomever, as it may still have. Most looks therefore cost one statvfs and some small files of /proc.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stoker.runtime.written import BYTES_A_FILE, Written, measure, written_by

_RARELY, _OFTEN = 1.0, 0.1  # seconds between looks, the second near a limit
_PACE = 2 << 30  # bytes a second that a container is thought to be able to write
_COUNT_AGAIN = 60.0  # seconds after which it is counted in any case: others may have freed what it took
_COUNTING = 10  # times as long as counting has taken, it is not counted again
_WRITING = 1 << 20  # bytes in the last looks that make a writer
_REFUSED = 3.0  # seconds after which a sandbox that was refused a process is not expected to come to its senses
_log = logging.getLogger(__name__)


class Guarded(Protocol):
    """A running sandbox."""

    @property
    def disk_limit(self) -> int:
        """Bytes."""
        ...

    @property
    def places(self) -> Collection[Path]:
        """Directories of the host that are its own."""
        ...

    def main_pids(self) -> list[int]: ...

    def printed(self) -> int:
        """Bytes."""
        ...

    def was_refused_tasks(self) -> bool: ...

    def end_for_tasks(self) -> None: ...

    def end_for_disk(self, written: Written, *, free: int | None) -> None:
        """free: bytes left on the disk of all, when that is the reason."""
        ...


@dataclass
class _Notes:
    written: Written = field(default_factory=Written)
    counted_at: float = 0.0
    not_before: float = 0.0
    used_since: int = 0  # bytes of the disk that were used up since it was counted, by whomever
    sent: int = 0  # bytes that it has written, in all
    lately: float = 0.0  # of these in the last looks
    refused_at: float | None = None


class Patrol:
    def __init__(self, disk: Path, reserve: int, sandboxes: Callable[[], Collection[Guarded]]) -> None:
        """disk: a directory on it. reserve: bytes that must stay free there; who writes when there are less is ended."""
        self._disk = disk
        self._reserve = reserve
        self._sandboxes = sandboxes
        self._notes: dict[Guarded, _Notes] = {}
        self._free = (0, 0)
        self._wake = asyncio.Event()
        self._walk: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._free = self._look_at_disk()
        self._walk = asyncio.get_running_loop().create_task(self._go())

    def stop(self) -> None:
        if self._walk is not None:
            self._walk.cancel()

    def come(self) -> None:
        """There is a sandbox to look after."""
        self._wake.set()

    async def _go(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._sandboxes():
                pause = _RARELY
                try:
                    pause = await self._look()
                except Exception:
                    _log.exception("running sandboxes could not be looked after; the next look follows")
                await asyncio.sleep(pause)

    async def _look(self) -> float:
        """Returns the seconds until the next look."""
        now, frees = time.monotonic(), self._look_at_disk()
        used = max(0, *(before - free for before, free in zip(self._free, frees, strict=True)))
        self._free, free = frees, min(frees)
        sandboxes = list(self._sandboxes())
        self._notes = {sandbox: self._notes.get(sandbox, _Notes(counted_at=now)) for sandbox in sandboxes}
        for sandbox, notes in self._notes.items():
            self._note(now, sandbox, notes, used)
            if notes.refused_at is not None and now - notes.refused_at > _REFUSED:
                sandbox.end_for_tasks()
            left = sandbox.disk_limit - notes.written.burden - notes.used_since
            if now >= notes.not_before and (left <= 0 or now - notes.counted_at > _COUNT_AGAIN):
                await self._count(sandbox, notes)
        if free < self._reserve:
            await self._end_a_writer(free)
        room = min(
            [free - self._reserve, *(s.disk_limit - n.written.burden - n.used_since for s, n in self._notes.items())]
        )
        return min(_RARELY, max(_OFTEN, room / _PACE / 2))

    def _note(self, now: float, sandbox: Guarded, notes: _Notes, used: int) -> None:
        sent = written_by(sandbox.main_pids()) + sandbox.printed()
        notes.lately = notes.lately / 2 + max(0, sent - notes.sent)
        notes.sent = max(notes.sent, sent)
        notes.used_since += used
        if notes.refused_at is None and sandbox.was_refused_tasks():
            notes.refused_at = now

    async def _count(self, sandbox: Guarded, notes: _Notes) -> None:
        begun = time.monotonic()
        notes.used_since = 0
        before = notes.written
        notes.written = await asyncio.to_thread(measure, sandbox.places, sandbox.main_pids())
        notes.lately += max(0, notes.written.size - before.size)
        notes.counted_at = time.monotonic()
        notes.not_before = notes.counted_at + _COUNTING * (notes.counted_at - begun)
        if notes.written.burden > sandbox.disk_limit:
            sandbox.end_for_disk(notes.written, free=None)

    async def _end_a_writer(self, free: int) -> None:
        """The disk is nearly full: of those who write, the one that wrote most lately goes."""
        for sandbox, notes in self._notes.items():
            await self._count(sandbox, notes)
        writer = max(self._notes, key=lambda sandbox: self._notes[sandbox].lately, default=None)
        if writer is not None and self._notes[writer].lately >= _WRITING:
            writer.end_for_disk(self._notes[writer].written, free=free)

    def _look_at_disk(self) -> tuple[int, int]:
        """Bytes that are free, and bytes for the files that there can still be."""
        status = os.statvfs(self._disk)
        free = status.f_bavail * status.f_frsize
        return free, status.f_favail * BYTES_A_FILE if status.f_files else free

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
    counting: asyncio.Task[None] | None = None

    def add(self, now: float, used: int, sent: int, *, refused: bool) -> None:
        """used: bytes of the disk that were used up since the last look. sent: those that it has written in all."""
        self.lately = self.lately / 2 + max(0, sent - self.sent)
        self.sent = max(self.sent, sent)
        self.used_since += used
        if refused and self.refused_at is None:
            self.refused_at = now


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
        sandboxes = list(self._sandboxes())
        # In a thread: of many sandboxes there are many files.
        frees, readings = await asyncio.to_thread(lambda: (self._look_at_disk(), [_read(each) for each in sandboxes]))
        now = time.monotonic()
        used = max(0, *(before - free for before, free in zip(self._free, frees, strict=True)))
        self._free, free = frees, min(frees)
        self._notes = {sandbox: self._notes.get(sandbox, _Notes(counted_at=now)) for sandbox in sandboxes}
        for (sandbox, notes), (sent, refused) in zip(self._notes.items(), readings, strict=True):
            notes.add(now, used, sent, refused=refused)
            if notes.refused_at is not None and now - notes.refused_at > _REFUSED:
                sandbox.end_for_tasks()
            left = sandbox.disk_limit - notes.written.burden - notes.used_since
            if now >= notes.not_before and (left <= 0 or now - notes.counted_at > _COUNT_AGAIN):
                self._start_counting(sandbox, notes)
        if free < self._reserve:
            self._end_a_writer(free)
        room = min(
            [free - self._reserve, *(s.disk_limit - n.written.burden - n.used_since for s, n in self._notes.items())]
        )
        return min(_RARELY, max(_OFTEN, room / _PACE / 2))

    def _start_counting(self, sandbox: Guarded, notes: _Notes) -> None:
        """Counting takes long where there are many files, and the others must be looked after meanwhile."""
        if notes.counting is None or notes.counting.done():
            notes.counting = asyncio.get_running_loop().create_task(self._count(sandbox, notes))

    async def _count(self, sandbox: Guarded, notes: _Notes) -> None:
        begun = time.monotonic()
        notes.used_since = 0
        try:
            written = await asyncio.to_thread(measure, sandbox.places, sandbox.main_pids())
        except OSError:
            _log.exception("what a container has written could not be counted")
            written = notes.written
        if notes.written.files:  # else it may have written that long ago
            notes.lately += max(0, written.size - notes.written.size)
        notes.written = written
        notes.counted_at = time.monotonic()
        notes.not_before = notes.counted_at + _COUNTING * (notes.counted_at - begun)
        if written.burden > sandbox.disk_limit:
            sandbox.end_for_disk(written, free=None)

    def _end_a_writer(self, free: int) -> None:
        """The disk is nearly full: of those who write, the one that wrote most lately goes."""
        for sandbox, notes in self._notes.items():
            self._start_counting(sandbox, notes)  # for the next look: not all of it shows in what was written by calls
        writer = max(self._notes, key=lambda sandbox: self._notes[sandbox].lately, default=None)
        if writer is not None and self._notes[writer].lately >= _WRITING:
            writer.end_for_disk(self._notes[writer].written, free=free)
            for notes in self._notes.values():
                notes.lately = 0  # whoever goes on writing shows it in the next looks; the others are not to blame

    def _look_at_disk(self) -> tuple[int, int]:
        """Bytes that are free, and bytes for the files that there can still be."""
        status = os.statvfs(self._disk)
        free = status.f_bavail * status.f_frsize
        return free, status.f_favail * BYTES_A_FILE if status.f_files else free


def _read(sandbox: Guarded) -> tuple[int, bool]:
    """Bytes that it has written in all, and whether it was refused a process. Blocks."""
    return written_by(sandbox.main_pids()) + sandbox.printed(), sandbox.was_refused_tasks()

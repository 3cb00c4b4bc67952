"""Settings of the kernel that concern the whole machine: changed while servers run, and put back by the last of them.

Where a setting is missing or may not be changed, things are only slower."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import IO

_NOTES = Path("/run/stoker-kernel")
_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
_EXPEDITED = Path("/sys/kernel/rcu_expedited")


class KernelSettings:
    """`notes`, shared by all servers of the machine, has what each changed setting was before, so that it survives a server that is killed."""

    def __init__(self, notes: Path = _NOTES) -> None:
        self._notes = notes
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Must come before a change."""
        with contextlib.suppress(OSError):
            self._notes.mkdir(mode=0o755, exist_ok=True)
            self._lock = (self._notes / "lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def offer_large_pages(self) -> None:
        """Lets programs that ask for it have shared memory in huge pages (2 MiB), and gives all of it out in pages of 64 and 256 KiB.

        gVisor keeps a sandbox's memory there. It asks for huge pages only where a program takes very much at once; what comes bit by
        bit, which most of Python's does, is in pages of 4 KiB, and to read a snapshot into these takes twice as long. With pages of
        256 KiB a sandbox needs about 2 % more memory."""
        self._choose(_PAGES / "shmem_enabled", "advise")
        for size in (64, 256):
            self._choose(_PAGES / f"hugepages-{size}kB" / "shmem_enabled", "always")

    def hurry(self) -> None:
        """Has the kernel interrupt other processors where it else waits until each has passed a quiet moment.

        Every start of a gVisor process and every change of a cgroup waits so, some 10 ms each time."""
        with contextlib.suppress(OSError):
            self._set(_EXPEDITED, _EXPEDITED.read_text().strip(), "1")

    def close(self) -> None:
        """Puts all back as it was, unless another server runs."""
        if self._lock is None:
            return
        with self._lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for note in self._notes.glob("!*"):
                with contextlib.suppress(OSError):
                    Path(note.name.replace("!", "/")).write_text(note.read_text())
                note.unlink()
        self._lock = None

    def _choose(self, path: Path, value: str) -> None:
        """One of several words, of which the one in brackets counts: in place of `never` only, for somebody may have chosen another."""
        with contextlib.suppress(OSError):
            if "[never]" in path.read_text().split():
                self._set(path, "never", value)

    def _set(self, path: Path, before: str, value: str) -> None:
        if self._lock is None or before == value:
            return
        note = self._notes / str(path).replace("/", "!")
        if not note.exists():
            note.write_text(before)
        path.write_text(value)

"""How much memory all containers together may have, and who is told when the kernel finds none for a group."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import psutil

from stoker.runtime import linux

_LEAST_RESERVE, _MOST_RESERVE = 1 << 30, 8 << 30
# What limits a machine that is itself a container.
_OWN_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def ceiling(reserve: int = 0, machine: int | None = None) -> int:
    """Bytes for all containers together. reserve: what they may never have; 0 for a tenth of the machine, at least 1 and at most 8 GiB, but no
    more than half of it."""
    machine = machine_memory() if machine is None else machine
    reserve = reserve or min(max(_LEAST_RESERVE, machine // 10), _MOST_RESERVE, machine // 2)
    return max(machine // 10, machine - reserve)


def machine_memory() -> int:
    """Bytes of the machine, or of the container that the server itself runs in."""
    found = [psutil.virtual_memory().total]
    for path in _OWN_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(path.read_text()))
    return min(found)


class MemoryEvents:
    """Calls back in the running event loop when the kernel finds no memory for a group within its limit, and, where wanted, before."""

    def __init__(self, directory: Path, version: int) -> None:
        """directory: of the group, in the hierarchy of memory, whose version it is."""
        self._directory = directory
        self._version = version
        self._events = -1

    def open(self, callback: Callable[[], None], warn_at: int | None = None) -> None:
        """warn_at: bytes, with all that the kernel could take back. Above them the callback comes also while that is still there and is being
        taken back; in version 2 that is up to the group's `memory.high`. Raises OSError."""
        self._events = (
            self._eventfd(warn_at) if self._version == 1 else linux.watch_changes(self._directory / "memory.events")
        )
        asyncio.get_running_loop().add_reader(self._events, self._come, callback)

    def close(self) -> None:
        """Safe to call twice."""
        events, self._events = self._events, -1
        if events >= 0:
            asyncio.get_running_loop().remove_reader(events)
            os.close(events)

    def _come(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._events, 4096)
        callback()

    def _eventfd(self, warn_at: int | None) -> int:
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._register(event, "oom_control")
            if warn_at is not None:
                self._register(event, "usage_in_bytes", str(warn_at))
                self._register(event, "pressure_level", "low")
        except BaseException:
            os.close(event)
            raise
        return event

    def _register(self, event: int, what: str, *arguments: str) -> None:
        source = os.open(self._directory / f"memory.{what}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            (self._directory / "cgroup.event_control").write_text(" ".join((str(event), str(source), *arguments)))
        finally:
            os.close(source)

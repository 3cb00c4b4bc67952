"""Limits and accounting of a container: one cgroup of our own, in version 1 (also hybrid) or version 2 hierarchies.

The sandbox runs with `--ignore-cgroups`: the group stays ours, so an out-of-memory kill can still be read after the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import FailedPrecondition
from stoker.runtime import linux
from stoker.runtime.base import Limits, Usage

_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1000  # the kernel refuses less
_WANTED = ("cpu", "cpuacct", "memory", "pids")
_HOST_TASKS = 512
"""Threads that the sandbox itself needs on the host, on top of what the user's program may have."""


@dataclass(frozen=True)
class Hierarchy:
    """Where the controllers are mounted. Version 2 has one directory for all."""

    version: int
    roots: dict[str, Path]  # controller -> mount point

    @staticmethod
    def detect() -> Hierarchy:
        """Raises FailedPrecondition when a needed controller is missing."""
        unified: Path | None = None
        roots: dict[str, Path] = {}
        with open("/proc/self/mounts", encoding="utf-8") as file:
            for line in file:
                _, target, kind, options, *_ = line.split(" ")
                if kind == "cgroup2":
                    unified = unified or Path(target)
                elif kind == "cgroup":
                    roots |= {name: Path(target) for name in options.split(",") if name in _WANTED}
        if unified is not None and "memory" not in roots:
            available = set((unified / "cgroup.controllers").read_text().split())
            if {"cpu", "memory", "pids"} <= available:
                return Hierarchy(2, dict.fromkeys(_WANTED, unified))
        missing = [name for name in _WANTED if name not in roots]
        if missing:
            raise FailedPrecondition(
                f"The cgroup controllers {', '.join(missing)} are not available, so containers could not be limited. "
                'Mount the cgroup file system (on a systemd machine it is at /sys/fs/cgroup), or set runtime = "process".'
            )
        return Hierarchy(1, roots)


class CgroupTree:
    """The parent group of one server, `name`, in every hierarchy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hierarchy = Hierarchy.detect()
        self.directories = tuple(sorted({root / name for root in self.hierarchy.roots.values()}))

    def open(self) -> None:
        """Creates the parent group. Raises FailedPrecondition."""
        try:
            for directory in self.directories:
                if self.hierarchy.version == 2:
                    _delegate(directory.parent)
                directory.mkdir(exist_ok=True)
                if self.hierarchy.version == 2:
                    _delegate(directory)
        except OSError as error:
            raise FailedPrecondition(
                f"The cgroup {error.filename} could not be prepared: {error.strerror}. Stoker must own it."
            ) from error

    def group(self, name: str) -> Cgroup:
        """The group of that name, which need not exist yet."""
        paths = {controller: root / self.name / name for controller, root in self.hierarchy.roots.items()}
        return Cgroup(self.hierarchy, paths)

    def discard(self, name: str) -> None:
        """Kills and removes a group in which a program made groups of its own, in whatever hierarchies. Blocks until it is gone."""
        group = self.group(name)
        group.kill()
        for root in _mounted():
            below = sorted((root / self.name / name).rglob("*/"), reverse=True)
            for directory in (*below, root / self.name / name):
                _kill_all(directory)
                _remove_directory(directory)
            with contextlib.suppress(OSError):
                if root not in self.hierarchy.roots.values():
                    (root / self.name).rmdir()

    def sweep(self) -> None:
        """Kills and removes every group below ours, and ours. Blocks until they are gone."""
        ours = [root / self.name for root in _mounted() if (root / self.name).is_dir()]
        names = {child.name for directory in ours for child in directory.iterdir() if child.is_dir()}
        for name in sorted(names):
            self.discard(name)
        for directory in self.directories:
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()


class Cgroup:
    """The group of one container."""

    def __init__(self, hierarchy: Hierarchy, paths: dict[str, Path]) -> None:
        self._version = hierarchy.version
        self._paths = paths
        self._directories = tuple(sorted(set(paths.values())))
        self._oom_event = -1

    @property
    def joins(self) -> tuple[str, ...]:
        """Files that a process writes 0 to in order to join."""
        return tuple(str(directory / "cgroup.procs") for directory in self._directories)

    def create(self, limits: Limits) -> None:
        """Raises OSError."""
        for directory in self._directories:
            directory.mkdir(exist_ok=True)
        self.limit(limits)

    def limit(self, limits: Limits) -> None:
        """Applies limits, also to a running container."""
        cpu, memory, pids = self._paths["cpu"], self._paths["memory"], self._paths["pids"]
        tasks = str(limits.pids + _HOST_TASKS)
        quota = "-1" if self._version == 1 else "max"
        if limits.cpu_milli is not None:
            quota = str(max(_LEAST_QUOTA_US, limits.cpu_milli * _PERIOD_US // 1000))
        if self._version == 2:
            _write(cpu / "cpu.max", f"{quota} {_PERIOD_US}")
            _write(memory / "memory.max", "max" if limits.memory_bytes is None else str(limits.memory_bytes))
            _write_if_there(memory / "memory.swap.max", "0" if limits.memory_bytes is not None else "max")
            # One process of a sandbox less is a sandbox that hangs: all or none.
            _write_if_there(memory / "memory.oom.group", "1")
        else:
            _write(cpu / "cpu.cfs_period_us", str(_PERIOD_US))
            _write(cpu / "cpu.cfs_quota_us", quota)
            if limits.memory_bytes is not None:
                _write(memory / "memory.limit_in_bytes", str(limits.memory_bytes))
                _write_if_there(memory / "memory.memsw.limit_in_bytes", str(limits.memory_bytes))
        _write(pids / "pids.max", tasks)

    def watch_oom(self, callback: Callable[[], None]) -> None:
        """Calls `callback` in the running event loop when the group runs out of memory. Version 2 kills the whole group by itself."""
        if self._version == 2:
            return
        memory = self._paths["memory"]
        control = os.open(memory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                _write(memory / "cgroup.event_control", f"{event} {control}")
            except BaseException:
                os.close(event)
                raise
        finally:
            os.close(control)
        self._oom_event = event
        asyncio.get_running_loop().add_reader(event, self._on_oom, callback)

    def unwatch_oom(self) -> None:
        """Ends `watch_oom`. Safe to call twice."""
        event, self._oom_event = self._oom_event, -1
        if event >= 0:
            asyncio.get_running_loop().remove_reader(event)
            os.close(event)

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in this group for memory."""
        return (
            self._event(
                self._paths["memory"] / ("memory.events" if self._version == 2 else "memory.oom_control"), "oom_kill"
            )
            > 0
        )

    def usage(self) -> Usage | None:
        """None when the group is gone. Memory without the page cache that the kernel may drop."""
        try:
            if self._version == 2:
                cpu = self._event(self._paths["cpu"] / "cpu.stat", "usage_usec") / 1e6
                memory = int((self._paths["memory"] / "memory.current").read_text())
                cache = self._event(self._paths["memory"] / "memory.stat", "inactive_file")
            else:
                cpu = int((self._paths["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
                memory = int((self._paths["memory"] / "memory.usage_in_bytes").read_text())
                cache = self._event(self._paths["memory"] / "memory.stat", "total_inactive_file")
        except OSError:
            return None
        return Usage(cpu_seconds=cpu, memory_bytes=max(0, memory - cache))

    def kill_now(self) -> list[int]:
        """Sends SIGKILL to every process that is in the group now and returns their pids."""
        pids = self._pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def kill(self) -> None:
        """Kills until the group is empty. Blocks until every process is dead."""
        while pids := self._pids():
            for pid in pids:
                linux.kill_and_wait(pid)

    def remove(self) -> None:
        """Removes the empty group. No error when it is gone."""
        for directory in self._directories:
            _remove_directory(directory)

    def _pids(self) -> list[int]:
        try:
            return [int(line) for line in (self._paths["pids"] / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []

    def _on_oom(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._oom_event)
        callback()

    @staticmethod
    def _event(path: Path, name: str) -> int:
        try:
            for line in path.read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == name:
                    return int(value)
        except FileNotFoundError:
            pass
        return 0


def _mounted() -> list[Path]:
    """Where hierarchies are mounted, also those that we do not use."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        return [Path(line.split(" ")[1]) for line in file if line.split(" ")[2] in ("cgroup", "cgroup2")]


def _kill_all(directory: Path) -> None:
    with contextlib.suppress(OSError):
        while pids := (directory / "cgroup.procs").read_text().split():
            for pid in pids:
                linux.kill_and_wait(int(pid))


def _remove_directory(directory: Path) -> None:
    for attempt in range(200):
        try:
            directory.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # The kernel empties a group a moment after its last process is seen dead, and tells nobody in version 1.
            if error.errno != errno.EBUSY or attempt == 199:
                raise
            select.select([], [], [], 0.005)


def _delegate(directory: Path) -> None:
    _write(directory / "cgroup.subtree_control", "+cpu +memory +pids")


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _write_if_there(path: Path, text: str) -> None:
    if path.exists():
        _write(path, text)

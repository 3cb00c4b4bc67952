"""Limits and accounting of a container: one cgroup of our own, in version 1 (also hybrid) or version 2 hierarchies.

The sandbox runs with `--ignore-cgroups`: the group stays ours, so an out-of-memory kill can still be read after the end.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import FailedPrecondition
from stoker.nodes.endings import MOST_PROCESSES, Limits, Usage
from stoker.runtime import linux
from stoker.runtime.memory import MemoryEvents

_log = logging.getLogger(__name__)
_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1000  # the kernel refuses less
_WANTED = ("cpu", "cpuacct", "memory", "pids")
_HOST_TASKS = 512
"""Threads that the sandbox itself needs on the host, on top of the processes that the user's program may have."""
_SLACK = 8 << 20  # bytes that the kernel may have taken for each processor's later use
_MARGIN = 256 << 20  # bytes
_OOM_FILES = {1: "memory.oom_control", 2: "memory.events"}


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
        self._memory_bytes = 0
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

    def limit(self, memory_bytes: int) -> None:
        """What all groups below may have together. Raises OSError."""
        self._memory_bytes = memory_bytes
        memory, pids = (self.hierarchy.roots[name] / self.name for name in ("memory", "pids"))
        if self.hierarchy.version == 2:
            # Whoever wants more than that has to wait longer and longer.
            _write(memory / "memory.high", str(self._warn_at))
            _write(memory / "memory.max", str(memory_bytes))
            _write_if_there(memory / "memory.swap.max", "0")
        else:
            _write(memory / "memory.limit_in_bytes", str(memory_bytes))
            _write_if_there(memory / "memory.memsw.limit_in_bytes", str(memory_bytes))
        _write(pids / "pids.max", str(_machine_tasks() * 3 // 4))

    def watch_memory(self, callback: Callable[[], None]) -> MemoryEvents:
        """Calls `callback` in the running event loop, until what is returned is closed, when a group may have to end for the others to go on:
        when `is_full`, or when the kernel was faster and has killed something in one of them. Comes often while files are read and written."""
        events = MemoryEvents(self.hierarchy.roots["memory"] / self.name, self.hierarchy.version)
        events.open(callback, self._warn_at)
        return events

    def is_full(self, in_use: int | None = None) -> bool:
        """Whether there is hardly any memory left that the kernel could give to one of the groups. in_use: bytes that they have, when it is not
        all that the kernel counts."""
        if in_use is None:
            in_use = _in_use(self.hierarchy.roots["memory"] / self.name, self.hierarchy.version)
        return in_use > self._memory_bytes - self._margin

    @property
    def _warn_at(self) -> int:
        return self._memory_bytes - self._margin // 2

    @property
    def _margin(self) -> int:
        """What must be left for us to choose who ends: a program can take it in a fraction of a second, and then the kernel chooses."""
        return max(self._memory_bytes // 32, min(_MARGIN, self._memory_bytes // 8))

    def group(self, name: str) -> Cgroup:
        """The group of that name, which need not exist yet."""
        paths = {controller: root / self.name / name for controller, root in self.hierarchy.roots.items()}
        return Cgroup(self.hierarchy, paths)

    def discard(self, name: str, seconds: float = 30.0) -> bool:
        """Kills and removes a group in which a program made groups of its own, in whatever hierarchies. Blocks until it is gone, at most for
        about so long; whether it is."""
        deadline = time.monotonic() + seconds
        for root in _mounted():
            group = root / self.name / name
            for directory in (*sorted(group.rglob("*/"), reverse=True), group):
                if not _kill_all(directory, deadline):
                    return False
                _remove_directory(directory)
            if root not in self.hierarchy.roots.values():
                with contextlib.suppress(OSError):
                    (root / self.name).rmdir()
        return True

    def sweep(self) -> None:
        """Kills and removes every group below ours, and ours. Blocks until they are gone."""
        ours = [root / self.name for root in _mounted() if (root / self.name).is_dir()]
        names = {child.name for directory in ours for child in directory.iterdir() if child.is_dir()}
        for name in sorted(names):
            if not self.discard(name):
                _log.error("processes that an earlier server left in the cgroup %s cannot be killed", name)
        for directory in self.directories:
            try:
                directory.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
                    raise


class Cgroup:
    """The group of one container."""

    def __init__(self, hierarchy: Hierarchy, paths: dict[str, Path]) -> None:
        self._version = hierarchy.version
        self._paths = paths
        self._directories = tuple(sorted(set(paths.values())))
        self._events = MemoryEvents(paths["memory"], hierarchy.version)

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
        tasks = str(min(limits.tasks, MOST_PROCESSES) + _HOST_TASKS)
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
        if self._version == 1:
            self._events.open(lambda: callback() if self._is_at_its_limit() else None)

    def unwatch_oom(self) -> None:
        """Ends `watch_oom`. Safe to call twice."""
        self._events.close()

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in this group for memory."""
        return _value(self._paths["memory"] / _OOM_FILES[self._version], "oom_kill") > 0

    def hit_its_limit(self) -> bool:
        """Whether that was for want of memory of its own, and not of that of all groups together."""
        if self._version == 2:
            return _value(self._paths["memory"] / "memory.events", "oom") > 0
        return self._is_at_its_limit()

    def was_refused_tasks(self) -> bool:
        """Whether something in this group wanted one more process or thread than it may have."""
        return _value(self._paths["pids"] / "pids.events", "max") > 0

    def usage(self) -> Usage | None:
        """None when the group is gone. Memory without the page cache that the kernel may drop."""
        try:
            memory = _in_use(self._paths["memory"], self._version)
            if self._version == 2:
                cpu = _value(self._paths["cpu"] / "cpu.stat", "usage_usec") / 1e6
            else:
                cpu = int((self._paths["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
        except OSError:
            return None
        return Usage(cpu_seconds=cpu, memory_bytes=memory)

    def first_pids(self, most: int) -> list[int]:
        """Of the processes that are in the group now, those that were started first."""
        return sorted(self._pids())[:most]

    def kill_now(self) -> list[int]:
        """Sends SIGKILL to every process that is in the group now and returns their pids."""
        pids = self._pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def kill(self, seconds: float = 30.0) -> bool:
        """Kills until the group is empty. Blocks until every process is dead, at most for about so long; whether they are."""
        return _kill_all(self._paths["pids"], time.monotonic() + seconds)

    def remove(self) -> None:
        """Removes the empty group. No error when it is gone."""
        for directory in self._directories:
            _remove_directory(directory)

    def _pids(self) -> list[int]:
        return _pids_in(self._paths["pids"])

    def _is_at_its_limit(self) -> bool:
        """In version 1 a group is told also of what happens to the whole tree."""
        try:
            used, limit = (
                int((self._paths["memory"] / f"memory.{name}_in_bytes").read_text()) for name in ("usage", "limit")
            )
        except FileNotFoundError:
            return False
        return used > limit - _SLACK or self.ran_out_of_memory()


def _mounted() -> list[Path]:
    """Where hierarchies are mounted, also those that we do not use."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        return [Path(line.split(" ")[1]) for line in file if line.split(" ")[2] in ("cgroup", "cgroup2")]


def _pids_in(directory: Path) -> list[int]:
    """Of a group and of those that a program made below it."""
    try:
        found = [(group / "cgroup.procs").read_text() for group in (directory, *directory.rglob("*/"))]
    except OSError:  # it is gone, or going
        return []
    return [int(line) for text in found for line in text.split()]


def _kill_all(directory: Path, deadline: float) -> bool:
    """Kills until a group is empty; False when it is not by the deadline (time.monotonic)."""
    while pids := _pids_in(directory):
        for pid in pids:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            linux.kill_and_wait(pid, left)
    return True


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


def _in_use(memory: Path, version: int) -> int:
    """Bytes of a group and those below it that the kernel cannot take back: without the cache of files. Raises OSError."""
    prefix, name = ("", "memory.current") if version == 2 else ("total_", "memory.usage_in_bytes")
    used = int((memory / name).read_text())
    return max(0, used - sum(_value(memory / "memory.stat", f"{prefix}{kind}_file") for kind in ("active", "inactive")))


def _value(path: Path, name: str) -> int:
    """Of one line of a file of names and values; 0 when there is none."""
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except OSError:  # it is gone, or going
        pass
    return 0


def _machine_tasks() -> int:
    """Processes and threads that the machine can have."""
    return min(int(Path("/proc/sys/kernel", name).read_text()) for name in ("pid_max", "threads-max"))


def _delegate(directory: Path) -> None:
    _write(directory / "cgroup.subtree_control", "+cpu +memory +pids")


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _write_if_there(path: Path, text: str) -> None:
    if path.exists():
        _write(path, text)

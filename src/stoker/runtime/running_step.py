"""A command of a build while it runs, as those see it who look after memory, disk and processes of the machine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from stoker.runtime.cgroups import Cgroup
from stoker.runtime.written import Written

_MAIN_PROCESSES = 8


class RunningStep:
    """`group` holds its processes, `room` what it writes. say: takes a line of the build's log. It asks for no memory in advance."""

    def __init__(self, group: Cgroup, room: Path, disk_limit: int, say: Callable[[str], None]) -> None:
        """disk_limit: bytes."""
        self.disk_limit = disk_limit
        self.places: Collection[Path] = (room / "upper", room / "scratch")
        self._group = group
        self._say = say
        self._ended = False

    def memory_in_use(self) -> int:
        """Bytes."""
        usage = self._group.usage()
        return usage.memory_bytes if usage is not None else 0

    def main_pids(self) -> list[int]:
        return self._group.first_pids(_MAIN_PROCESSES)

    def printed(self) -> int:
        return 0

    def was_refused_tasks(self) -> bool:
        return self._group.was_refused_tasks()

    def end_for_memory(self) -> None:
        self._end("the memory of all containers and builds was used up, and it had most above what it asked for.")

    def end_for_tasks(self) -> None:
        self._end("it wanted more processes than it may have.")

    def end_for_disk(self, written: Written, *, free: int | None) -> None:
        has = f"It has written {written.size >> 20} MiB in {written.files} files."
        if free is not None:
            self._end(f"it was writing while only {free >> 20} MiB are free on the disk of the server. {has}")
        else:
            self._end(f"it may write {self.disk_limit >> 20} MiB to the disk. {has}")

    def _end(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            self._say(f"The step was ended because {why}")
        self._group.kill_now()

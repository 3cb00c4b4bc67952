"""Looks after the memory of all containers together: when it is used up, one of them ends and the others live on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from stoker.runtime.cgroups import Cgroup, CgroupTree
from stoker.runtime.memory import MemoryEvents
from stoker.runtime.running_step import RunningStep
from stoker.runtime.sandbox import Sandbox

_FREEING = 5.0
"""Seconds in which the memory of a container that was killed should be free."""
_LOOK_AGAIN = 0.1
"""Seconds between looks at the memory, which files that are read and written cause without end."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Users:
    """Who has memory just now. `waiting`: the groups of sandboxes that were prepared."""

    sandboxes: Collection[Sandbox]
    steps: Collection[RunningStep]
    waiting: Collection[Cgroup]


class MemoryGuard:
    def __init__(self, users: Callable[[], Users]) -> None:
        self._users = users
        self._groups: CgroupTree | None = None
        self._events: MemoryEvents | None = None
        self._making_room: asyncio.Task[None] | None = None

    def open(self, groups: CgroupTree) -> None:
        """groups: those of all users, with their limit set."""
        self._groups = groups
        self._events = groups.watch_memory(self._look)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
        if self._making_room is not None:
            self._making_room.cancel()

    def _look(self) -> None:
        if self._making_room is None:
            self._making_room = asyncio.get_running_loop().create_task(self._make_room())

    async def _make_room(self) -> None:
        """The container that has most above its request ends, or a step of a build that has more."""
        again = False
        try:
            assert self._groups is not None
            for sandbox in self._losers():
                sandbox.end_for_memory()
            ending = [asyncio.ensure_future(each.wait()) for each in self._users().sandboxes if each.ending]
            if ending:  # what they have is about to be free
                await asyncio.wait(ending, timeout=_FREEING)
            elif self._groups.is_full():
                self._end_largest(self._groups)
            await asyncio.sleep(_LOOK_AGAIN)  # what happens meanwhile is seen then
            again = bool(self._losers()) or self._groups.is_full()
        except OSError:
            _log.exception("the memory of containers cannot be watched")
        finally:
            self._making_room = None
        if again:
            self._look()

    def _losers(self) -> list[Sandbox]:
        """Those of which the kernel killed a part: the rest would wait for it for ever."""
        return [sandbox for sandbox in self._users().sandboxes if not sandbox.ending and sandbox.lost_a_process()]

    def _end_largest(self, groups: CgroupTree) -> None:
        """Unless the memory is that of containers that are gone, of which the kernel has some for a moment."""
        users = self._users()
        used = sum(sandbox.memory_in_use() for sandbox in users.sandboxes)
        spare = sum(_in_use(group) for group in users.waiting)
        steps = [(step.memory_in_use(), step) for step in users.steps]
        if not groups.is_full(used + spare + sum(has for has, _ in steps)):
            return
        excesses: list[tuple[int, Sandbox | RunningStep]] = [*steps]
        excesses += [(sandbox.memory_excess(), sandbox) for sandbox in users.sandboxes]
        excess, largest = max(excesses, key=lambda found: found[0], default=(0, None))
        if largest is not None and excess > 0:
            largest.end_for_memory()


def _in_use(group: Cgroup) -> int:
    usage = group.usage()
    return usage.memory_bytes if usage is not None else 0

"""Notices containers that give no sign of life any more, and ends those that cannot go on."""

from __future__ import annotations

import asyncio
import time

import structlog

from stoker.aio.jobs import Jobs
from stoker.services.containers.launching import Launcher
from stoker.services.containers.task import Task
from stoker.services.pools.scheduler import Scheduler

_QUEUE = 2.0  # seconds in which what came while the server itself could not look is looked at
_PATIENCE = 15.0  # seconds that a sandbox may take for an answer
_ASK_AGAIN = 2  # times in a row that it must not answer
_LONG = 300.0  # seconds of silence of a container that can go on, after which its app's log says so
_log = structlog.get_logger(__name__)


class Heartbeats:
    """The client in a container says every 15 s that it lives. It cannot while code of the user's keeps Python's interpreter lock, so silence
    alone is no reason: the runtime is asked whether the container can go on."""

    def __init__(self, scheduler: Scheduler, launcher: Launcher, *, lost_after: float) -> None:
        """lost_after: seconds of silence after which the runtime is asked."""
        self._scheduler = scheduler
        self._launcher = launcher
        self._lost_after = lost_after
        self._heard: dict[str, float] = {}
        self._watches = Jobs("heartbeats")

    def beat(self, task_id: str) -> None:
        """Event: a container gives a sign of life. From its first one on it is expected to."""
        new = task_id not in self._heard
        self._heard[task_id] = time.monotonic()
        if new:
            self._watches.start(f"watch {task_id}", self._watch(task_id))

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()

    async def _watch(self, task_id: str) -> None:
        try:
            told = False
            while (task := self._living(task_id)) is not None:
                silence = self._silence(task_id)
                if silence < self._lost_after:
                    await asyncio.sleep(self._lost_after - silence)
                    continue
                why = await self._why_stuck(task)
                if why:
                    await self._end(task, why)
                    return
                if self._silence(task_id) >= _LONG and not told:
                    told = True
                    self._say_silent(task)
                await asyncio.sleep(self._lost_after)
        finally:
            del self._heard[task_id]

    def _living(self, task_id: str) -> Task | None:
        """None for one that has ended, or shall: the client falls silent then, and others see to its end."""
        task = self._scheduler.task(task_id)
        return task if task is not None and not task.stopping and not task.stop_reason else None

    def _silence(self, task_id: str) -> float:
        return time.monotonic() - self._heard[task_id]

    async def _why_stuck(self, task: Task) -> str:
        """Empty when it is not, or gave a sign of life after all."""
        why = ""
        await asyncio.sleep(_QUEUE)
        for _ in range(_ASK_AGAIN):
            if not task.is_launched or self._silence(task.id) < self._lost_after:
                return ""
            why = await task.stuck(_PATIENCE)
            if not why:
                return ""
        return why if self._silence(task.id) >= self._lost_after else ""

    async def _end(self, task: Task, why: str) -> None:
        if task.is_launched and self._living(task.id) is not None:
            task.stop_reason = f"It gave no sign of life for {self._silence(task.id):.0f} s, and {why}."
            _log.warning("a container is stuck and is ended", task=task.id, why=why)
            await task.kill()

    def _say_silent(self, task: Task) -> None:
        self._launcher.say(
            task,
            f"The container has given no sign of life for {self._silence(task.id):.0f} s, but its processes run. Code that keeps Python's "
            "interpreter lock for so long can be neither cancelled nor told to exit.\n",
        )

"""Background tasks with an owner, who knows their names, sees how they end, and waits for them at its own end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import structlog

from stoker.errors import StokerError

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between tries: doubled, up to the second
_log = structlog.get_logger(__name__)


class Jobs:
    """The background tasks of one owner. Names are for the log: `stop ap-1`, `remove the files of vo-1`."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._tasks))

    def start(self, name: str, work: Coroutine[Any, Any, T], *, awaited: bool = False) -> asyncio.Task[T]:
        """Does `work` beside the caller. An error is logged, unless the task is awaited by somebody who deals with it."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._forget if awaited else self._ended)
        return task

    def insist(self, name: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Does beside the caller what must happen: `work` is repeated, ever more slowly, until it has succeeded once, whatever it raises.

        What must happen even when the server ends before that needs a note in the database as well (see store/duties.py)."""
        return self.start(name, self._until_done(name, work, None))

    async def see_to(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Does what must happen while the caller waits. When it fails the caller sees why, and it is repeated beside until it is done."""
        try:
            return await work()
        except BaseException as error:
            self.start(name, self._until_done(name, work, error))
            raise

    async def close(self, patience: float | None = None) -> None:
        """Waits for all tasks, also those that they start. Those that need longer than `patience` seconds (None: any time) are cancelled."""
        loop = asyncio.get_running_loop()
        deadline = None if patience is None else loop.time() + patience
        while self._tasks:
            left = None if deadline is None else max(0.0, deadline - loop.time())
            done, late = await asyncio.wait(self._tasks, timeout=left)
            if late and not done:
                for task in late:
                    _log.warning("given up", job=task.get_name())
                    task.cancel()
                await asyncio.wait(late)
                return

    async def _until_done(self, name: str, work: Callable[[], Awaitable[T]], failed: BaseException | None) -> T:
        """failed: how it failed just before, if it was tried."""
        pause, said = _FIRST_PAUSE, ""
        while True:
            if failed is not None:
                said = self._complain(name, failed, said)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                result = await work()
            except Exception as error:
                failed = error
            else:
                if said:
                    _log.info("done at last", job=f"{self._owner}: {name}")
                return result

    def _complain(self, name: str, error: BaseException, said: str) -> str:
        """Once for each reason; returns the reason."""
        why = f"{type(error).__name__}: {error}"
        if why != said:
            defect = not isinstance(error, (StokerError, OSError, asyncio.CancelledError))
            _log.warning(
                "failed and is tried again", job=f"{self._owner}: {name}", error=why, exc_info=error if defect else None
            )
        return why

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            defect = not isinstance(error, (StokerError, OSError))
            _log.error(
                "a background task failed", job=task.get_name(), error=str(error), exc_info=error if defect else None
            )

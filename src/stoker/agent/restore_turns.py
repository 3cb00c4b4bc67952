"""Restores take turns: they keep the processors busy from first to last, so that of many at once each would be as late as the last."""

from __future__ import annotations

import asyncio

# Seconds of one turn: what takes longer may be waiting for something else, such as a model on its way to a GPU.
_LONGEST = 1.0


class RestoreTurns:
    """First come, first served, as many at once as `most`."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._running: dict[str, asyncio.TimerHandle] = {}  # by task: the end of its turn

    async def begin(self, task_id: str) -> None:
        """Waits for a turn. It lasts until `end`, but no longer than a second."""
        await self._free.acquire()
        self._running[task_id] = asyncio.get_running_loop().call_later(_LONGEST, self.end, task_id)

    def end(self, task_id: str) -> None:
        """No error when it has ended, or had none."""
        timer = self._running.pop(task_id, None)
        if timer is not None:
            timer.cancel()
            self._free.release()

"""Restores take turns: they keep the processors busy from first to last, so that of many at once each would be as late as the last."""

from __future__ import annotations

import asyncio
from collections import deque

_LONGEST = (
    1.0  # seconds of one turn: what takes longer may be waiting for something else, such as a model on its way to a GPU
)


class RestoreTurns:
    """First come, first served, as many at once as `most`."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._running: dict[str, asyncio.TimerHandle] = {}  # by task: the end of its turn

    async def begin(self, task_id: str) -> None:
        """Waits for a turn. It lasts until `end`, but no longer than a second."""
        loop = asyncio.get_running_loop()
        if self._free:
            self._free -= 1
        else:
            turn = loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._cancelled(turn)
                raise
        self._running[task_id] = loop.call_later(_LONGEST, self.end, task_id)

    def end(self, task_id: str) -> None:
        """No error when it has ended, or had none."""
        timer = self._running.pop(task_id, None)
        if timer is not None:
            timer.cancel()
            self._pass_on()

    def _cancelled(self, turn: asyncio.Future[None]) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled():  # it was given in that very moment
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

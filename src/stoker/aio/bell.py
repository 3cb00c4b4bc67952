"""A bell that wakes all who wait for a change."""

from __future__ import annotations

import asyncio


class Bell:
    """Whoever waits looks again when it rings, for it says nothing but that something has changed."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[bool]] = set()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiters)

    def ring(self) -> None:
        """Wakes all who wait now."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _settle(waiter, True)

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits for the next ring, at most `timeout` seconds (None: for ever); whether it rang."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = None if timeout is None else loop.call_later(max(0.0, timeout), _settle, waiter, False)
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()


def _settle(waiter: asyncio.Future[bool], rang: bool) -> None:
    if not waiter.done():
        waiter.set_result(rang)

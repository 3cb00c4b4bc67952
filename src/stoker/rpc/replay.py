"""Repeats of a request under one idempotency key get the first answer again.

The client repeats a request whose answer was lost (connection cut, server restarted); without this a repeat would run the user's code twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

_KEEP_SECONDS = 600.0  # the client gives up long before


class ReplayCache:
    """Remembers answers for ten minutes (the oldest for less when they are many or large). Failures are not: a repeat may succeed."""

    def __init__(self, most_answers: int, most_bytes: int) -> None:
        self._most_answers = most_answers
        self._most_bytes = most_bytes
        self._sizes: dict[Hashable, int] = {}  # of the answers that are there
        self._bytes = 0
        self._answers: OrderedDict[Hashable, tuple[float, asyncio.Future[Any]]] = OrderedDict()

    async def once(self, key: Hashable, act: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of `act`, run at most once per key even when repeats overlap."""
        known = self._answers.get(key)
        if known is not None:
            return await asyncio.shield(known[1])
        self._forget_old()
        # The work goes on when the first caller vanishes: its repeat is on the way.
        future = asyncio.ensure_future(act())
        self._answers[key] = (time.monotonic(), future)
        future.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(future)

    def _done(self, key: Hashable, done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._answers.pop(key, None)
        else:
            self._sizes[key] = done.result().ByteSize()
            self._bytes += self._sizes[key]

    def _forget_old(self) -> None:
        oldest_kept = time.monotonic() - _KEEP_SECONDS
        for _ in range(len(self._answers)):
            key, (made, future) = next(iter(self._answers.items()))
            if made > oldest_kept and len(self._answers) <= self._most_answers and self._bytes <= self._most_bytes:
                return
            if future.done():
                del self._answers[key]
                self._bytes -= self._sizes.pop(key, 0)
            else:
                self._answers[key] = (time.monotonic(), future)  # it counts from its answer on, and holds up no others
                self._answers.move_to_end(key)

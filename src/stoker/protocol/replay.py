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
_KEEP_ANSWERS = 100_000


class ReplayCache:
    """Remembers answers for ten minutes. Failures are not remembered: a repeat may succeed."""

    def __init__(self) -> None:
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
        future.add_done_callback(lambda done: self._drop_failure(key, done))
        return await asyncio.shield(future)

    def _drop_failure(self, key: Hashable, done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._answers.pop(key, None)

    def _forget_old(self) -> None:
        oldest_kept = time.monotonic() - _KEEP_SECONDS
        while self._answers:
            _, (made, future) = next(iter(self._answers.items()))
            if not future.done() or (made > oldest_kept and len(self._answers) <= _KEEP_ANSWERS):
                return
            self._answers.popitem(last=False)

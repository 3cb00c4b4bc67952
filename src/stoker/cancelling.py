"""Work that must not be left half done when whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. It runs to its end also when the caller is cancelled, however often; only then does the caller see that.

    A thread, for one, goes on when the task that waits for it is cancelled, and so must not be cleaned up after before it ended: a file that
    is closed under it, say, and another file that gets its number."""
    job = asyncio.ensure_future(work)
    cancelled = False
    while not job.done():
        try:
            await asyncio.wait([job])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not job.cancelled():
            job.exception()  # seen: the cancellation comes first
        raise asyncio.CancelledError
    return job.result()

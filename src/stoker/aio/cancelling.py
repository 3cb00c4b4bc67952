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


async def within(work: Coroutine[Any, Any, T], seconds: float | None) -> T:
    """What `work` returns. When that takes longer, or the caller is cancelled, `work` is cancelled, once, and cleans up in peace before the
    caller goes on: with TimeoutError, or its own cancellation, which `asyncio.wait_for` swallows now and then before Python 3.12."""
    job = asyncio.ensure_future(work)
    try:
        await asyncio.wait([job], timeout=seconds)
    except asyncio.CancelledError:
        await _called_off(job)
        raise
    if not job.done():
        await _called_off(job)
        if job.cancelled():
            raise TimeoutError
    return job.result()


async def _called_off(job: asyncio.Future[Any]) -> None:
    job.cancel()
    await finished(_end_of(job))
    if not job.cancelled():
        job.exception()  # seen


async def _end_of(job: asyncio.Future[Any]) -> None:
    await asyncio.wait([job])

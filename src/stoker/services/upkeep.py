"""Work that is due now and then: throwing away what expired, writing down what may be written late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

_SECONDS = 60.0
_log = structlog.get_logger(__name__)


class Upkeep:
    """Runs all jobs once a minute, one after the other, from `start` to `close`. A job that fails is tried again the next time."""

    def __init__(self, jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
        self._jobs = jobs
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            for job in self._jobs:
                try:
                    await job()
                except Exception:
                    _log.exception("upkeep failed", job=getattr(job, "__qualname__", str(job)))

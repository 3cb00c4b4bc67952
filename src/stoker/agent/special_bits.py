"""Keeps set-user-id bits off volumes: programs in containers can set them, where they mean nothing, and the host would honour them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import structlog

from stoker.store.special_bits import remove_special_bits

_PERIOD = 300.0  # seconds between looks at a directory that containers can write to
_SOON = 60.0  # seconds at least between two looks at the same one: looking at a million files takes seconds
_log = structlog.get_logger(__name__)


class SpecialBits:
    """Looks at directories that containers can write to, while they can and once more afterwards. Told by the containers of the node."""

    def __init__(self) -> None:
        self._mounted: dict[str, list[Path]] = {}
        self._uses: Counter[Path] = Counter()
        self._looked_at: dict[Path, float] = {}
        self._jobs: dict[Path, asyncio.Task[None]] = {}

    def mounted(self, task_id: str, directories: Iterable[Path]) -> None:
        """Event: a container can write to these directories."""
        self._mounted[task_id] = list(directories)
        for directory in self._mounted[task_id]:
            self._uses[directory] += 1
            if directory not in self._jobs:
                self._look_from(directory, asyncio.get_running_loop().time() + _PERIOD)

    def left(self, task_id: str) -> None:
        """Event: a container has ended. What it left is looked at soon."""
        for directory in self._mounted.pop(task_id, ()):
            self._uses[directory] -= 1
            job = self._jobs.pop(directory, None)
            if job is not None:
                job.cancel()
            self._look_from(directory, self._looked_at.get(directory, -_SOON) + _SOON)

    async def close(self) -> None:
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    def _look_from(self, directory: Path, when: float) -> None:
        self._jobs[directory] = asyncio.get_running_loop().create_task(self._look(directory, when))

    async def _look(self, directory: Path, when: float) -> None:
        """Looks at a time of the event loop, and again and again while a container can write there."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, when - loop.time()))
            self._looked_at[directory] = loop.time()
            try:
                count = await asyncio.to_thread(remove_special_bits, directory)
                if count:
                    _log.info("set-user-id bits removed", directory=directory.name, files=count)
            except Exception:
                _log.exception("set-user-id bits not looked for", directory=str(directory))
            if not self._uses[directory]:
                break
            when = loop.time() + _PERIOD
        del self._uses[directory], self._jobs[directory]
        self._looked_at = {at: time for at, time in self._looked_at.items() if time > loop.time() - _SOON}

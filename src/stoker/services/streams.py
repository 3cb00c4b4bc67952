"""Chunks that flow between a caller and the container of its call while it runs: what generators yield, what web requests carry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass
class _Stream:
    chunks: dict[int, bytes] = field(default_factory=dict)  # by index, from 1
    waiters: set[asyncio.Future[None]] = field(default_factory=set)

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class Streams:
    """One direction of such chunks, by call. They live in memory: a caller that comes back finds them, a restarted server does not."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}

    def put(self, call_id: str, index: int, chunk: bytes) -> None:
        """Adds a chunk; a repeat of an index changes nothing."""
        stream = self._streams.setdefault(call_id, _Stream())
        stream.chunks.setdefault(index, chunk)
        stream.wake()

    async def follow(self, call_id: str, after: int) -> AsyncIterator[bytes]:
        """Chunks with an index above `after`, in order, for as long as somebody listens."""
        stream = self._streams.setdefault(call_id, _Stream())
        while True:
            while (after + 1) in stream.chunks:
                after += 1
                yield stream.chunks[after]
            waiter = asyncio.get_running_loop().create_future()
            stream.waiters.add(waiter)
            try:
                await waiter
            finally:
                stream.waiters.discard(waiter)

    def forget(self, call_id: str) -> None:
        self._streams.pop(call_id, None)

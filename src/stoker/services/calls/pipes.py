"""Numbered chunks from one writer to one reader, with a bound on what the reader has not taken yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from stoker.errors import FailedPrecondition


class Pipe:
    """Chunks have indexes 1, 2, ... Writer and reader may each break off and come back where they were."""

    def __init__(self, window: int, *, replayable: bool = False) -> None:
        """window: bytes that may wait for the reader before the writer has to. replayable: what was read stays until `forget_read`, so that
        another reader can start from the beginning."""
        self._window = window
        self._replayable = replayable
        self._chunks: dict[int, bytes] = {}
        self._last = 0  # highest index written
        self._read = 0  # highest index read
        self._dropped = 0  # highest index that is gone
        self._unread = 0  # bytes
        self._reader: object = None  # the newest one counts
        self._finished = False
        self._discarding = False
        self._waiters: set[asyncio.Future[None]] = set()

    async def put(self, index: int, chunk: bytes) -> None:
        """Adds a chunk and waits while too much is unread. A repeat of an index adds nothing."""
        self.put_now(index, chunk)
        while self._unread > self._window and not self._discarding:
            await self._change()

    def put_now(self, index: int, chunk: bytes) -> None:
        """Adds a chunk without waiting."""
        if index <= self._last or self._discarding or self._finished:
            return
        self._chunks[index] = chunk
        self._last = index
        self._unread += len(chunk)
        self._wake()

    @property
    def last(self) -> int:
        """The highest index written, 0 for none."""
        return self._last

    async def follow(self, after: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """(index, chunk) with an index above `after`, until the writer has finished. A new reader ends the one before.

        Raises FailedPrecondition when such chunks are gone."""
        if after < self._dropped:
            raise FailedPrecondition("What was sent to this request has been read already and cannot be read again.")
        reader = self._reader = object()
        self._read = after
        self._unread = sum(len(chunk) for index, chunk in self._chunks.items() if index > after)
        self._wake()
        while self._reader is reader and not self._discarding:
            chunk = self._chunks.get(self._read + 1)
            if chunk is not None:
                yield self._read + 1, chunk
                self._take(reader, chunk)
            elif self._finished:
                return
            else:
                await self._change()

    def forget_read(self) -> None:
        """What was read is not kept any more, nor will be."""
        self._replayable = False
        self._drop()

    def finish(self) -> None:
        """No more chunks will come."""
        self._finished = True
        self._wake()

    def discard(self) -> None:
        """Nobody reads any more: all chunks are dropped, and the writer never waits again."""
        self._discarding = True
        self._chunks.clear()
        self._unread = 0
        self._wake()

    def _take(self, reader: object, chunk: bytes) -> None:
        if self._reader is not reader or self._discarding:
            return
        self._read += 1
        self._unread -= len(chunk)
        if not self._replayable:
            self._drop()
        self._wake()

    def _drop(self) -> None:
        while self._dropped < self._read:
            self._dropped += 1
            self._chunks.pop(self._dropped, None)

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

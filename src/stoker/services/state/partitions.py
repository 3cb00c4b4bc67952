"""The partitions of queues as they are known in memory: which items wait, in what order, and who waits for some."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from stoker.errors import ResourceExhausted

MAX_ITEMS = 5_000  # per partition
MAX_PARTITION_BYTES = 64 << 20


@dataclass
class Partition:
    """The items that wait, oldest first, as (seq, size in bytes)."""

    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    size: int = 0
    reserved: int = 0  # items that are being stored or handed out: they may be here in a moment
    expires_at: float = float("inf")
    getters: deque[asyncio.Future[None]] = field(default_factory=deque)
    watchers: set[asyncio.Future[None]] = field(default_factory=set)

    @property
    def length(self) -> int:
        return len(self.waiting) if self.expires_at > time.time() else 0

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.reserved or self.getters or self.watchers)

    def add(self, seq: int, size: int) -> None:
        self.waiting.append((seq, size))
        self.size += size

    def take(self, count: int) -> list[tuple[int, int]]:
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        self.size -= sum(size for _, size in taken)
        return taken

    def give_back(self, taken: Sequence[tuple[int, int]]) -> None:
        """Items are again where they were, whatever else was given back before them."""
        self.waiting = deque(sorted([*taken, *self.waiting]))
        self.size += sum(size for _, size in taken)
        self.wake_getters()
        self.wake_watchers()

    def expire(self) -> list[int]:
        """Empties a partition whose time is over; the seqs to delete."""
        if self.expires_at > time.time():
            return []
        return [seq for seq, _ in self.take(len(self.waiting))]

    def wake_getters(self) -> None:
        """As many as there are items."""
        count = len(self.waiting)
        while count and self.getters:
            count -= wake(self.getters.popleft())

    def wake_watchers(self) -> None:
        for watcher in self.watchers:
            wake(watcher)
        self.watchers.clear()

    def check_room(self, values: Sequence[bytes]) -> None:
        """Raises ResourceExhausted."""
        count = len(self.waiting) + self.reserved
        if count + len(values) > MAX_ITEMS:
            raise ResourceExhausted(
                f"The partition is full: it has {count} items, {len(values)} more were to be put, and {MAX_ITEMS} is the most.",
                0.0,
            )
        if self.waiting and self.size + sum(map(len, values)) > MAX_PARTITION_BYTES:
            raise ResourceExhausted(
                f"The partition is full: it has {self.size} bytes, and {MAX_PARTITION_BYTES >> 20} MiB is the most.",
                0.0,
            )


@dataclass
class Attempt:
    """One attempt at a get. A repeat of the same get ends it: whoever made it is gone, even if the connection does not know it yet."""

    over: asyncio.Future[None]  # resolved when all it took is handed out, or back where it was
    getter: asyncio.Future[None] | None = None  # with which it waits for an item
    returning: asyncio.Task[None] | None = None  # what gives back what it took
    is_stale: bool = False

    def give_up(self) -> None:
        self.is_stale = True
        if self.getter is not None:
            wake(self.getter)


def wake(future: asyncio.Future[None]) -> bool:
    """Whether it was still waiting."""
    if future.done():
        return False
    future.set_result(None)
    return True

"""Queues: items in partitions, first in first out. An item is stored before its put is acknowledged, and handed out once.

The database keeps the items; which of them wait, and in what order, is known in memory, so that a get neither searches nor polls.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from stoker.errors import InvalidArgument, NotFound, ResourceExhausted
from stoker.services.environments import Environments
from stoker.services.named import NamedObjects
from stoker.services.waiting import settled
from stoker.store import tables
from stoker.store.database import Database

T = TypeVar("T")

MAX_ITEMS = 5_000  # per partition
MAX_ITEM_BYTES = 1 << 20
MAX_PARTITION_BYTES = 64 << 20
MAX_PARTITIONS = 100_000  # per queue
MAX_KEY_BYTES = 64
DEFAULT_TTL = 86_400  # seconds
_MAX_TTL = 366 * 86_400
_KEEP_TAKEN = 900.0  # seconds for which a get can be repeated
_PAGE_ITEMS, _PAGE_BYTES = 100, 8 << 20
_BATCH = 500  # parameters of one statement

_items = tables.queue_items


@dataclass(frozen=True)
class Item:
    """`seq` grows with the age of the server and never comes again."""

    seq: int
    value: bytes


@dataclass
class _Partition:
    """The items that wait, oldest first, as (seq, size in bytes)."""

    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    size: int = 0
    reserved: int = 0  # items that are being stored or handed out: they may be here in a moment
    expires_at: float = float("inf")
    getters: deque[asyncio.Future[None]] = field(default_factory=deque)
    watchers: set[asyncio.Future[None]] = field(default_factory=set)

    def add(self, seq: int, size: int) -> None:
        self.waiting.append((seq, size))
        self.size += size

    def take(self, count: int) -> list[tuple[int, int]]:
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        self.size -= sum(size for _, size in taken)
        return taken

    def give_back(self, taken: Sequence[tuple[int, int]]) -> None:
        self.waiting.extendleft(reversed(taken))
        self.size += sum(size for _, size in taken)
        self.wake_getters()

    def wake_getters(self) -> None:
        """As many as there are items."""
        for _ in range(min(len(self.waiting), len(self.getters))):
            _wake(self.getters.popleft())

    def wake_watchers(self) -> None:
        for watcher in self.watchers:
            _wake(watcher)
        self.watchers.clear()

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.reserved or self.getters or self.watchers)


class Queues:
    def __init__(self, *, database: Database, environments: Environments) -> None:
        self._database = database
        self._partitions: dict[str, dict[bytes, _Partition]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        # Time in it, so that a number is not used again after a restart when everything had been taken.
        self._last_seq = int(time.time() * 1e6)
        self.objects = NamedObjects(
            database=database,
            environments=environments,
            table=tables.queues,
            prefix="qu",
            noun="queue",
            forget=_forget,
            on_deleted=self._deleted,
        )
        self._load()

    async def put(
        self,
        queue_id: str,
        partition_key: bytes,
        values: Sequence[bytes],
        *,
        ttl: int = 0,
        key: str = "",
        repeated: bool = False,
    ) -> None:
        """Appends items. ttl: seconds after which the partition is emptied unless something is put again, 0 for a day.

        key: names this put; one that is `repeated` under its key stores nothing a second time. Raises NotFound, InvalidArgument, or
        ResourceExhausted when the partition is full."""
        self.objects.get(queue_id)
        ttl = ttl or DEFAULT_TTL
        _check_put(partition_key, values, ttl)
        if not values or (repeated and key and self._was_put(queue_id, partition_key, key)):
            return
        partition = self._partition(queue_id, partition_key)
        expired = self._expire(partition)
        _check_room(partition, values)
        numbered = [Item(self._next_seq(), value) for value in values]
        expires_at = time.time() + ttl
        rows = [_row(item, queue_id, partition_key, expires_at, key) for item in numbered]

        def store(connection: sa.Connection) -> None:
            if connection.execute(sa.select(tables.queues.c.id).where(tables.queues.c.id == queue_id)).first() is None:
                raise _unknown(queue_id)
            _delete(connection, expired)
            connection.execute(sa.insert(_items), rows)

        partition.reserved += len(rows)
        # What is stored must also be known in memory, even when the caller goes meanwhile.
        await asyncio.shield(self._spawn(self._append(partition, numbered, expires_at, self._database.write(store))))

    async def get(
        self,
        queue_id: str,
        partition_key: bytes,
        count: int,
        timeout: float,
        *,
        key: str = "",
        repeated: bool = False,
    ) -> list[bytes]:
        """Takes up to `count` items as soon as there is one, waiting up to `timeout` seconds; oldest first, empty when none came.

        key: names this get; one that is `repeated` under its key gets the same items. Raises NotFound."""
        _check_key(partition_key)
        if repeated and key:
            again = self._was_taken(queue_id, partition_key, key)
            if again:
                return again
        deadline = time.monotonic() + timeout
        while True:
            self.objects.get(queue_id)
            partition = self._partition(queue_id, partition_key)
            if await self._drop(self._expire(partition)):
                continue
            taken = partition.take(max(1, count))
            if taken:
                return await self._hand_out(partition, taken, key)
            left = deadline - time.monotonic()
            if left <= 0 or not await self._wait_for_item(partition, left):
                self._tidy(queue_id, partition_key)
                return []

    async def items(self, queue_id: str, partition_key: bytes, after: int, timeout: float) -> list[Item]:
        """Waiting items with a seq above `after`, oldest first, without taking them: a page of them as soon as there is one."""
        _check_key(partition_key)
        deadline = time.monotonic() + timeout
        while True:
            self.objects.get(queue_id)
            partition = self._partition(queue_id, partition_key)
            if await self._drop(self._expire(partition)):
                continue
            found = self._page(partition, after)
            if found:
                return found
            left = deadline - time.monotonic()
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            partition.watchers.add(watcher)
            try:
                if left <= 0 or not await settled(watcher, left):
                    return []
            finally:
                partition.watchers.discard(watcher)
                self._tidy(queue_id, partition_key)

    def length(self, queue_id: str, partition_key: bytes) -> int:
        """Items of one partition. Raises NotFound."""
        self.objects.get(queue_id)
        _check_key(partition_key)
        partition = self._partitions.get(queue_id, {}).get(partition_key)
        return _length(partition) if partition is not None else 0

    def total(self, queue_id: str) -> tuple[int, int]:
        """(items, partitions that have some) of a queue. Raises NotFound."""
        self.objects.get(queue_id)
        lengths = [_length(p) for p in self._partitions.get(queue_id, {}).values()]
        return sum(lengths), sum(n > 0 for n in lengths)

    async def clear(self, queue_id: str, partition_key: bytes | None) -> None:
        """Empties one partition, or all for None. Raises NotFound."""
        self.objects.get(queue_id)
        if partition_key is not None:
            _check_key(partition_key)
        partitions = self._partitions.get(queue_id, {})
        chosen = partitions.items() if partition_key is None else [(partition_key, partitions.get(partition_key))]
        doomed = []
        for key, partition in list(chosen):
            if partition is not None:
                doomed += [seq for seq, _ in partition.take(len(partition.waiting))]
                self._tidy(queue_id, key)
        await self._drop(doomed)

    async def sweep(self) -> None:
        """Deletes what expired, and what was taken long ago. To be called now and then."""
        await self.objects.sweep()
        doomed = []
        for queue_id, partitions in list(self._partitions.items()):
            for key, partition in list(partitions.items()):
                doomed += self._expire(partition)
                self._tidy(queue_id, key)
        await self._drop(doomed)
        old = sa.delete(_items).where(_items.c.taken_at < time.time() - _KEEP_TAKEN)
        await self._database.write(lambda connection: connection.execute(old))

    # How it is done

    def _load(self) -> None:
        query = (
            sa.select(_items.c.queue_id, _items.c.partition, _items.c.seq, _items.c.size, _items.c.expires_at)
            .where(_items.c.taken_at.is_(None))
            .order_by(_items.c.seq)
        )
        with self._database.read() as connection:
            for row in connection.execute(query):
                partition = self._partition(row.queue_id, row.partition)
                partition.add(row.seq, row.size)
                partition.expires_at = row.expires_at
            newest = connection.execute(sa.select(sa.func.max(_items.c.seq))).scalar() or 0
        self._last_seq = max(self._last_seq, newest)

    async def _append(
        self, partition: _Partition, numbered: Sequence[Item], expires_at: float, storing: Awaitable[None]
    ) -> None:
        try:
            await storing
        finally:
            partition.reserved -= len(numbered)
        for item in numbered:
            partition.add(item.seq, len(item.value))
        partition.expires_at = expires_at
        partition.wake_getters()
        partition.wake_watchers()

    async def _hand_out(self, partition: _Partition, taken: list[tuple[int, int]], key: str) -> list[bytes]:
        """Records that items were taken, and reads them. When that fails, or nobody waits any more, they are back at the front."""
        partition.reserved += len(taken)
        recording = self._spawn(self._database.write(lambda connection: _take(connection, taken, key)))
        try:
            values = await asyncio.shield(recording)
        except asyncio.CancelledError:
            self._spawn(self._take_back(partition, taken, recording))
            raise
        except Exception:
            partition.reserved -= len(taken)
            partition.give_back(taken)
            raise
        partition.reserved -= len(taken)
        return values

    async def _take_back(
        self, partition: _Partition, taken: list[tuple[int, int]], recording: asyncio.Task[list[bytes]]
    ) -> None:
        """The caller is gone before it got its items."""
        try:
            await asyncio.wait([recording])
            if not recording.cancelled() and recording.exception() is None:
                await self._database.write(lambda connection: _untake(connection, taken))
        finally:
            partition.reserved -= len(taken)
            partition.give_back(taken)

    async def _wait_for_item(self, partition: _Partition, timeout: float) -> bool:
        getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        partition.getters.append(getter)
        try:
            return await settled(getter, timeout)
        except asyncio.CancelledError:
            if getter.done():
                partition.wake_getters()  # this one was to take something and will not
            raise
        finally:
            if not getter.done():
                partition.getters.remove(getter)

    def _page(self, partition: _Partition, after: int) -> list[Item]:
        chosen: list[int] = []
        size = 0
        for seq, bytes_ in partition.waiting:
            if seq <= after:
                continue
            size += bytes_
            if chosen and (len(chosen) == _PAGE_ITEMS or size > _PAGE_BYTES):
                break
            chosen.append(seq)
        if not chosen:
            return []
        query = sa.select(_items.c.seq, _items.c.value).where(_items.c.seq.in_(chosen)).order_by(_items.c.seq)
        with self._database.read() as connection:
            return [Item(row.seq, row.value) for row in connection.execute(query)]

    def _was_put(self, queue_id: str, partition_key: bytes, key: str) -> bool:
        query = sa.select(_items.c.seq).where(
            _items.c.queue_id == queue_id, _items.c.partition == partition_key, _items.c.put_by == key[:64]
        )
        with self._database.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def _was_taken(self, queue_id: str, partition_key: bytes, key: str) -> list[bytes]:
        query = sa.select(_items.c.value).where(
            _items.c.queue_id == queue_id, _items.c.partition == partition_key, _items.c.taken_by == key[:64]
        )
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(_items.c.seq)).scalars())

    def _partition(self, queue_id: str, partition_key: bytes) -> _Partition:
        partitions = self._partitions.setdefault(queue_id, {})
        partition = partitions.get(partition_key)
        if partition is None:
            if len(partitions) >= MAX_PARTITIONS:
                raise ResourceExhausted(
                    f"A queue may have {MAX_PARTITIONS} partitions, and this one has them all.", 0.0
                )
            partition = partitions[partition_key] = _Partition()
        return partition

    def _tidy(self, queue_id: str, partition_key: bytes) -> None:
        """Forgets a partition that holds nothing."""
        partitions = self._partitions.get(queue_id, {})
        partition = partitions.get(partition_key)
        if partition is not None and partition.is_idle:
            del partitions[partition_key]

    def _expire(self, partition: _Partition) -> list[int]:
        """Empties a partition whose time is over; the seqs to delete."""
        if partition.expires_at > time.time():
            return []
        partition.expires_at = float("inf")
        return [seq for seq, _ in partition.take(len(partition.waiting))]

    async def _drop(self, seqs: Sequence[int]) -> bool:
        """Deletes items; False when there is nothing to do. What a caller knew of partitions is old after it."""
        if seqs:
            await self._database.write(lambda connection: _delete(connection, seqs))
        return bool(seqs)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _next_seq(self) -> int:
        self._last_seq += 1
        return self._last_seq

    def _deleted(self, queue_id: str) -> None:
        """Whoever waits at a deleted queue shall learn it."""
        for partition in self._partitions.pop(queue_id, {}).values():
            for getter in partition.getters:
                _wake(getter)
            partition.getters.clear()
            partition.wake_watchers()


def _row(item: Item, queue_id: str, partition_key: bytes, expires_at: float, key: str) -> dict[str, object]:
    return {
        "seq": item.seq,
        "queue_id": queue_id,
        "partition": partition_key,
        "size": len(item.value),
        "expires_at": expires_at,
        "put_by": key[:64],
        "taken_at": None,
        "taken_by": "",
        "value": item.value,
    }


def _forget(connection: sa.Connection, queue_ids: Sequence[str]) -> None:
    connection.execute(sa.delete(_items).where(_items.c.queue_id.in_(queue_ids)))


def _take(connection: sa.Connection, taken: Sequence[tuple[int, int]], key: str) -> list[bytes]:
    values: list[bytes] = []
    for seqs in _batches([seq for seq, _ in taken]):
        chosen = _items.c.seq.in_(seqs)
        values += connection.execute(sa.select(_items.c.value).where(chosen).order_by(_items.c.seq)).scalars()
        if key:
            now = time.time()
            connection.execute(sa.update(_items).where(chosen).values(taken_at=now, taken_by=key[:64]))
        else:
            connection.execute(sa.delete(_items).where(chosen))
    return values


def _untake(connection: sa.Connection, taken: Sequence[tuple[int, int]]) -> None:
    for seqs in _batches([seq for seq, _ in taken]):
        connection.execute(sa.update(_items).where(_items.c.seq.in_(seqs)).values(taken_at=None, taken_by=""))


def _delete(connection: sa.Connection, seqs: Sequence[int]) -> None:
    for batch in _batches(seqs):
        connection.execute(sa.delete(_items).where(_items.c.seq.in_(batch)))


def _batches(seqs: Sequence[int]) -> Iterable[Sequence[int]]:
    return (seqs[start : start + _BATCH] for start in range(0, len(seqs), _BATCH))


def _length(partition: _Partition) -> int:
    return len(partition.waiting) if partition.expires_at > time.time() else 0


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _check_key(partition_key: bytes) -> None:
    if len(partition_key) > MAX_KEY_BYTES:
        raise InvalidArgument(f"A partition key may have {MAX_KEY_BYTES} bytes, and this one has {len(partition_key)}.")


def _check_put(partition_key: bytes, values: Sequence[bytes], ttl: int) -> None:
    _check_key(partition_key)
    if not 0 < ttl <= _MAX_TTL:
        raise InvalidArgument(f"A partition_ttl must be between 1 and {_MAX_TTL} seconds, not {ttl}.")
    if len(values) > MAX_ITEMS:
        raise InvalidArgument(
            f"A partition of a queue holds {MAX_ITEMS} items, so {len(values)} at once never fit: put them in parts."
        )
    for value in values:
        if len(value) > MAX_ITEM_BYTES:
            raise InvalidArgument(
                f"An item of a queue may have {MAX_ITEM_BYTES >> 20} MiB, and this one has {len(value)} bytes. "
                "Put it on a volume and its path in the queue."
            )


def _check_room(partition: _Partition, values: Sequence[bytes]) -> None:
    count = len(partition.waiting) + partition.reserved
    if count + len(values) > MAX_ITEMS:
        raise ResourceExhausted(
            f"The partition is full: it has {count} items, {len(values)} more were to be put, and {MAX_ITEMS} is the most.",
            0.0,
        )
    if partition.waiting and partition.size + sum(map(len, values)) > MAX_PARTITION_BYTES:
        raise ResourceExhausted(
            f"The partition is full: it has {partition.size} bytes, and {MAX_PARTITION_BYTES >> 20} MiB is the most.",
            0.0,
        )


def _unknown(queue_id: str) -> NotFound:
    return NotFound(f"There is no queue {queue_id!r} on this server; it may have been deleted.")

"""Queues: items in partitions, first in first out. An item is stored before its put is acknowledged, and handed out once.

The database keeps the items; which of them wait, and in what order, is known in memory, so that a get neither searches nor polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from stoker.aio.jobs import Jobs
from stoker.aio.waiting import settled
from stoker.batches import batches
from stoker.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from stoker.services.environments.environments import Environments
from stoker.services.environments.named import NamedObjects
from stoker.services.state.partitions import MAX_ITEMS, Attempt, Partition, wake
from stoker.store import tables
from stoker.store.database import Change, Database

MAX_ITEM_BYTES = 1 << 20
MAX_PARTITIONS = 100_000  # per queue
MAX_KEY_BYTES = 64
DEFAULT_TTL = 86_400  # seconds
_MAX_TTL = 366 * 86_400
_KEEP_TAKEN = 900.0  # seconds for which a get can be repeated
_PATIENCE = 5.0  # seconds for which the end of the server waits for what is being stored
_PAGE_ITEMS, _PAGE_BYTES = 100, 8 << 20

_items = tables.queue_items


@dataclass(frozen=True)
class Item:
    """`seq` grows with the age of the server and never comes again."""

    seq: int
    value: bytes


class Queues:
    """All queues. Made by the composition root; asked by the RPCs of queues, one call of which may wait for an item."""

    def __init__(self, *, database: Database, environments: Environments) -> None:
        self._database = database
        self._partitions: dict[str, dict[bytes, Partition]] = {}
        self._attempts: dict[tuple[str, bytes, str], Attempt] = {}  # gets under way, by queue, partition and key
        self._doomed: set[int] = set()  # seqs of items that are gone, and still to be deleted
        self._background = Jobs("queues")
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
        expired = partition.expire()
        self._doomed.update(expired)
        partition.check_room(values)
        numbered = [Item(self._next_seq(), value) for value in values]
        expires_at = time.time() + ttl
        rows = [_row(item, queue_id, partition_key, expires_at, key) for item in numbered]

        def store(connection: sa.Connection) -> None:
            if connection.execute(sa.select(tables.queues.c.id).where(tables.queues.c.id == queue_id)).first() is None:
                raise _unknown(queue_id)
            _delete(connection, expired)
            connection.execute(sa.insert(_items), rows)

        def then(_: None) -> None:
            for item in numbered:
                partition.add(item.seq, len(item.value))
            partition.expires_at = expires_at
            partition.wake_getters()
            partition.wake_watchers()

        partition.reserved += len(rows)
        # Room is kept until the end is known, even when the caller goes meanwhile.
        storing = self._append(partition, len(rows), Change(store, then))
        await asyncio.shield(self._background.start("put", storing, awaited=True))
        self._doomed.difference_update(expired)

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

        key: names this get; one that is `repeated` under its key takes the place of the earlier attempt, and gets what that has taken.
        Raises NotFound."""
        _check_key(partition_key)
        name = (queue_id, partition_key, key)
        if repeated and key:
            await self._end_earlier(name)
            again = self._was_taken(queue_id, partition_key, key)
            if again:
                return again
        attempt = Attempt(asyncio.get_running_loop().create_future())
        if key:
            self._attempts[name] = attempt
        try:
            return await self._get(queue_id, partition_key, count, timeout, key, attempt)
        finally:
            if attempt.returning is None:
                self._ended(name, attempt)
            else:
                attempt.returning.add_done_callback(lambda _: self._ended(name, attempt))

    async def items(self, queue_id: str, partition_key: bytes, after: int, timeout: float) -> list[Item]:
        """Waiting items with a seq above `after`, oldest first, without taking them: a page of them as soon as there is one."""
        _check_key(partition_key)
        deadline = time.monotonic() + timeout
        while True:
            self.objects.get(queue_id)
            partition = self._partition(queue_id, partition_key)
            if await self._drop(partition.expire()):
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
        return partition.length if partition is not None else 0

    def total(self, queue_id: str) -> tuple[int, int]:
        """(items, partitions that have some) of a queue. Raises NotFound."""
        self.objects.get(queue_id)
        lengths = [p.length for p in self._partitions.get(queue_id, {}).values()]
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
        doomed = list(self._doomed)
        for queue_id, partitions in list(self._partitions.items()):
            for key, partition in list(partitions.items()):
                doomed += partition.expire()
                self._tidy(queue_id, key)
        await self._drop(doomed)
        old = sa.delete(_items).where(_items.c.taken_at < time.time() - _KEEP_TAKEN)
        await self._database.write(lambda connection: connection.execute(old))

    async def close(self) -> None:
        await self._background.close(patience=_PATIENCE)

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

    async def _append(self, partition: Partition, count: int, change: Change[None]) -> None:
        try:
            await self._database.write(change)
        finally:
            partition.reserved -= count

    async def _get(
        self, queue_id: str, partition_key: bytes, count: int, timeout: float, key: str, attempt: Attempt
    ) -> list[bytes]:
        deadline = time.monotonic() + timeout
        while True:
            self.objects.get(queue_id)
            partition = self._partition(queue_id, partition_key)
            if attempt.is_stale:
                partition.wake_getters()  # perhaps it was to take something
                self._tidy(queue_id, partition_key)
                return []
            if await self._drop(partition.expire()):
                continue
            taken = partition.take(max(1, count))
            if taken:
                values = await self._hand_out(partition, taken, key, attempt)
                self._tidy(queue_id, partition_key)
                return values
            left = deadline - time.monotonic()
            if left <= 0 or not await self._wait_for_item(partition, left, attempt):
                self._tidy(queue_id, partition_key)
                return []

    async def _end_earlier(self, name: tuple[str, bytes, str]) -> None:
        """Ends the earlier attempts at a get. What one of them is taking just now is stored as taken by this get, or is back, afterwards."""
        while (earlier := self._attempts.get(name)) is not None:
            earlier.give_up()
            await asyncio.wait([earlier.over])

    def _ended(self, name: tuple[str, bytes, str], attempt: Attempt) -> None:
        if self._attempts.get(name) is attempt:
            del self._attempts[name]
        wake(attempt.over)

    async def _hand_out(
        self, partition: Partition, taken: list[tuple[int, int]], key: str, attempt: Attempt
    ) -> list[bytes]:
        """Records that items were taken, and reads them. When that fails, or nobody waits any more, they are back at the front."""
        partition.reserved += len(taken)
        record = self._database.write(lambda connection: _take(connection, taken, key))
        recording = self._background.start("take", record, awaited=True)
        try:
            values = await asyncio.shield(recording)
        except (asyncio.CancelledError, Unavailable):
            attempt.returning = self._background.start("give back", self._take_back(partition, taken, recording))
            raise
        except Exception:
            partition.reserved -= len(taken)
            partition.give_back(taken)
            raise
        partition.reserved -= len(taken)
        return values

    async def _take_back(
        self, partition: Partition, taken: list[tuple[int, int]], recording: asyncio.Task[list[bytes]]
    ) -> None:
        """The caller is gone before it got its items, or nobody knows whether they count as taken. They do not when they are here again."""
        await asyncio.wait([recording])
        untake = partial(_untake, taken=taken)
        await self._background.insist("give items back", lambda: self._database.write(untake))
        partition.reserved -= len(taken)
        partition.give_back(taken)

    async def _wait_for_item(self, partition: Partition, timeout: float, attempt: Attempt) -> bool:
        attempt.getter = getter = asyncio.get_running_loop().create_future()
        partition.getters.append(getter)
        try:
            return await settled(getter, timeout)
        except asyncio.CancelledError:
            if getter.done():
                partition.wake_getters()  # this one was to take something and will not
            raise
        finally:
            if attempt.is_stale or not getter.done():
                with contextlib.suppress(ValueError):  # it is not there any more when it was woken
                    partition.getters.remove(getter)

    def _page(self, partition: Partition, after: int) -> list[Item]:
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

    def _partition(self, queue_id: str, partition_key: bytes) -> Partition:
        partitions = self._partitions.setdefault(queue_id, {})
        partition = partitions.get(partition_key)
        if partition is None:
            if len(partitions) >= MAX_PARTITIONS:
                raise ResourceExhausted(
                    f"A queue may have {MAX_PARTITIONS} partitions, and this one has them all.", 0.0
                )
            partition = partitions[partition_key] = Partition()
        return partition

    def _tidy(self, queue_id: str, partition_key: bytes) -> None:
        """Forgets a partition that holds nothing."""
        partitions = self._partitions.get(queue_id, {})
        partition = partitions.get(partition_key)
        if partition is not None and partition.is_idle:
            del partitions[partition_key]

    async def _drop(self, seqs: Sequence[int]) -> bool:
        """Deletes items; False when there is nothing to do. What a caller knew of partitions is old after it.

        When it fails they are deleted later: after a restart they would be items like any other."""
        if not seqs:
            return False
        self._doomed.update(seqs)
        doomed = tuple(self._doomed)
        await self._database.write(lambda connection: _delete(connection, doomed))
        self._doomed.difference_update(doomed)
        return True

    def _next_seq(self) -> int:
        self._last_seq += 1
        return self._last_seq

    def _deleted(self, queue_id: str) -> None:
        """Whoever waits at a deleted queue shall learn it."""
        for partition in self._partitions.pop(queue_id, {}).values():
            for getter in partition.getters:
                wake(getter)
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
    for seqs in batches([seq for seq, _ in taken]):
        chosen = _items.c.seq.in_(seqs)
        values += connection.execute(sa.select(_items.c.value).where(chosen).order_by(_items.c.seq)).scalars()
        connection.execute(sa.update(_items).where(chosen).values(taken_at=time.time(), taken_by=key[:64]))
    return values


def _untake(connection: sa.Connection, taken: Sequence[tuple[int, int]]) -> None:
    for seqs in batches([seq for seq, _ in taken]):
        connection.execute(sa.update(_items).where(_items.c.seq.in_(seqs)).values(taken_at=None, taken_by=""))


def _delete(connection: sa.Connection, seqs: Sequence[int]) -> None:
    for batch in batches(seqs):
        connection.execute(sa.delete(_items).where(_items.c.seq.in_(batch)))


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


def _unknown(queue_id: str) -> NotFound:
    return NotFound(f"Queue {queue_id!r} not found on this server; it may have been deleted.")

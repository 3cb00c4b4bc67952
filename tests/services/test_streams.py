"""What generators yield: every item once and in order, whatever becomes of connections, with a bound on what waits."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.services.calls import streams as streams_module
from stoker.services.calls.streams import Chunk, Streams

KIB = 1 << 10


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scenario(), 30)

    asyncio.run(limited())


def chunk(index: int, size: int = 0, blob: str = "", blob_bytes: int = 0) -> Chunk:
    return Chunk(index, str(index).encode().ljust(size, b"."), blob, blob_bytes)


async def settle() -> None:
    """Lets everybody come to where they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


class Caller:
    """Reads as the official client does: asks again as soon as a reading ends, for what follows the last item it has."""

    def __init__(self, streams: Streams, call_id: str = "fc-1") -> None:
        self._streams = streams
        self._call_id = call_id
        self.items: list[int] = []
        self.last = 0
        self.news = asyncio.Event()

    async def read(self) -> None:
        while True:
            async with contextlib.aclosing(self._streams.follow(self._call_id, self.last)) as chunks:
                async for data in chunks:
                    await self.use(data)

    async def use(self, data: bytes) -> None:
        self.last = int(data.rstrip(b"."))
        self.items.append(self.last)
        self.news.set()

    async def until(self, count: int) -> None:
        while len(self.items) < count:
            self.news.clear()
            await self.news.wait()


def test_a_container_waits_while_its_caller_is_behind_and_no_longer() -> None:
    async def scenario() -> None:
        streams = Streams(window=10 * KIB)
        sent: list[int] = []

        async def produce() -> None:
            for index in range(1, 101):
                await streams.put("fc-1", [chunk(index, KIB)])
                sent.append(index)

        producing = asyncio.ensure_future(produce())
        await settle()
        assert len(sent) == 7 and streams.memory < 12 * KIB, "nobody reads yet"
        caller = Caller(streams)
        reading = asyncio.ensure_future(caller.read())
        await caller.until(100)
        await producing
        assert caller.items == list(range(1, 101))
        reading.cancel()
        await asyncio.wait([reading])
        streams.forget("fc-1")
        assert streams.memory == 0

    run(scenario)


def test_a_slow_caller_that_reads_one_by_one_holds_its_container_up_all_the_way() -> None:
    async def scenario() -> None:
        streams, most = Streams(window=10 * KIB), 0

        class Slow(Caller):
            async def use(self, data: bytes) -> None:
                nonlocal most
                most = max(most, streams.memory)
                await settle()
                await super().use(data)

        async def produce() -> None:
            for index in range(1, 301, 3):
                await streams.put("fc-1", [chunk(n, KIB) for n in range(index, index + 3)])

        caller, producing = Slow(streams), asyncio.ensure_future(produce())
        reading = asyncio.ensure_future(caller.read())
        await caller.until(300)
        await producing
        assert caller.items == list(range(1, 301)) and most < 10 * KIB + 3 * (KIB + 300) + 1
        reading.cancel()

    run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_every_item_comes_once_over_connections_that_break(seed: int) -> None:
    """Both ways: the caller asks for what follows the last item it has, and the container repeats what was not acknowledged."""

    async def scenario() -> None:
        luck, streams = random.Random(seed), Streams(window=4 * KIB)
        caller = Caller(streams)

        async def produce() -> None:
            index = 1
            while index <= 200:
                chunks = [chunk(n, luck.randrange(KIB)) for n in range(index, min(201, index + luck.randint(1, 5)))]
                while True:
                    put = asyncio.ensure_future(streams.put("fc-1", chunks))
                    if luck.random() < 0.3:
                        await settle()
                        put.cancel()  # the connection of the container broke: it sends them again
                    with contextlib.suppress(asyncio.CancelledError):
                        await put
                        break
                index += len(chunks)

        producing = asyncio.ensure_future(produce())
        while len(caller.items) < 200:
            reading = asyncio.ensure_future(caller.read())
            for _ in range(luck.randrange(60)):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
        await producing
        assert caller.items == list(range(1, 201))

    run(scenario)


def test_an_item_that_was_on_its_way_when_the_connection_broke_comes_again() -> None:
    async def scenario() -> None:
        streams = Streams()
        await streams.put("fc-1", [chunk(n) for n in range(1, 6)])
        first = streams.follow("fc-1", 0)
        assert [await first.__anext__() for _ in range(3)] == [b"1", b"2", b"3"]
        second = streams.follow("fc-1", 1)  # it had got one of them
        assert await second.__anext__() == b"2"
        with pytest.raises(StopAsyncIteration):
            await first.__anext__()  # the newer reader counts
        await second.aclose()
        with pytest.raises(FailedPrecondition, match="read before"):
            await streams.follow("fc-1", 0).__anext__()

    run(scenario)


def test_an_attempt_that_is_repeated_goes_on_where_the_first_one_ended() -> None:
    async def scenario() -> None:
        streams = Streams()
        caller = Caller(streams)
        reading = asyncio.ensure_future(caller.read())
        await streams.put("fc-1", [chunk(1), chunk(2)])
        await streams.put("fc-1", [chunk(1), chunk(2), chunk(3)])
        await caller.until(3)
        assert caller.items == [1, 2, 3]
        with pytest.raises(InvalidArgument, match="without the chunk 4"):
            await streams.put("fc-1", [chunk(5)])
        reading.cancel()

    run(scenario)


def test_a_caller_that_survives_the_server_goes_on() -> None:
    """The next server runs the input again, from the first item on."""

    async def scenario() -> None:
        streams = Streams()
        caller = Caller(streams)
        caller.last = 2
        reading = asyncio.ensure_future(caller.read())
        await settle()
        await streams.put("fc-1", [chunk(1), chunk(2), chunk(3)])
        await caller.until(1)
        assert caller.items == [3]
        reading.cancel()

    run(scenario)


def test_a_failure_waits_until_the_caller_has_what_came_before() -> None:
    async def scenario() -> None:
        streams = Streams()
        told = asyncio.Event()

        class Slow(Caller):
            async def use(self, data: bytes) -> None:
                await settle()
                assert not told.is_set(), "it hears of the failure before it has this item, and stops reading"
                await super().use(data)

        caller = Slow(streams)
        await streams.put("fc-1", [chunk(n) for n in range(1, 6)])
        streams.finish("fc-1", failed=True)

        async def poll() -> None:
            while not await streams.delivered("fc-1", 0.01):
                pass
            told.set()

        polling = asyncio.ensure_future(poll())
        await settle()
        reading = asyncio.ensure_future(caller.read())
        await polling
        assert caller.items == [1, 2, 3, 4, 5]
        reading.cancel()

    run(scenario)


def test_a_failure_does_not_wait_for_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "_COMES_BACK", 0.02)

    async def scenario() -> None:
        streams = Streams()
        assert await streams.delivered("fc-none", 0.0), "it yielded nothing"
        for call_id, reads in (("fc-1", False), ("fc-2", True)):
            await streams.put(call_id, [chunk(1)])
            if reads:
                reader = streams.follow(call_id, 0)
                await reader.__anext__()
                await reader.aclose()  # its connection broke, and it does not come back
            streams.finish(call_id, failed=True)
            assert not await streams.delivered(call_id, 0.0)
            assert await streams.delivered(call_id, 10.0)

    run(scenario)


def test_a_container_does_not_wait_for_a_caller_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "_GONE_AFTER", 0.05)

    async def scenario() -> None:
        used: list[str] = []
        streams = Streams(window=KIB, on_used=used.append)
        await streams.put("fc-1", [chunk(n, KIB) for n in range(1, 4)])  # nobody ever reads
        assert streams.memory == 0
        await streams.put("fc-1", [chunk(4, KIB), chunk(5, 0, "bl-1", 10 * KIB)])
        assert streams.memory == 0 and used == ["bl-1"]
        with pytest.raises(FailedPrecondition, match="not heard of"):
            await streams.follow("fc-1", 0).__anext__()

        reader = streams.follow("fc-2", 0)
        await streams.put("fc-2", [chunk(1)])
        assert await reader.__anext__() == b"1"
        await reader.aclose()  # it breaks off
        await streams.put("fc-2", [chunk(2, 2 * KIB)])
        assert streams.memory == 0

        late = Caller(streams, "fc-2")  # one that has everything may go on
        late.last = 2
        reading = asyncio.ensure_future(late.read())
        await settle()
        await streams.put("fc-2", [chunk(3)])
        await late.until(1)
        assert late.items == [3]
        reading.cancel()

    run(scenario)


def test_a_caller_that_takes_its_time_with_what_it_got_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two readings only its polls for the result show that it lives."""
    monkeypatch.setattr(streams_module, "_GONE_AFTER", 0.1)

    async def scenario() -> None:
        streams = Streams(window=KIB)
        putting = asyncio.ensure_future(streams.put("fc-1", [chunk(1, KIB), chunk(2, KIB)]))
        items = [data async for data in streams.follow("fc-1", 0)]  # it ends, for the container waits
        assert len(items) == 2
        for _ in range(10):
            streams.alive("fc-1")
            await asyncio.sleep(0.03)
        assert not putting.done() and streams.memory > 0
        second = streams.follow("fc-1", 2)
        reading = asyncio.ensure_future(second.__anext__())
        await putting
        assert streams.memory == 0
        reading.cancel()

    run(scenario)


def test_many_callers_together_have_a_bound_and_none_waits_for_ever() -> None:
    async def scenario() -> None:
        streams = Streams(window=100 * KIB, most=50 * KIB)
        most = 0

        async def produce(call_id: str) -> None:
            nonlocal most
            for index in range(1, 51):
                await streams.put(call_id, [chunk(index, KIB)])
                most = max(most, streams.memory)

        names = [f"fc-{n}" for n in range(10)]
        producing = [asyncio.ensure_future(produce(name)) for name in names]
        await settle()
        callers = [Caller(streams, name) for name in names]
        readings = [asyncio.ensure_future(caller.read()) for caller in callers]
        await asyncio.gather(*producing, *(caller.until(50) for caller in callers))
        assert all(caller.items == list(range(1, 51)) for caller in callers)
        assert most < 50 * KIB + 11 * (KIB + 300)
        for reading in readings:
            reading.cancel()

    run(scenario)


def test_contents_in_blobs_count_and_go_when_they_were_used() -> None:
    async def scenario() -> None:
        used: list[str] = []
        streams = Streams(window=10 * KIB, on_used=used.append)
        putting = asyncio.ensure_future(streams.put("fc-1", [chunk(1, 0, "bl-1", 20 * KIB)]))
        await settle()
        assert not putting.done()
        repeated = asyncio.ensure_future(streams.put("fc-1", [chunk(1, 0, "bl-1", 20 * KIB)]))
        await settle()
        assert used == []
        caller = Caller(streams)
        reading = asyncio.ensure_future(caller.read())
        await asyncio.gather(putting, repeated)
        assert used == ["bl-1"]
        await streams.put("fc-1", [chunk(1, 0, "bl-other attempt", KIB), chunk(2, 0, "bl-2", KIB)])
        assert used == ["bl-1", "bl-other attempt"]
        reading.cancel()
        streams.forget("fc-1")
        assert used[2:] == ["bl-2"]

    run(scenario)


def test_who_asks_for_what_never_comes_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        streams = Streams()
        reading = asyncio.ensure_future(Caller(streams).read())
        await settle()
        assert "fc-1" in streams
        reading.cancel()
        await asyncio.wait([reading])
        assert "fc-1" not in streams

    run(scenario)

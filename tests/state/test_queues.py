"""Queues: by the official client, and where it matters by the service alone."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import modal
import pytest
from modal.client import Client
from modal_proto import api_pb2

from stoker.errors import NotFound, ResourceExhausted
from stoker.services.environments.environments import Environments
from stoker.services.state import queues as service
from stoker.services.state.queues import Queues
from stoker.store.database import Database

from .conftest import StateServer
from .raw import call


@pytest.fixture
def items(client: Client) -> Iterator[modal.Queue]:
    with modal.Queue.ephemeral(client=client) as made:
        yield made


def test_first_in_first_out(items: modal.Queue) -> None:
    items.put(1)
    items.put_many([2, "three", None])
    assert items.len() == 4
    assert list(items.iterate()) == [1, 2, "three", None] and items.len() == 4
    assert items.get() == 1
    assert items.get_many(10) == [2, "three", None]
    assert items.get(block=False) is None and items.get_many(5, block=False) == []
    with pytest.raises(queue.Empty):
        items.get(timeout=0.1)


def test_partitions_are_apart(items: modal.Queue) -> None:
    items.put("default")
    items.put_many(["a1", "a2"], partition="a")
    items.put("b1", partition="b")
    assert [items.len(), items.len(partition="a"), items.len(partition="c"), items.len(total=True)] == [1, 2, 0, 4]
    assert items.get(partition="a") == "a1"
    items.clear(partition="a")
    assert items.len(partition="a") == 0 and items.len(total=True) == 2
    items.clear(all=True)
    assert items.len(total=True) == 0 and items.get(block=False) is None


def test_a_get_waits_for_a_put(items: modal.Queue) -> None:
    got: list[object] = []
    getter = threading.Thread(target=lambda: got.append(items.get(timeout=30)))
    getter.start()
    items.put("late")
    getter.join(30)
    assert got == ["late"]


def test_an_iteration_waits_for_more(items: modal.Queue) -> None:
    items.put_many([0, 1])
    seen = []
    for value in items.iterate(item_poll_timeout=1.0):
        seen.append(value)
        if value < 4:
            items.put(value + 2)
    assert seen == [0, 1, 2, 3, 4, 5] and items.len() == 6


def test_a_full_partition_refuses(items: modal.Queue) -> None:
    items.put_many(list(range(5_000)))
    with pytest.raises(queue.Full):
        items.put(1, block=False)
    with pytest.raises(queue.Full):
        items.put(1, timeout=1)
    items.put(1, partition="another", block=False)
    assert items.get() == 0
    items.put(5_000, block=False)
    assert items.get_many(5_000) == [*range(1, 5_001)]
    with pytest.raises(modal.exception.InvalidError, match="5000 items"):
        items.put_many([0] * 5_001)
    with pytest.raises(modal.exception.InvalidError, match="item of a queue may have 1 MiB"):
        items.put(b"x" * (2 << 20))
    for _ in range(70):
        items.put(b"x" * 950_000, block=False)
    with pytest.raises(queue.Full, match="64 MiB"):
        items.put(b"x" * 950_000, block=False)
    assert items.len() == 70


def test_a_blocked_put_goes_on_when_there_is_room(items: modal.Queue) -> None:
    items.put_many([0] * 5_000)
    putter = threading.Thread(target=lambda: items.put("in the end"))
    putter.start()
    assert items.get_many(4_999) == [0] * 4_999
    putter.join(60)
    assert items.get_many(2, timeout=60) == [0, "in the end"]


def test_creation_types(client: Client) -> None:
    with pytest.raises(modal.exception.NotFoundError, match="Queue 'absent' not found"):
        modal.Queue.from_name("absent").hydrate(client)
    modal.Queue.objects.create("named-queue", client=client)
    with pytest.raises(modal.exception.AlreadyExistsError):
        modal.Queue.objects.create("named-queue", client=client)
    one = modal.Queue.from_name("named-queue", create_if_missing=True).hydrate(client)
    one.put(1)
    assert modal.Queue.from_id(one.object_id, client=client).len() == 1
    assert one.info().name == "named-queue"
    assert "named-queue" in {q.name for q in modal.Queue.objects.list(client=client)}
    modal.Queue.objects.delete("named-queue", client=client)
    with pytest.raises(modal.exception.NotFoundError):
        one.put(1)
    with pytest.raises(modal.exception.NotFoundError):
        one.get(block=False)


def test_whoever_waits_at_a_deleted_queue_learns_it(state: StateServer) -> None:
    async def scenario() -> None:
        made = await state.queues.objects.create_ephemeral(state.environments.resolve("").id)
        getter = asyncio.ensure_future(state.queues.get(made.id, b"", 1, 60))
        watcher = asyncio.ensure_future(state.queues.items(made.id, b"", 0, 60))
        await asyncio.sleep(0)
        await state.queues.objects.delete(made.id)
        for waiting in (getter, watcher):
            with pytest.raises(NotFound):
                await waiting

    state.run(scenario())


def test_repeats_change_nothing(state: StateServer, client: Client) -> None:
    """As when an answer was lost on its way: no item twice, none lost."""
    with modal.Queue.ephemeral(client=client) as made:
        put = api_pb2.QueuePutRequest(queue_id=made.object_id, values=[b"a", b"b"])
        for attempt in range(2):
            call(state, "QueuePut", put, key="p", attempt=attempt)
        assert made.len() == 2
        get = api_pb2.QueueGetRequest(queue_id=made.object_id, n_values=1)
        answers = [list(call(state, "QueueGet", get, key="g", attempt=n).values) for n in range(3)]
        assert answers == [[b"a"]] * 3
        assert list(call(state, "QueueGet", get, key="other").values) == [b"b"]
        assert made.len() == 0


def test_the_command_line(state: StateServer, client: Client) -> None:
    state.modal("queue", "create", "from-cli")
    made = modal.Queue.from_name("from-cli").hydrate(client)
    made.put_many([1, "two"])
    made.put(3, partition="p")
    assert state.modal("queue", "len", "from-cli").stdout.strip() == "2"
    assert state.modal("queue", "len", "from-cli", "--total").stdout.strip() == "3"
    assert "two" in state.modal("queue", "peek", "from-cli", "5").stdout
    listed = json.loads(state.modal("queue", "list", "--json").stdout)
    assert [(q["partitions"], q["total_size"]) for q in listed if q["name"] == "from-cli"] == [(2, 3)]
    state.modal("queue", "clear", "from-cli", "--all", "--yes")
    assert made.len(total=True) == 0
    state.modal("queue", "delete", "from-cli", "--yes")
    assert "Queue 'from-cli' not found" in state.modal("queue", "len", "from-cli", check=False).stderr


# The service alone


Scenario = Callable[[Queues, str], Awaitable[None]]


def with_queue(path: Path, scenario: Scenario) -> None:
    async def run() -> None:
        database, queues = await opened(path)
        made, _ = await queues.objects.create(queues_environment(database), "q", if_exists="keep")
        await scenario(queues, made.id)
        await database.close()

    asyncio.run(run())


async def opened(path: Path) -> tuple[Database, Queues]:
    database = Database.open(f"sqlite:///{path}/db")
    environments = Environments(database=database, default="main")
    await environments.load()
    return database, Queues(database=database, environments=environments)


def queues_environment(database: Database) -> str:
    with database.read() as connection:
        return str(connection.exec_driver_sql("SELECT id FROM environments").scalar_one())


def test_many_getters_and_putters_share_every_item_once(tmp_path: Path) -> None:
    async def scenario(queues: Queues, queue_id: str) -> None:
        got: list[bytes] = []
        complete = asyncio.Event()

        async def take() -> None:
            while True:
                values = await queues.get(queue_id, b"", 3, 5, key="taker")
                got.extend(values)
                if len(got) >= 1_000:
                    complete.set()
                if b"end" in values:
                    return

        takers = [asyncio.ensure_future(take()) for _ in range(20)]
        await asyncio.gather(*(queues.put(queue_id, b"", [b"%d" % n]) for n in range(1_000)))
        await asyncio.wait_for(complete.wait(), 60)
        for _ in takers:
            await queues.put(queue_id, b"", [b"end"])
            await queues.put(queue_id, b"", [b"end"])  # a taker may get two of them
        await asyncio.wait(takers)
        assert sorted(v for v in got if v != b"end") == sorted(b"%d" % n for n in range(1_000))

    with_queue(tmp_path, scenario)


def test_what_is_left_survives_a_kill(tmp_path: Path) -> None:
    async def scenario(queues: Queues, queue_id: str) -> None:
        await queues.put(queue_id, b"p", [b"1", b"2", b"3", b"4"])
        assert await queues.get(queue_id, b"p", 1, 0, key="k") == [b"1"]
        entry = (await queues.items(queue_id, b"p", 0, 0))[-1].seq
        assert await queues.get(queue_id, b"p", 1, 0, key="unsure") == [b"2"]
        database, again = await opened(tmp_path)  # without a close, as after a kill
        # A get whose answer the kill swallowed is repeated: the same item, not the next.
        assert await again.get(queue_id, b"p", 1, 0, key="unsure", repeated=True) == [b"2"]
        assert again.length(queue_id, b"p") == 2
        await again.put(queue_id, b"p", [b"1", b"2"], key="p1")
        await again.put(queue_id, b"p", [b"1", b"2"], key="p1", repeated=True)
        assert [i.value for i in await again.items(queue_id, b"p", entry, 0)] == [b"1", b"2"]
        assert await again.get(queue_id, b"p", 9, 0) == [b"3", b"4", b"1", b"2"]
        await database.close()

    with_queue(tmp_path, scenario)


def test_a_caller_that_goes_takes_nothing_along(tmp_path: Path) -> None:
    async def scenario(queues: Queues, queue_id: str) -> None:
        # It goes while it waits: the item goes to the next.
        first = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60))
        second = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60))
        await asyncio.sleep(0)
        first.cancel()
        await queues.put(queue_id, b"", [b"a"])
        assert await asyncio.wait_for(second, 10) == [b"a"]
        # It was woken already: the item goes to the next all the same.
        first = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60))
        second = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60))
        await asyncio.sleep(0)
        partition = queues._partitions[queue_id][b""]
        woken = partition.getters[0]
        woken.add_done_callback(lambda _: first.cancel())
        await queues.put(queue_id, b"", [b"b"])
        assert await asyncio.wait_for(second, 10) == [b"b"]
        # It goes while the hand-over is stored: the item is back at the front.
        await queues.put(queue_id, b"", [b"c", b"d"])
        third = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60, key="k"))
        await asyncio.sleep(0)
        assert queues.length(queue_id, b"") == 1
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        await asyncio.wait(set(queues._background))
        assert await queues.get(queue_id, b"", 1, 0) == [b"c"]
        # A put whose caller goes is stored and found.
        put = asyncio.ensure_future(queues.put(queue_id, b"", [b"e"]))
        await asyncio.sleep(0)
        put.cancel()
        assert await queues.get(queue_id, b"", 2, 10) + await queues.get(queue_id, b"", 2, 10) == [b"d", b"e"]

    with_queue(tmp_path, scenario)


def test_a_repeat_takes_the_place_of_the_get_whose_caller_is_gone(tmp_path: Path) -> None:
    """A connection can be dead for its client long before the server notices. What is put then must not go to the dead one."""

    async def scenario(queues: Queues, queue_id: str) -> None:
        lost = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60, key="k"))
        await asyncio.sleep(0)
        again = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60, key="k", repeated=True))
        assert await asyncio.wait_for(lost, 10) == []
        await queues.put(queue_id, b"", [b"1"])
        assert await asyncio.wait_for(again, 10) == [b"1"]
        # The dead one was woken for an item already.
        lost = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60, key="l"))
        await asyncio.sleep(0)
        woken = queues._partitions[queue_id][b""].getters[0]
        repeats: list[asyncio.Future[list[bytes]]] = []
        woken.add_done_callback(
            lambda _: repeats.append(asyncio.ensure_future(queues.get(queue_id, b"", 1, 60, key="l", repeated=True)))
        )
        await queues.put(queue_id, b"", [b"2"])
        assert await asyncio.wait_for(asyncio.wait(repeats), 10) and repeats[0].result() == [b"2"]
        # It takes an item just now: the repeat gets this one, not the next.
        await queues.put(queue_id, b"", [b"3", b"4"])
        lost = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60, key="m"))
        await asyncio.sleep(0)
        assert queues.length(queue_id, b"") == 1
        assert await queues.get(queue_id, b"", 1, 10, key="m", repeated=True) == [b"3"]
        # It was cancelled and gives back what it took: the repeat gets it once.
        lost = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60, key="n"))
        await asyncio.sleep(0)
        lost.cancel()
        assert await queues.get(queue_id, b"", 1, 10, key="n", repeated=True) == [b"4"]
        assert await queues.get(queue_id, b"", 1, 0) == []
        assert not queues._attempts

    with_queue(tmp_path, scenario)


def test_what_several_callers_give_back_is_in_order_and_seen(tmp_path: Path) -> None:
    async def scenario(queues: Queues, queue_id: str) -> None:
        await queues.put(queue_id, b"", [b"1", b"2"])
        getters = [asyncio.ensure_future(queues.get(queue_id, b"", 1, 60, key=f"k{n}")) for n in range(2)]
        await asyncio.sleep(0)
        assert queues.length(queue_id, b"") == 0
        watcher = asyncio.ensure_future(queues.items(queue_id, b"", 0, 60))
        await asyncio.sleep(0)
        for getter in getters:
            getter.cancel()
        assert await asyncio.wait_for(watcher, 10)
        await asyncio.wait(getters)
        while queues._background:
            await asyncio.wait(set(queues._background))
        assert await queues.get(queue_id, b"", 5, 0) == [b"1", b"2"]
        assert not queues._partitions[queue_id], "a partition that was emptied takes no room"
        # The same for a caller whose requests have no key.
        await queues.put(queue_id, b"", [b"3"])
        getter = asyncio.ensure_future(queues.get(queue_id, b"", 1, 60))
        await asyncio.sleep(0)
        getter.cancel()
        assert await queues.get(queue_id, b"", 1, 10) == [b"3"]

    with_queue(tmp_path, scenario)


def test_what_was_cleared_on_a_full_disk_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(queues: Queues, queue_id: str) -> None:
        async def full(work: object) -> None:
            raise ResourceExhausted("The server's disk is full.")

        await queues.put(queue_id, b"p", [b"old"])
        with monkeypatch.context() as patch:
            patch.setattr(queues._database, "write", full)
            with pytest.raises(ResourceExhausted):
                await queues.clear(queue_id, None)
        await queues.sweep()
        await queues.put(queue_id, b"p", [b"new"])
        database, again = await opened(tmp_path)
        assert await again.get(queue_id, b"p", 5, 0) == [b"new"]
        await database.close()

    with_queue(tmp_path, scenario)


def test_partitions_expire_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.0]

    async def scenario(queues: Queues, queue_id: str) -> None:
        monkeypatch.setattr(service.time, "time", lambda: now[0])
        await queues.put(queue_id, b"short", [b"1"], ttl=10)
        await queues.put(queue_id, b"long", [b"1"], ttl=100)
        now[0] += 9
        await queues.put(queue_id, b"short", [b"2"], ttl=10)  # a put gives the whole partition new time
        now[0] += 9
        assert queues.length(queue_id, b"short") == 2
        now[0] += 2
        assert queues.length(queue_id, b"short") == 0 and queues.total(queue_id) == (1, 1)
        assert await queues.items(queue_id, b"short", 0, 0) == []
        await queues.put(queue_id, b"short", [b"3"], ttl=10)
        assert await queues.get(queue_id, b"short", 5, 0) == [b"3"]
        now[0] += 1_000
        await queues.sweep()
        assert queues._partitions.get(queue_id) == {}
        with queues._database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM queue_items").scalar() == 0

    with_queue(tmp_path, scenario)


def test_racing_puts_do_not_overfill(tmp_path: Path) -> None:
    async def scenario(queues: Queues, queue_id: str) -> None:
        puts = [queues.put(queue_id, b"", [b"x"] * 1_000) for _ in range(8)]
        done = await asyncio.gather(*puts, return_exceptions=True)
        assert [isinstance(d, ResourceExhausted) for d in done] == [False] * 5 + [True] * 3
        assert queues.length(queue_id, b"") == 5_000

    with_queue(tmp_path, scenario)

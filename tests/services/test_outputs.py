"""Every output reaches whoever reads a call bit by bit, in whatever order containers report and the database stores."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stoker.aio import jobs
from stoker.errors import ResourceExhausted, Unavailable
from stoker.ids import content_id
from stoker.services import calls as calls_module
from stoker.services import output_storage
from stoker.services.call_records import Call
from stoker.store import tables
from stoker.store.appender import Rows
from tests.services.world import run_for, world


def test_a_reader_misses_no_output_however_they_are_stored(tmp_path: Path) -> None:
    """Large results are stored by the database's writer, small ones at once, and hundreds of commits bring checkpoints between them."""
    count = 1_000
    chance = random.Random(7)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(count, concurrent=32)
            runs: list[asyncio.Task[None]] = []

            async def run(input_id: str) -> None:
                await asyncio.sleep(chance.random() * 0.002)
                await it.report(input_id, b"r" * (300_000 if chance.random() < 0.05 else 10))

            async def container() -> None:
                for _ in range(count):
                    runs.append(asyncio.create_task(run(await it.next_input())))

            work = asyncio.create_task(container())
            found: list[int] = []
            after, unfinished = 0, count
            while len(found) < count:
                outputs, unfinished = await it.calls.outputs(call.id, after, 5.0)
                assert outputs, f"{unfinished} inputs are unfinished, {len(found)} of {count} outputs were seen"
                found += [output.idx for output in outputs]
                after = outputs[-1].seq
            assert sorted(found) == list(range(count))
            await asyncio.gather(work, *runs)

    run_for(60, scenario())


def test_a_report_that_comes_twice_while_it_is_stored_counts_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(2, concurrent=2)
            first, second = await it.next_input(), await it.next_input()
            await asyncio.gather(it.report(first), it.report(first), it.report(second), it.report(first))
            await it.report(first)
            outputs, unfinished = await it.calls.outputs(call.id, 0, 0.0)
            assert [(o.input_id, o.seq) for o in outputs] == [(first, 1), (second, 2)]
            assert unfinished == 0
            with it.database.read() as connection:
                stored = connection.execute(sa.select(tables.outputs.c.seq).order_by(tables.outputs.c.seq)).scalars()
                assert stored.all() == [1, 2]

    run_for(20, scenario())


def test_an_output_that_cannot_be_stored_is_stored_when_it_is_reported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(2, concurrent=2)
            first, second = await it.next_input(), await it.next_input()

            async def full(*rows: Rows) -> None:
                await asyncio.sleep(0.01)
                raise ResourceExhausted("The disk is full.", 0.01)

            with monkeypatch.context() as patch:
                patch.setattr(it.database, "append", full)
                results = await asyncio.gather(it.report(first), it.report(first), return_exceptions=True)
            assert [type(result) for result in results] == [ResourceExhausted, ResourceExhausted]
            assert await it.calls.outputs(call.id, 0, 0.0) == ([], 2)
            await it.report(second)
            await it.report(first)
            outputs, unfinished = await it.calls.outputs(call.id, 0, 0.0)
            assert [o.input_id for o in outputs] == [second, first] and unfinished == 0

    run_for(20, scenario())


@pytest.mark.parametrize(("few", "gathered"), [(16, 4), (3, 3)])
def test_few_outputs_of_a_map_are_gathered_as_long_as_more_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, gathered: int
) -> None:
    for name, value in (("_GATHER_STEP", 5.0), ("_GATHER_SECONDS", 10.0), ("_FEW_OUTPUTS", few)):
        monkeypatch.setattr(calls_module, name, value)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(6, concurrent=6)
            waiting = [await it.next_input() for _ in range(6)]
            await it.report(waiting.pop())
            assert len((await it.calls.outputs(call.id, 0, 1.0))[0]) == 1  # the first one is there at once
            brought = [1, 1, 1, 0]  # outputs in each step

            async def step(over: asyncio.Future[None], timeout: float) -> bool:
                for _ in range(brought.pop(0)):
                    await it.report(waiting.pop())
                return over.done()

            monkeypatch.setattr(calls_module, "settled", step)
            await it.report(waiting.pop())
            outputs, unfinished = await it.calls.outputs(call.id, 1, 1.0)
            assert [o.seq for o in outputs] == list(range(2, 2 + gathered)) and unfinished == len(waiting)

    run_for(20, scenario())


def test_the_last_outputs_of_a_map_wait_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_GATHER_STEP", 60.0)
    monkeypatch.setattr(calls_module, "_GATHER_SECONDS", 60.0)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(3, concurrent=3)
            first, second, third = [await it.next_input() for _ in range(3)]
            await it.report(first)
            await it.calls.outputs(call.id, 0, 1.0)
            await it.report(second)
            poll = asyncio.create_task(it.calls.outputs(call.id, 1, 1.0))
            await asyncio.sleep(0)
            await it.report(third)
            outputs, unfinished = await poll
            assert [o.seq for o in outputs] == [2, 3] and unfinished == 0

    run_for(20, scenario())


def test_an_input_whose_delivery_met_a_broken_connection_is_delivered_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(1)
            await it.report(await it.next_input())
            poll = asyncio.create_task(it.next_input())
            await asyncio.sleep(0.05)
            [given] = await it.calls.put(call.id, [(1, b"x")])
            poll.cancel()  # the answer is there, and its way is gone
            assert await it.next_input() == given.id
            await it.report(given.id)
            outputs, unfinished = await it.calls.outputs(call.id, 0, 0.0)
            assert [o.idx for o in outputs] == [0, 1] and unfinished == 0

    run_for(20, scenario())


def test_an_output_that_cannot_be_stored_is_stored_later_though_its_container_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_storage, "_TRY_AGAIN", 0.01)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(1)
            input_id = await it.next_input()

            async def full(*rows: Rows) -> None:
                raise ResourceExhausted("The disk is full.")

            with monkeypatch.context() as patch:
                patch.setattr(it.database, "append", full)
                with pytest.raises(ResourceExhausted):
                    await it.report(input_id)
                it.scheduler.stop_task(it.launcher.tasks[0].id, graceful=False)
            outputs, unfinished = await it.calls.outputs(call.id, 0, 10.0)
            assert [(o.input_id, o.result) for o in outputs] == [(input_id, b"r")] and unfinished == 0

    run_for(20, scenario())


def test_an_end_that_its_container_helped_to_store_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_storage, "_TRY_AGAIN", 0.01)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(3)
            running = await it.next_input()
            tried = asyncio.Event()

            async def full(*rows: Rows) -> None:
                tried.set()
                raise ResourceExhausted("The disk is full.", 0.3)

            with monkeypatch.context() as patch:
                patch.setattr(it.database, "append", full)
                await it.calls.cancel(call.id, terminate_containers=False)
                await tried.wait()
                await asyncio.sleep(0)
            await it.report(running)
            after, left = 0, 3
            while left:
                outputs, left = await it.calls.outputs(call.id, after, 5.0)
                assert outputs, "the other inputs of the cancelled call never end"
                after = outputs[-1].seq

    run_for(20, scenario())


def test_inputs_that_come_while_their_call_is_cancelled_do_not_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(1)
            await it.report(await it.next_input())
            large = b"x" * 300_000  # stored by the database's writer, after the cancellation
            await asyncio.gather(
                it.calls.put(call.id, [(1, large)]), it.calls.cancel(call.id, terminate_containers=False)
            )
            outputs, unfinished = await it.calls.outputs(call.id, 1, 5.0)
            assert [o.idx for o in outputs] == [1] and unfinished == 0

    run_for(20, scenario())


def test_a_call_that_was_cancelled_before_a_restart_ends_after_it(tmp_path: Path) -> None:
    async def before() -> str:
        async with world(tmp_path) as it:
            call = await it.a_map(1)
            cancelled = sa.update(tables.calls).values(cancelled=True)
            await it.database.write(lambda connection: connection.execute(cancelled))
            return call.id  # the server ends here, before the output of the input is stored

    async def after(call_id: str) -> None:
        async with world(tmp_path) as it:
            it.apps.load()
            it.calls.load()
            outputs, unfinished = await it.calls.outputs(call_id, 0, 5.0)
            assert [o.idx for o in outputs] == [0] and unfinished == 0

    run_for(20, after(asyncio.run(before())))


def test_a_result_fetched_late_does_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_FORGET_AFTER", 0.0)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            looked_at: asyncio.Queue[Call] = asyncio.Queue()
            forget = it.calls._forget

            def look(call: Call) -> None:
                forget(call)
                looked_at.put_nowait(call)

            monkeypatch.setattr(it.calls, "_forget", look)
            call = await it.a_map(1)
            await it.report(await it.next_input())
            await looked_at.get()
            assert call.id not in it.calls._calls
            outputs, _ = await it.calls.outputs(call.id, 0, 0.0)
            assert len(outputs) == 1
            await looked_at.get()
            assert call.id not in it.calls._calls

    run_for(10, scenario())


def test_a_call_read_again_is_not_forgotten_in_place_of_its_predecessor(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            old = await it.a_map(1)
            await it.report(await it.next_input())
            it.calls._forget(old)
            await it.calls.put(old.id, [(1, b"x")])
            new = it.calls.get(old.id)
            it.calls._forget(old)  # the second end of the same call had set a second alarm
            assert new is not old and it.calls.get(old.id) is new

    run_for(10, scenario())


@pytest.mark.parametrize("repeats", [True, False], ids=["the client repeats", "the client gives up"])
def test_inputs_that_were_stored_without_an_answer_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats: bool
) -> None:
    """The rows are there, and nobody would know of them before the next start of the server."""
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", 0.01)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            function_id = await it.a_function(concurrent=2)
            append = it.database.append

            async def unanswered(*rows: Rows) -> None:
                await append(*rows)
                raise Unavailable("The database does not answer.")

            async def start(repeated: bool = False) -> str:
                call, _ = await it.calls.start(
                    function_id, "map", 1, "", [(0, b"x")], spawned=False, key="k", repeated=repeated
                )
                return call.id

            with monkeypatch.context() as patch:
                patch.setattr(it.database, "append", unanswered)
                with pytest.raises(Unavailable):
                    await start()
            call_id = content_id("fc", b"k")
            if repeats:
                assert await start(repeated=True) == call_id
            await it.launcher.started.wait()
            first = await it.next_input()
            with monkeypatch.context() as patch:
                patch.setattr(it.database, "append", unanswered)
                with pytest.raises(Unavailable):
                    await it.calls.put(call_id, [(1, b"y")])
            second = await it.next_input()
            for input_id in (first, second):
                await it.report(input_id)
            outputs, unfinished = await it.calls.outputs(call_id, 0, 0.0)
            assert [o.idx for o in outputs] == [0, 1] and unfinished == 0, "each is run once"
            assert it.scheduler.load_of(function_id) == (0, 0)

    run_for(20, scenario())


def test_inputs_end_although_the_database_cannot_be_read_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a long queue are in the database only."""
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(calls_module, "_MOST_IN_MEMORY", -1)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            function_id = await it.a_function()
            call, _ = await it.calls.start(function_id, "unary", 3, "", [(0, b"x")], spawned=True)
            read, failures = it.database.read, [Unavailable("The database does not answer.")] * 2

            def away() -> Any:
                if failures:
                    raise failures.pop()
                return read()

            monkeypatch.setattr(it.database, "read", away)
            await it.calls.cancel_app(call.app_id)
            while it.calls._jobs:
                await asyncio.wait(it.calls._jobs)
            outputs, unfinished = await it.calls.outputs(call.id, 0, 5.0)
            assert not failures and len(outputs) == 1 and unfinished == 0

    run_for(20, scenario())

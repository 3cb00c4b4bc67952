"""A long queue of spawned calls costs little memory and survives a restart."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path

from stoker.store.database import Database
from tests.services.world import NoRoom, World


async def spawn(it: World, function_id: str, count: int, payload: bytes) -> list[str]:
    started = await asyncio.gather(
        *(it.calls.start(function_id, "unary", 3, "", [(0, payload)], spawned=True) for _ in range(count))
    )
    return [call.id for call, _ in started]


def test_waiting_inputs_cost_less_than_a_kilobyte_each(tmp_path: Path) -> None:
    async def scenario() -> None:
        services = World(Database.open(f"sqlite:///{tmp_path}/db"), NoRoom())
        function_id = await services.a_function()
        await spawn(services, function_id, 2_000, b"x" * 5_000)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            await spawn(services, function_id, 1_000, b"x" * 5_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert services.scheduler.load_of(function_id)[0] == 7_000
        assert grown / 5_000 < 1_000, f"{grown / 5_000:.0f} bytes per waiting input"
        await services.database.close()

    asyncio.run(scenario())


def test_a_queue_is_taken_up_and_can_be_cancelled_after_a_restart(tmp_path: Path) -> None:
    async def before() -> list[str]:
        services = World(Database.open(f"sqlite:///{tmp_path}/db"), NoRoom())
        call_ids = await spawn(services, await services.a_function(), 1_500, b"payload")
        await services.database.close()
        return call_ids

    async def after(call_ids: list[str]) -> None:
        services = World(Database.open(f"sqlite:///{tmp_path}/db"), NoRoom())
        services.apps.load()
        services.calls.load()
        call = services.calls.get(call_ids[-1])
        assert services.scheduler.load_of(call.function_id)[0] == 1_500
        [item] = call.open_inputs.values()
        assert services.calls.find_input(item.id) is item and item.payload == b"payload"
        await services.calls.cancel(call.id, terminate_containers=False)
        outputs, unfinished = await services.calls.outputs(call.id, 0, 5.0)
        assert len(outputs) == 1 and unfinished == 0
        assert services.scheduler.load_of(call.function_id)[0] == 1_499
        await services.calls.cancel_app(call.app_id)
        await services.calls.close()
        assert not services.calls.unfinished(call.app_id)
        outputs, _ = await services.calls.outputs(call_ids[0], 0, 0.0)
        assert len(outputs) == 1, "the waiting call ended with its app"
        await services.database.close()

    asyncio.run(after(asyncio.run(before())))

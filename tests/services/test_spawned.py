"""A long queue of spawned calls costs little memory and survives a restart."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path

from modal_proto import api_pb2

from stoker.engine.base import NotNow
from stoker.engine.local import LocalEngine
from stoker.protocol.wire import ModalWire
from stoker.runtime.base import Container
from stoker.services.apps import DEPLOYED, Apps
from stoker.services.calls import Calls, Limits
from stoker.services.functions import Function, Functions
from stoker.services.logs import Logs
from stoker.services.runner import Task
from stoker.services.scheduler import Scheduler
from stoker.store.database import Database


class NoRoom:
    """A machine that never has room for a container."""

    def start_slots(self) -> int:
        return 1

    async def launch(self, function: Function, task: Task) -> Container | NotNow:
        return NotNow("there is no room")

    def withdraw(self, function_id: str) -> None:
        pass

    async def land(self, task: Task) -> None:
        pass

    def say(self, task: Task, text: str) -> None:
        pass

    def last_words(self, task: Task) -> str:
        return ""


class Services:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.functions = Functions(database, ModalWire())
        self.apps = Apps(database, self.functions, Logs(database))
        self.scheduler = Scheduler(self.functions, self.apps, NoRoom(), LocalEngine())
        self.calls = Calls(database, self.scheduler, ModalWire(), Limits())

    async def a_function(self) -> str:
        app = await self.apps.create("en-1", "test", DEPLOYED)
        request = api_pb2.FunctionCreateRequest(app_id=app.id)
        request.function.function_name = "f"
        function = await self.functions.define(app.id, "f", "", request.SerializeToString(), "1.6.4")
        await self.functions.activate([function.id])
        return function.id

    async def spawn(self, function_id: str, count: int, payload: bytes) -> list[str]:
        started = await asyncio.gather(
            *(self.calls.start(function_id, "unary", 3, "", [(0, payload)], spawned=True) for _ in range(count))
        )
        return [call.id for call, _ in started]


def test_waiting_inputs_cost_less_than_a_kilobyte_each(tmp_path: Path) -> None:
    async def scenario() -> None:
        services = Services(Database.open(f"sqlite:///{tmp_path}/db"))
        function_id = await services.a_function()
        await services.spawn(function_id, 2_000, b"x" * 5_000)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            await services.spawn(function_id, 1_000, b"x" * 5_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert services.scheduler.load_of(function_id)[0] == 7_000
        assert grown / 5_000 < 1_000, f"{grown / 5_000:.0f} bytes per waiting input"
        await services.database.close()

    asyncio.run(scenario())


def test_a_queue_is_taken_up_and_can_be_cancelled_after_a_restart(tmp_path: Path) -> None:
    async def before() -> list[str]:
        services = Services(Database.open(f"sqlite:///{tmp_path}/db"))
        call_ids = await services.spawn(await services.a_function(), 1_500, b"payload")
        await services.database.close()
        return call_ids

    async def after(call_ids: list[str]) -> None:
        services = Services(Database.open(f"sqlite:///{tmp_path}/db"))
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

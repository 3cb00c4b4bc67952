"""The services without a container: the real ones on a real database, and a launcher whose containers say what a test lets them say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from modal_proto import api_pb2

from stoker.core.checked_pool import CheckedPool
from stoker.engine.base import Never, NotNow
from stoker.engine.local import local_engine
from stoker.ids import new_id
from stoker.nodes.endings import Exit, ExitKind
from stoker.protocol.wire import ModalWire
from stoker.services.apps.apps import DEPLOYED, Apps
from stoker.services.calls.call_records import Call
from stoker.services.calls.calls import Calls, Limits, Report
from stoker.services.containers.task import Task
from stoker.services.functions.functions import Functions
from stoker.services.functions.spec import Function
from stoker.services.pools.scheduler import Scheduler
from stoker.services.telemetry.logs import Logs
from stoker.store.database import Database

SUCCESS = 1


class Idle:
    """A node whose containers have no processes: the tests say what they say. It is its own `containers`."""

    def __init__(self) -> None:
        self.ends: dict[str, asyncio.Future[Exit]] = {}

    @property
    def containers(self) -> Idle:
        return self

    def launch(self, task: Task) -> None:
        self.ends[task.id] = asyncio.get_running_loop().create_future()
        task.node = cast(Any, self)

    async def signal(self, task_id: str, number: int) -> None:
        pass

    async def kill(self, task_id: str) -> None:
        if not self.ends[task_id].done():
            self.ends[task_id].set_result(Exit(ExitKind.KILLED, 137))

    async def stuck(self, task_id: str, timeout: float) -> str:
        return ""


class Starts:
    """Starts such containers."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.started = asyncio.Event()
        self.node = Idle()

    def start_slots(self) -> int:
        return 1

    def new_task_id(self, function_id: str) -> str:
        return new_id("ta")

    async def launch(self, function: Function, task: Task) -> NotNow | Never | None:
        self.begin(task)
        self.node.launch(task)
        return None

    def begin(self, task: Task) -> None:
        self.tasks.append(task)
        self.started.set()

    async def end_of(self, task: Task) -> Exit:
        return await self.node.ends[task.id]

    def withdraw(self, function_id: str) -> None:
        pass

    def forget(self, function_id: str) -> None:
        pass

    async def clean_up(self, task: Task) -> None:
        pass

    def ready(self, task: Task) -> None:
        pass

    def delivered(self, waited: float) -> None:
        pass

    def blames_snapshot(self, task: Task, reason: str) -> bool:
        return False

    def say(self, task: Task, text: str) -> None:
        pass

    def last_words(self, task: Task) -> str:
        return ""


class NoRoom(Starts):
    """A machine that never has room for a container."""

    async def launch(self, function: Function, task: Task) -> NotNow | Never | None:
        return NotNow("there is no room")


class World:
    def __init__(self, database: Database, launcher: Starts | None = None) -> None:
        self.database = database
        self.functions = Functions(database, ModalWire())
        self.apps = Apps(database, self.functions, Logs(database))
        self.launcher = launcher or Starts()
        self.scheduler = Scheduler(
            self.functions,
            self.apps,
            self.launcher,
            local_engine(),
            make_pool=lambda function: CheckedPool(function.active.spec.pool),
        )
        self.calls = Calls(database, self.scheduler, ModalWire(), Limits())

    async def a_function(self, concurrent: int = 0) -> str:
        app = await self.apps.create("en-1", "test", DEPLOYED)
        request = api_pb2.FunctionCreateRequest(app_id=app.id)
        request.function.function_name = "f"
        request.function.max_concurrent_inputs = concurrent
        request.function.autoscaler_settings.max_containers = 1
        function = await self.functions.define(app.id, "f", "", request.SerializeToString(), "1.6.4")
        await self.functions.activate([function.id])
        return function.id

    async def a_map(self, inputs: int, concurrent: int = 0) -> Call:
        function_id = await self.a_function(concurrent)
        call, _ = await self.calls.start(function_id, "map", 1, "", [(n, b"x") for n in range(inputs)], spawned=False)
        await self.launcher.started.wait()
        return call

    async def next_input(self) -> str:
        """What the container gets."""
        delivery = await self.scheduler.next_inputs(self.launcher.tasks[0].id, 1)
        [(input_id, _)] = delivery.inputs
        return input_id

    async def report(self, input_id: str, result: bytes = b"r") -> None:
        await self.calls.report(self.launcher.tasks[0].id, [Report(input_id, result, 1, SUCCESS, False, 1.0, 2.0)])


@asynccontextmanager
async def world(directory: Path, launcher: Starts | None = None) -> AsyncIterator[World]:
    made = World(Database.open(f"sqlite:///{directory}/db"), launcher)
    yield made
    await made.scheduler.close(0.0)
    await made.calls.close()
    await made.database.close()


def run_for(seconds: float, work: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work, seconds)

    asyncio.run(limited())

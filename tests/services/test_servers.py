"""@app.server containers as the gateway gets them: at the port they were started with, and only while they live."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stoker.agent.ports import LocalPorts
from stoker.core.actions import Finish, Outcome
from stoker.core.books import PooledInput, PoolSettings
from stoker.core.pool import Pool
from stoker.errors import Unavailable
from stoker.services.containers.task import Delivery
from stoker.services.functions.spec import ServerSpec
from stoker.services.pools.server_sessions import ServerSessions
from stoker.services.pools.servers import Servers


class OneContainer:
    """In place of the scheduler and of its runner: a function with one container, the task `ta-1`."""

    def __init__(self, port: int = 0) -> None:
        self.on_finish: Any = lambda finishes, result: None
        self.pool = Pool(PoolSettings())
        self.serves, self.ends, self.asked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        node = SimpleNamespace(ports=LocalPorts(lambda task_id: "127.0.0.1"))
        job = asyncio.get_running_loop().create_future()
        self.alive = SimpleNamespace(
            id="ta-1", function_id="fu-1", node=node, address="127.0.0.1", signal=self._signal, job=job
        )
        self.tasks = {"ta-1": self.alive}
        spec = SimpleNamespace(server=ServerSpec("Server", port))
        self.function = SimpleNamespace(active=SimpleNamespace(spec=spec))
        self.added: list[str] = []

    def check(self, function_id: str) -> Any:
        return self.function

    def runner(self, function_id: str) -> Any:
        return self

    def task(self, task_id: str) -> Any:
        return self.tasks.get(task_id)

    def take(self, item: PooledInput, affinity: bytes = b"") -> Any:
        return self.alive if self.serves.is_set() else None

    def add(self, function_id: str, inputs: list[PooledInput]) -> None:
        self.added += [item.id for item in inputs]
        self.asked.set()

    def report(self, task_id: str, input_id: str, *, failed: bool) -> bool:
        return False

    def cancel(self, function_id: str, input_ids: list[str], *, terminate_containers: bool) -> None:
        pass

    async def next_inputs(self, task_id: str, capacity: int) -> Delivery:
        self.serves.set()
        await self.ends.wait()
        return Delivery(exit=True)

    async def _signal(self, number: int) -> None:
        self.alive.job.set_result(None)


def _servers(scheduler: OneContainer) -> Servers:
    return Servers(scheduler, key=b"key", max_pending=10)  # type: ignore[arg-type]


def test_a_container_is_asked_at_its_own_port_while_another_version_is_rolled_out() -> None:
    async def main() -> None:
        listener = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        scheduler = OneContainer(port)
        servers = _servers(scheduler)
        servers.ready("ta-1")
        await asyncio.wait_for(scheduler.serves.wait(), 10)
        slot = servers.take("fu-1", ServerSpec("Server", port + 1))  # as the new version has it
        assert slot is not None and slot.port == port
        servers.give_back(slot)
        scheduler.ends.set()
        await asyncio.wait_for(scheduler.alive.job, 10)
        listener.close()

    asyncio.run(main())


def test_no_session_begins_in_a_container_that_has_just_ended() -> None:
    async def main() -> None:
        scheduler = OneContainer()
        servers = _servers(scheduler)
        sessions = ServerSessions(servers)
        starting = asyncio.ensure_future(sessions.start("fu-1", ServerSpec("Server", 1), 300.0, "key"))
        await asyncio.wait_for(scheduler.asked.wait(), 10)
        servers._grant(scheduler.added[0], scheduler.alive)
        scheduler.on_finish([Finish(scheduler.added[0], "", Outcome.LOST, "It ended.")], None)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(starting, 10)
        assert not sessions._by_token and not sessions._by_key and not servers._active and not servers._on_lost

    asyncio.run(main())


def test_two_starts_with_one_key_at_once_give_one_session() -> None:
    async def main() -> None:
        scheduler = OneContainer()
        sessions = ServerSessions(_servers(scheduler))
        given_up, *starting = (
            asyncio.ensure_future(sessions.start("fu-1", ServerSpec("Server", 1), 300.0, "key")) for _ in range(3)
        )
        await asyncio.wait_for(scheduler.asked.wait(), 10)
        scheduler.asked.clear()
        given_up.cancel()  # the connection of the first broke; the others ask on
        await asyncio.wait_for(scheduler.asked.wait(), 10)
        assert len(scheduler.added) == 2
        scheduler.pool.inputs[scheduler.added[1]] = PooledInput(scheduler.added[1], "")  # type: ignore[assignment]
        sessions._servers._grant(scheduler.added[1], scheduler.alive)
        one, other = await asyncio.wait_for(asyncio.gather(*starting), 10)
        assert one is other and len(sessions._by_token) == 1 and len(scheduler.added) == 2
        sessions.terminate("fu-1", one.token)
        del starting, given_up
        assert not sessions._by_key and not sessions._starting

    asyncio.run(main())


def test_a_container_that_the_server_lost_track_of_is_ended() -> None:
    """Nobody would give it requests any more, and it would hold its place for ever."""

    async def main() -> None:
        listener = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        scheduler, killed = OneContainer(listener.sockets[0].getsockname()[1]), asyncio.Event()

        async def defect(task_id: str, capacity: int) -> Delivery:
            raise ZeroDivisionError("a defect")

        scheduler.next_inputs = defect  # type: ignore[method-assign]
        scheduler.kill = lambda task_id, reason: killed.set()  # type: ignore[attr-defined]
        _servers(scheduler).ready("ta-1")
        await asyncio.wait_for(killed.wait(), 10)
        listener.close()

    asyncio.run(main())

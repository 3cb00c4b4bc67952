"""The lives of apps: deployments at the same time, environments that go, clients that leave, a full disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from modal_proto import api_pb2

from stoker.errors import FailedPrecondition, NotFound, ResourceExhausted
from stoker.protocol.app_metadata import AppMetadata
from stoker.protocol.apps import AppServicer
from stoker.protocol.wire import ModalWire
from stoker.rpc.methods import Caller
from stoker.services.apps.apps import (
    DEPLOYED,
    DETACHED,
    DETACHED_DISCONNECTED,
    INITIALIZING,
    STOPPED,
    App,
    Apps,
    Publication,
)
from stoker.services.apps.deployments import Deployments
from stoker.services.environments.environments import Environments
from stoker.services.functions.functions import Functions
from stoker.services.telemetry.logs import Logs
from stoker.store.database import Database


class World:
    """A server's apps. `published` and `ended` are what the other services were told."""

    async def open(self, directory: Path) -> None:
        self.database = Database.open(f"sqlite:///{directory}/db")
        self.environments = Environments(database=self.database, default="main")
        await self.environments.load()
        self.main = self.environments.resolve("").id
        self.functions = Functions(self.database, ModalWire())
        self.apps = Apps(self.database, self.functions, Logs(self.database), environments=self.environments)
        self.published: list[str] = []
        self.ended: list[str] = []
        self.apps.on_publish = lambda app, changed: self.published.append(app.id)
        self.apps.on_stop = self._on_stop

    async def _on_stop(self, app: App, drain: bool) -> None:
        self.ended.append(app.id)

    async def an_app(self) -> tuple[App, Publication]:
        """An app that is about to be deployed."""
        app = await self.apps.create(self.main, "shop", INITIALIZING)
        request = api_pb2.FunctionCreateRequest(app_id=app.id)
        request.function.function_name = "f"
        function = await self.functions.define(app.id, "f", "", request.SerializeToString(), "1.6.4")
        return app, Publication(DEPLOYED, "shop", {"f": function.id}, {}, {})

    async def settle(self) -> None:
        """Waits for the ends of apps that have begun."""
        while self.apps._stopping:
            await asyncio.wait(set(self.apps._stopping))


def run(directory: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def work() -> None:
        world = World()
        await world.open(directory)
        await scenario(world)
        await world.apps.close()
        await world.database.close()

    asyncio.run(asyncio.wait_for(work(), 30))


def fail_writes(world: World, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """As many changes find the disk full."""
    left, write = [times], world.database.write

    async def sometimes(work: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise ResourceExhausted("The server's disk is full.", 0.001)
        return await write(work)

    monkeypatch.setattr(world.database, "write", sometimes)


def test_an_environment_takes_its_apps_along(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        dev = await world.environments.create("dev")
        inside = await world.apps.create(dev.id, "x", DEPLOYED, "x")
        outside = await world.apps.create(world.main, "x", DEPLOYED, "x")
        refused: list[str] = []

        async def look(environment_id: str) -> None:
            assert inside.is_over, "apps end before what they use"
            for name in ("dev", dev.id):  # nothing new may come to be in it
                with pytest.raises(NotFound):
                    world.environments.resolve(name)
                refused.append(name)

        world.environments.on_delete.append(look)
        await world.environments.delete("dev")
        await world.settle()
        assert world.ended == [inside.id] and world.apps.get(inside.id).state == STOPPED
        assert world.apps.get(outside.id).state == DEPLOYED and len(refused) == 2

    run(tmp_path, scenario)


def test_an_app_whose_environment_is_gone_ends_when_the_server_starts(tmp_path: Path) -> None:
    """Its URLs are made from the environment: they cannot be published, and the server would not start."""

    async def scenario(world: World) -> None:
        stray = await world.apps.create("en-" + "0" * 22, "x", DEPLOYED, "x")
        kept = await world.apps.create(world.main, "x", DEPLOYED, "x")
        restarted = World()
        await restarted.open(tmp_path)
        restarted.apps.load()
        assert [app.id for app in restarted.apps.all() if not app.is_over] == [kept.id]
        await restarted.settle()
        assert restarted.ended == [stray.id] and restarted.apps.get(stray.id).state == STOPPED
        await restarted.database.close()

    run(tmp_path, scenario)


def test_of_two_deployments_of_one_name_at_the_same_time_one_stays(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        deployments = [await world.an_app() for _ in range(2)]
        await asyncio.gather(*(world.apps.publish(app.id, publication) for app, publication in deployments))
        await world.settle()
        alive = [app.id for app in world.apps.all() if not app.is_over]
        assert len(alive) == 1 and world.published[-1:] == alive
        assert set(world.published) - set(alive) <= set(world.ended)

    run(tmp_path, scenario)


def test_an_app_that_is_stopped_while_it_is_deployed_stays_stopped(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        app, publication = await world.an_app()
        write = world.database.write

        async def interrupted(work: Any) -> Any:
            world.database.write = write  # type: ignore[method-assign]
            await world.apps.stop(app.id)
            return await write(work)

        world.database.write = interrupted  # type: ignore[method-assign]
        with pytest.raises(FailedPrecondition, match="is stopped"):
            await world.apps.publish(app.id, publication)
        await world.settle()
        assert world.apps.get(app.id).state == STOPPED and not world.published

    run(tmp_path, scenario)


def test_two_requests_for_one_name_make_one_app(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        unused: Any = None
        deployments = Deployments(database=world.database, apps=world.apps, functions=world.functions)
        servicer = AppServicer(
            apps=world.apps,
            environments=world.environments,
            images=unused,
            logs=unused,
            metadata=unused,
            app_metadata=AppMetadata(
                deployments=deployments, functions=world.functions, environments=world.environments, user="local"
            ),
            history=unused,
            scheduler=unused,
            page_url="",
        )
        request = api_pb2.AppGetOrCreateRequest(
            app_name="shared", object_creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
        )
        answers = await asyncio.gather(*(servicer.get_or_create(request, Caller()) for _ in range(3)))
        assert len({answer.app_id for answer in answers}) == 1 and len(world.apps.all()) == 1

    run(tmp_path, scenario)


def test_an_app_that_could_not_be_stored_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        fail_writes(world, monkeypatch, 1)
        with pytest.raises(ResourceExhausted):
            await world.apps.create(world.main, "x", DEPLOYED, "x")
        assert world.apps.by_name(world.main, "x") is None

    run(tmp_path, scenario)


def test_an_app_ends_also_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it counts as stopping nobody could stop it again: its containers would run for ever."""

    async def scenario(world: World) -> None:
        app = await world.apps.create(world.main, "x", DEPLOYED, "x")
        fail_writes(world, monkeypatch, 3)
        with pytest.raises(ResourceExhausted):
            await world.apps.stop(app.id)
        await world.settle()
        assert world.ended == [app.id] and world.apps.get(app.id).state == STOPPED

    run(tmp_path, scenario)


def test_a_detached_app_without_calls_ends_with_its_client(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        idle, busy = [await world.apps.create(world.main, "x", DETACHED) for _ in range(2)]
        world.apps.is_busy = lambda app_id: app_id == busy.id
        for app in (idle, busy):
            await world.apps.disconnect(app.id, "done")
        await world.settle()
        assert world.ended == [idle.id] and busy.state == DETACHED_DISCONNECTED
        world.apps._lose_client(busy)  # a timer that went off late
        assert not busy.is_over and not world.apps._stopping

        restarted = World()
        await restarted.open(tmp_path)
        restarted.apps.is_busy = lambda app_id: False  # its calls ended with the last server
        restarted.apps.load()
        await asyncio.sleep(0)
        await restarted.settle()
        assert restarted.ended == [busy.id]
        await restarted.database.close()

    run(tmp_path, scenario)

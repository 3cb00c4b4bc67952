"""A server that stops answers those who wait for what does not outlive it, and keeps the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stoker.aio import jobs
from stoker.errors import Unavailable
from stoker.protocol.web import AsgiWire
from stoker.services.apps import apps as apps_module
from stoker.services.apps.apps import DEPLOYED, STOPPED, App
from stoker.services.calls.web_history import WebHistory
from stoker.services.calls.webcalls import WebCalls
from stoker.services.files.blobs import Blobs
from stoker.services.functions.spec import ServerSpec
from stoker.services.pools.servers import Servers
from stoker.store import tables
from stoker.store.blobs import BlobStore
from stoker.store.database import Database
from tests.services.world import NoRoom, World, run_for, world


def test_requests_that_wait_are_answered_and_calls_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        it = World(Database.open(f"sqlite:///{tmp_path}/db"), NoRoom())
        wire = AsgiWire(Blobs(database=it.database, store=BlobStore.local(tmp_path / "blobs")))
        web_calls = WebCalls(it.calls, it.scheduler, wire, WebHistory(it.database))
        it.calls.on_call_finished = web_calls.finished
        servers = Servers(it.scheduler, key=b"key", max_pending=10)
        function_id = await it.a_function()
        call, _ = await it.calls.start(function_id, "map", 1, "", [(0, b"x")], spawned=False)
        web = await web_calls.start(function_id, "", "", {"type": "http"}, {"type": "http.request"})
        request = asyncio.ensure_future(servers.wait(function_id, ServerSpec("Server", 1)))
        await asyncio.sleep(0)  # it waits now
        await it.scheduler.close(0.0)
        with pytest.raises(Unavailable, match="The server stops"):
            await asyncio.wait_for(request, 5)
        assert await asyncio.wait_for(web.ending(), 5) == ("cancelled", "The server stops.")
        await it.calls.close()
        assert (await it.calls.outputs(call.id, 0, 0.0)) == ([], 1), "the call goes on after a restart"
        await it.database.close()

    run_for(20, scenario())


def test_a_web_request_that_runs_ends_with_the_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        it = World(Database.open(f"sqlite:///{tmp_path}/db"))
        wire = AsgiWire(Blobs(database=it.database, store=BlobStore.local(tmp_path / "blobs")))
        web_calls = WebCalls(it.calls, it.scheduler, wire, WebHistory(it.database))
        it.calls.on_call_finished = web_calls.finished
        function_id = await it.a_function()
        web = await web_calls.start(function_id, "", "", {"type": "http"}, {"type": "http.request"})
        await it.launcher.started.wait()
        await it.next_input()
        closing = asyncio.ensure_future(it.scheduler.close(0.0))
        assert await asyncio.wait_for(web.ending(), 5) == ("cancelled", "The server stops.")
        await closing
        await it.calls.close()
        await it.database.close()

    run_for(20, scenario())


def test_an_app_stopped_while_the_database_is_away_ends_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its containers do not wait for the database, and the database hears of it when it is back."""
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", 0.01)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(2)
            await it.next_input()
            [task], back, write = it.launcher.tasks, asyncio.Event(), it.database.write

            async def end(app: App, drain: bool) -> None:
                await it.calls.cancel_app(app.id)
                await it.scheduler.stop_app(app.id, drain=drain)

            async def away(work: Any) -> Any:
                if not back.is_set():
                    raise Unavailable("The database does not answer.")
                return await write(work)

            it.apps.on_stop = end
            monkeypatch.setattr(it.database, "write", away)
            with pytest.raises(Unavailable):
                await it.apps.stop(task.app_id)
            assert task.job is not None
            await asyncio.wait([task.job])
            assert task.stopping and it.scheduler.tasks() == []
            assert len((await it.calls.outputs(call.id, 0, 5.0))[0]) == 2, "who waits for its calls is answered"
            back.set()
            await it.apps.stop(task.app_id)
            while it.apps._stopping or it.calls._jobs:
                await asyncio.wait([*it.apps._stopping, *it.calls._jobs])
            assert it.apps.get(task.app_id).state == STOPPED
            with it.database.read() as connection:
                assert connection.execute(sa.select(tables.apps.c.state)).scalar() == STOPPED
                assert connection.execute(sa.select(tables.calls.c.cancelled)).scalar()

    run_for(20, scenario())


def test_an_app_whose_containers_could_not_be_ended_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason, and again by the next server."""
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", 0.01)
    tries: list[str] = []

    async def before() -> str:
        async with world(tmp_path) as it:
            app, often = await it.apps.create("en-1", "test", DEPLOYED), asyncio.Event()

            async def end(app: App, drain: bool) -> None:
                tries.append(app.id)
                if len(tries) == 3:
                    often.set()
                raise ZeroDivisionError("a defect")

            it.apps.on_stop = end
            await it.apps.stop(app.id)
            await often.wait()
            monkeypatch.setattr(apps_module, "_PATIENCE", 0.0)
            await it.apps.close()
            return app.id

    async def after(app_id: str) -> None:
        async with world(tmp_path) as it:
            ended: list[str] = []

            async def end(app: App, drain: bool) -> None:
                ended.append(app.id)

            it.apps.on_stop = end
            it.apps.load()
            while it.apps._stopping:
                await asyncio.wait(it.apps._stopping)
            assert ended == [app_id] and it.apps.get(app_id).state == STOPPED

    run_for(20, after(asyncio.run(before())))

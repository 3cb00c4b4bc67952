"""A server that stops answers those who wait for what does not outlive it, and keeps the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stoker.errors import Unavailable
from stoker.protocol.web import AsgiWire
from stoker.services.blobs import Blobs
from stoker.services.functions import ServerSpec
from stoker.services.servers import Servers
from stoker.services.web_history import WebHistory
from stoker.services.webcalls import WebCalls
from stoker.store.blobs import BlobStore
from stoker.store.database import Database
from tests.services.world import NoRoom, World, run_for


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

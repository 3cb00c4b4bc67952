"""The HTTP servers themselves."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from stoker.errors import FailedPrecondition
from stoker.gateway.web.serve import HttpServer

from .conftest import StateServer


def get(state: StateServer, address: str, **headers: str) -> tuple[int, str]:
    async def work() -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(address, headers=headers) as response:
            return response.status, await response.text()

    return state.run(work())


def test_health_and_status(state: StateServer) -> None:
    assert get(state, state.http_url + "/healthz") == (200, "ok")
    token_id, secret = state.token
    good = {"Modal-Token-Id": token_id, "Modal-Token-Secret": secret}
    assert get(state, state.http_url + "/_stoker/status", **good) == (200, '{"answer":42}')
    status, text = get(state, state.http_url + "/_stoker/status", **{**good, "Modal-Token-Secret": "wrong"})
    assert status == 401 and "secret is wrong" in text
    assert get(state, state.http_url + "/_stoker/status")[0] == 401


def test_containers_reach_transfers_alone_on_each_address(state: StateServer) -> None:
    for host in ("127.0.0.1", "127.0.0.2"):
        base = f"http://{host}:{state.container_port}"
        assert get(state, base + "/healthz")[0] == 404
        assert get(state, base + "/_stoker/status")[0] == 404
        assert get(state, base + "/_stoker/blobs/bl-x")[0] == 403


def test_a_taken_port_is_named(state: StateServer) -> None:
    with pytest.raises(FailedPrecondition, match=f":{state.http_port} for HTTP"):
        state.run(HttpServer(None).start(["127.0.0.1"], state.http_port))


def test_a_stopped_server_gives_its_port_back_and_ends_requests(state: StateServer) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    async def work() -> None:
        server = HttpServer(slow)
        port = await server.start(["127.0.0.1"], 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()
        await server.stop(0)
        await server.stop(0)
        writer.close()
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))

    state.run(work(), timeout=20)

"""The time and the connections that a peer of the gRPC server can take are bounded, for strangers, clients and containers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from grpclib.client import Channel
from modal._utils.grpc_utils import create_channel_config, retry_transient_errors
from modal_proto import api_grpc, api_pb2

from stoker import connections as connections_module
from stoker.rpc import listeners
from stoker.rpc.http2 import frames
from tests.protocol.peer import TOKEN, Peer, Served, serving
from tests.protocol.steered import Servicer, framed, is_served, prefix, run, until

MIB = 1 << 20
ENHANCE_YOUR_CALM = frames.ENHANCE_YOUR_CALM


@pytest.fixture
def pass_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Served, float], Awaitable[None]]:
    """Lets time pass for the connections of a server."""
    ahead = 0.0
    monkeypatch.setattr(connections_module, "LOOK_SECONDS", 1e9)

    async def pass_by(served: Served, seconds: float) -> None:
        nonlocal ahead
        await asyncio.sleep(0.1)  # what was sent has come
        for _ in range(10):
            ahead += seconds / 10
            for connection in served.all:
                connection.look(asyncio.get_running_loop().time() + ahead)

    return pass_by


PassBy = Callable[[Served, float], Awaitable[None]]


@pytest.mark.parametrize(
    "begun",
    [
        lambda peer: None,
        lambda peer: peer.head(1, "TokenFlowCreate", {}),
        lambda peer: peer.send(frames.frame(frames.HEADERS, 0, 1, b"\x82")),  # a header block without its end
        lambda peer: peer.send(b"\0\x10"),  # a frame without its rest
    ],
)
def test_a_stranger_who_asks_for_nothing_is_shown_out(begun: Callable[[Peer], None], pass_by: PassBy) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            begun(peer)
            await pass_by(served, 10)
            assert not peer.closed
            await pass_by(served, 20)
            await peer.until(lambda: peer.closed)
            await peer.close()

    run(test)


def test_nobody_keeps_a_request_going_by_drops(pass_by: PassBy, tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            stranger, client, container = await served.client(), await served.client(), await served.container()
            stranger.head(1, "TokenFlowCreate", {})
            for peer in (client, container):
                peer.call(1, "MountPutFile", api_pb2.MountPutFileRequest())
                await peer.until(lambda peer=peer: 1 in peer.statuses)
                peer.head(3, "MountPutFile")
                peer.body(3, prefix(60_000))
            for peer in (stranger, client, container):
                for _ in range(20):
                    peer.body(1 if peer is stranger else 3, b"\0")
                    await pass_by(served, 3)
                await peer.until(lambda peer=peer: peer.closed)
                await peer.close()

    run(test)


def test_an_upload_that_goes_on_is_let_go_on(pass_by: PassBy) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            message = framed(4 * MIB)
            peer.head(1, "MountPutFile")
            for start in range(0, len(message), 200_000):
                peer.body(1, message[start : start + 200_000], end=start + 200_000 >= len(message))
                await pass_by(served, 50)
            await peer.until(lambda: peer.statuses.get(1) == "0")
            await peer.close()

    run(test)


def test_a_message_that_waits_for_memory_is_not_too_slow(pass_by: PassBy, tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            budget = served.transport._memories.containers.incoming
            budget.limit = budget.each = 3 * MIB
            first, second = await served.container("ta-1"), await served.container("ta-2")
            budget.share = 0
            message = framed(2 * MIB)
            for peer in (first, second):
                peer.head(1, "MountPutFile")
                peer.body(1, message[:60_000])
                await asyncio.sleep(0.05)
            await first.until(lambda: 1 in first.windows)
            await pass_by(served, 100)  # the first brings nothing any more, and is ended
            await second.until(lambda: 1 in second.windows)
            second.body(1, message[60_000:], end=True)
            await second.until(lambda: second.statuses.get(1) == "0")
            assert first.closed
            for peer in (first, second):
                await peer.close()

    run(test)


def test_idle_connections_end_and_those_with_a_call_do_not(pass_by: PassBy, tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            idle, waiting = await served.client(), await served.container()
            idle.call(1, "MountPutFile", api_pb2.MountPutFileRequest())
            waiting.call(1, "AppHeartbeat", api_pb2.AppHeartbeatRequest())
            await pass_by(served, 1_000)
            assert not idle.closed
            await pass_by(served, 1_000)
            await idle.until(lambda: idle.closed)
            assert idle.goaway == (frames.NO_ERROR, "")
            assert not waiting.closed
            servicer.go_on.set()
            await waiting.until(lambda: waiting.statuses.get(1) == "0")
            for peer in (idle, waiting):
                await peer.close()

    run(test)


def test_the_clients_own_stack_notices_nothing_of_the_end_of_an_idle_connection(pass_by: PassBy) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            channel = Channel("127.0.0.1", served.port, config=create_channel_config())
            stub = api_grpc.ModalClientStub(channel)
            for _ in range(3):
                response = await retry_transient_errors(_with_token(stub.MountPutFile), api_pb2.MountPutFileRequest())
                assert response.exists
                await pass_by(served, 2_000)
            channel.close()

    run(test)


def test_an_answer_that_is_not_taken_is_given_up(pass_by: PassBy, tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            budget = served.transport._memories.containers.outgoing
            peer = await served.container()
            peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
            peer.call(1, "BlobGet", api_pb2.BlobGetRequest(blob_id=str(MIB)))
            await until(lambda: budget.held > MIB)
            peer.call(3, "AppHeartbeat", api_pb2.AppHeartbeatRequest())
            await pass_by(served, 300)
            assert budget.held > MIB
            await pass_by(served, 700)
            await peer.until(lambda: peer.resets.get(1) == frames.CANCEL)
            assert budget.held == 0
            assert not peer.closed  # its other calls go on
            await peer.close()

    run(test)


def test_who_does_not_read_at_all_is_cut_off(pass_by: PassBy, tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            peer = await served.container()
            await peer.until(lambda: bool(peer.settings))
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}) + frames.window_update(0, 1 << 30))
            peer.call(1, "BlobGet", api_pb2.BlobGetRequest(blob_id=str(20 * MIB)))
            budget = served.transport._memories.containers.outgoing
            await until(lambda: budget.held > MIB)
            await pass_by(served, 300)
            await until(lambda: not served.all)
            assert budget.held == 0
            await peer.close()

    run(test)


# Connections


def test_a_container_has_few_connections_and_others_have_theirs(tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            crowd = [await served.container() for _ in range(300)]
            for peer in crowd:
                peer.call(1, "AppHeartbeat", api_pb2.AppHeartbeatRequest())
            await until(lambda: sum(peer.closed for peer in crowd) >= 300 - listeners._MOST_OF_CONTAINER)
            assert sum(not peer.closed for peer in crowd) > listeners._MOST_OF_CONTAINER // 2
            other = await served.container("ta-2")
            other.call(1, "MountPutFile", api_pb2.MountPutFileRequest())
            await other.until(lambda: other.statuses.get(1) == "0")
            for peer in (*crowd, other):
                await peer.close()

    run(test)


def test_who_comes_when_all_places_are_taken_gets_that_of_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_MOST_CLIENTS", 20)

    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            known = await served.client()
            known.call(1, "AppHeartbeat", api_pb2.AppHeartbeatRequest())
            await known.until(lambda: len(known.settings) > 2)
            crowd = [await served.client() for _ in range(40)]
            crowd[-1].call(1, "TokenFlowWait", api_pb2.TokenFlowWaitRequest(), {})
            await is_served(served)
            assert not known.closed
            assert len(served.all) <= 20
            for peer in (known, *crowd):
                await peer.close()

    run(test)


def test_one_address_has_so_many_connections_and_this_machine_as_many_as_there_are() -> None:
    class Guest:
        idle_since = None

        def look(self, now: float) -> None: ...

        def turn_away(self, reason: str) -> None:
            turned_away.append(reason)

    turned_away: list[str] = []

    async def main() -> None:
        kept = connections_module.Connections("test", 1_000, per_address=3)
        guests = [Guest() for _ in range(10)]
        assert [kept.add(guest, "203.0.113.7") for guest in guests[:5]] == [True, True, True, False, False]
        assert kept.add(guests[5], "203.0.113.8")
        assert all(kept.add(Guest(), "127.0.0.1") for _ in range(10))
        kept.remove(guests[0])
        kept.remove(guests[4])  # which never was one
        assert kept.add(guests[6], "203.0.113.7")
        assert not kept.add(guests[7], "203.0.113.7")
        assert "203.0.113.7" in turned_away[0]

    asyncio.run(main())


def _with_token(method: Any) -> Any:
    class WithToken(type(method)):  # type: ignore[misc]
        async def __call__(self, message: Any, *, timeout: Any = None, metadata: Any = ()) -> Any:
            return await super().__call__(message, timeout=timeout, metadata=[*metadata, *TOKEN.items()])

    method.__class__ = WithToken
    return method

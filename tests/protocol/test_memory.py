"""The memory that a peer of the gRPC server can make it hold is bounded, for strangers, clients and containers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from modal_proto import api_pb2

from stoker.rpc import intake
from stoker.rpc.http2 import frames, limits
from tests.protocol.peer import serving
from tests.protocol.steered import Servicer, framed, is_served, prefix, run, until

MIB = 1 << 20
ENHANCE_YOUR_CALM = frames.ENHANCE_YOUR_CALM


def test_a_stranger_has_few_streams_and_small_messages() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            request = api_pb2.TokenFlowCreateRequest(utm_source="x" * 4_000).SerializeToString()
            for number in range(20):
                peer.head(2 * number + 1, "TokenFlowCreate", {})
                peer.body(2 * number + 1, prefix(len(request)) + request[:3_000])
            await peer.until(lambda: len(peer.resets) == 20 - limits.STRANGER.streams)
            assert set(peer.resets.values()) == {frames.REFUSED_STREAM}
            peer.body(1, request[3_000:], end=True)
            await peer.until(lambda: peer.statuses.get(1) == "0")
            peer.head(101, "TokenFlowCreate", {})
            peer.body(101, prefix(10_000))
            await peer.until(lambda: peer.statuses.get(101) == "3")  # larger than anybody may send without a token
            peer.head(103, "MountPutFile")
            peer.body(103, framed(20_000), end=True)
            await peer.until(lambda: peer.statuses.get(103) == "0")  # a token lifts the limits
            await peer.close()

    run(test)


@pytest.mark.parametrize("kind", ["client", "container"])
def test_a_large_message_comes_when_there_is_memory_for_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve unfinished messages of 100 MiB took the server to 1.4 GiB. Now those that do not fit are not let come, and lose nothing."""

    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            memories = served.transport._memories
            budget = (memories.clients if kind == "client" else memories.containers).incoming
            budget.limit, budget.each, budget.share = 5 * MIB, 5 * MIB, 0
            peer = await (served.client() if kind == "client" else served.container())
            window = (limits.CLIENT if kind == "client" else limits.CONTAINER).stream_window
            message = framed(2 * MIB)
            streams = [1, 3, 5, 7]
            for stream in streams:
                peer.head(stream, "MountPutFile")
                peer.body(stream, message[:60_000])
            more = len(message) - window
            await peer.until(lambda: peer.windows.get(1) == more and peer.windows.get(3) == more)
            assert 5 not in peer.windows and 7 not in peer.windows
            assert budget.held == 2 * (len(message) - 5)
            peer.call(101, "MountPutFile", api_pb2.MountPutFileRequest())
            await peer.until(lambda: peer.statuses.get(101) == "0")  # a small one passes
            peer.send(frames.rst_stream(3, frames.CANCEL))
            await peer.until(lambda: peer.windows.get(5) == more)
            for stream in (1, 5, 7):
                await peer.until(lambda stream=stream: peer.windows.get(stream) == more)
                peer.body(stream, message[60_000:], end=True)
                await peer.until(lambda stream=stream: peer.statuses.get(stream) == "0")
            assert budget.held == 0
            await peer.close()

    run(test)


def test_a_peer_that_goes_gives_back_what_it_held(tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            budget = served.transport._memories.containers.incoming
            budget.limit = budget.each = 3 * MIB
            budget.share = 0
            for _ in range(3):
                peer = await served.container()
                for stream in (1, 3, 5):
                    peer.head(stream, "MountPutFile")
                    peer.body(stream, framed(2 * MIB)[:60_000])
                await peer.until(lambda peer=peer: 1 in peer.windows)
                await peer.close()
            peer = await served.container()
            peer.head(1, "MountPutFile")
            peer.body(1, framed(2 * MIB)[:60_000])
            await peer.until(lambda: 1 in peer.windows)
            assert budget.held < 3 * MIB
            await peer.close()

    run(test)


def test_too_many_messages_that_wait_are_refused_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_MOST_PARKED", 300_000)

    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            budget = served.transport._memories.containers.incoming
            budget.limit = budget.each = MIB
            budget.share = 0
            peer = await served.container()
            for stream in range(1, 17, 2):
                peer.head(stream, "MountPutFile")
                peer.body(stream, framed(MIB - 100)[:60_000])
            await peer.until(lambda: len(peer.statuses) == 3)  # one comes, four wait with 64 KiB each
            assert set(peer.statuses.values()) == {"8"}
            await peer.close()

    run(test)


def test_containers_cannot_take_what_clients_need(tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            hostile = [await served.container(f"ta-{number}") for number in range(6)]
            for peer in hostile:
                for stream in (1, 3):
                    peer.head(stream, "MountPutFile")
                    peer.body(stream, prefix(120 * MIB) + bytes(60_000))
            await hostile[0].until(lambda: 1 in hostile[0].windows)
            memories = served.transport._memories
            assert memories.containers.incoming.held <= memories.containers.incoming.limit
            honest = await served.client()
            honest.head(1, "MountPutFile")
            honest.body(1, framed(2 * MIB)[:60_000])
            await honest.until(lambda: 1 in honest.windows)
            other = await served.container("ta-other")  # and another container its share
            other.head(1, "MountPutFile")
            other.body(1, framed(2 * MIB)[:60_000])
            await other.until(lambda: 1 in other.windows)
            for peer in (*hostile, honest, other):
                await peer.close()

    run(test)


@pytest.mark.parametrize("method", ["BlobGet", "AppGetLogs"])
def test_answers_that_nobody_reads_are_not_made(method: str, tmp_path: Path) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            budget = served.transport._memories.containers.outgoing
            budget.limit = budget.each = 5 * MIB
            budget.share = 0
            peer = await served.container()
            peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
            request = api_pb2.BlobGetRequest(blob_id=str(MIB)) if method == "BlobGet" else api_pb2.AppGetLogsRequest()
            for stream in range(1, 401, 2):
                peer.call(stream, method, request)
            await until(lambda: budget.held > 4 * MIB)
            await is_served(served)
            assert budget.held <= 5 * MIB
            if method == "BlobGet":  # and all come once they are read
                peer.send(frames.window_update(0, 1 << 30) + frames.settings({frames.INITIAL_WINDOW_SIZE: 2 * MIB}))
                await peer.until(lambda: len(peer.statuses) == 200)
            await peer.close()
            await until(lambda: budget.held == 0)

    run(test)


def test_a_large_answer_is_sent_in_time_that_grows_with_its_size(tmp_path: Path) -> None:
    """The rest of it was copied for each frame: 128 MiB took a minute."""

    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            peer = await served.container()
            peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}) + frames.window_update(0, 1 << 30))
            start = time.process_time()
            peer.call(1, "BlobGet", api_pb2.BlobGetRequest(blob_id=str(100 * MIB)))
            await peer.until(lambda: 1 in peer.statuses)
            assert peer.data[1] > 100 * MIB
            assert time.process_time() - start < 15  # of both ends; it takes one, and took 100
            await peer.close()

    run(test)

"""What a peer of the gRPC server can make it do: work, memory and time are bounded, for strangers, clients and containers."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from grpclib.client import Channel
from modal._utils.grpc_utils import create_channel_config, retry_transient_errors
from modal_proto import api_grpc, api_pb2

from stoker import connections as connections_module
from stoker.protocol import intake, listeners, peers
from stoker.protocol.http2 import connection as connection_module
from stoker.protocol.http2 import frames, limits
from stoker.protocol.http2.headers import HeaderDecoder
from stoker.protocol.rpc import Caller, rpc
from tests.protocol.peer import SECONDS, TOKEN, Peer, Served, serving

MIB = 1 << 20
ENHANCE_YOUR_CALM = frames.ENHANCE_YOUR_CALM


class Servicer:
    """RPCs whose answers and ends a test decides about."""

    def __init__(self) -> None:
        self.running = 0
        self.most_running = 0
        self.go_on = asyncio.Event()

    @rpc("TokenFlowCreate", open=True)
    async def open_one(
        self, request: api_pb2.TokenFlowCreateRequest, caller: Caller
    ) -> api_pb2.TokenFlowCreateResponse:
        return api_pb2.TokenFlowCreateResponse()

    @rpc("TokenFlowWait", open=True, waits=True)
    async def open_wait(self, request: api_pb2.TokenFlowWaitRequest, caller: Caller) -> api_pb2.TokenFlowWaitResponse:
        await self.go_on.wait()
        return api_pb2.TokenFlowWaitResponse()

    @rpc("MountPutFile")
    async def put(self, request: api_pb2.MountPutFileRequest, caller: Caller) -> api_pb2.MountPutFileResponse:
        return api_pb2.MountPutFileResponse(exists=True)

    @rpc("BlobGet")
    async def get(self, request: api_pb2.BlobGetRequest, caller: Caller) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url="x" * int(request.blob_id))

    @rpc("AppHeartbeat", waits=True)
    async def poll(self, request: api_pb2.AppHeartbeatRequest, caller: Caller) -> api_pb2.AppCreateResponse:
        await self.go_on.wait()
        return api_pb2.AppCreateResponse()

    @rpc("AppStop")
    async def change(self, request: api_pb2.AppStopRequest, caller: Caller) -> api_pb2.AppCreateResponse:
        """Runs to its end, whether its caller is there or not."""
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await self.go_on.wait()
        self.running -= 1
        return api_pb2.AppCreateResponse()

    @rpc("AppGetLogs")
    async def logs(self, request: api_pb2.AppGetLogsRequest, caller: Caller) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        while True:
            yield api_pb2.TaskLogsBatch(items=[api_pb2.TaskLogs(data="y" * MIB)])


def run(test: Callable[[Servicer], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Servicer())

    asyncio.run(main())


async def _is_served(served: Served) -> None:
    """An honest client gets an answer meanwhile."""
    honest = await served.client()
    honest.call(1, "MountPutFile", api_pb2.MountPutFileRequest(data=b"x"))
    await honest.until(lambda: honest.statuses.get(1) == "0")
    await honest.close()


def _prefix(size: int) -> bytes:
    return struct.pack(">BI", 0, size)


# Work


def test_many_settings_in_one_frame_are_refused_before_they_are_followed() -> None:
    """174,000 entries with hundreds of streams open held the server up for minutes."""

    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            for number in range(300):
                peer.call(2 * number + 1, "AppHeartbeat", api_pb2.AppHeartbeatRequest())
            await peer.until(lambda: frames.MAX_FRAME_SIZE in peer.settings)
            entries = struct.pack(">HIHI", frames.INITIAL_WINDOW_SIZE, 1, frames.INITIAL_WINDOW_SIZE, 2)
            peer.send(frames.frame(frames.SETTINGS, 0, 0, entries * 20_000))
            await peer.until(lambda: peer.closed)
            assert peer.goaway is not None and peer.goaway[0] == ENHANCE_YOUR_CALM
            await _is_served(served)
            await peer.close()

    run(test)


def test_a_change_of_window_does_not_look_at_streams_that_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0
    flush = connection_module.Sender._flush

    def counting(self: connection_module.Sender, stream: connection_module.Stream) -> None:
        nonlocal looked_at
        looked_at += 1
        flush(self, stream)

    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
            for number in range(200):
                peer.call(2 * number + 1, "BlobGet", api_pb2.BlobGetRequest(blob_id="100"))
            await peer.until(lambda: len(peer.settings) > 2)
            peer.call(1001, "MountPutFile", api_pb2.MountPutFileRequest())
            await asyncio.sleep(0.2)
            monkeypatch.setattr(connection_module.Sender, "_flush", counting)
            for _ in range(1000):
                peer.send(frames.window_update(0, 1))  # of the connection, while all streams wait for their own
            await _is_served(served)
            assert looked_at < 100
            peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1000}))
            await peer.until(lambda: len(peer.statuses) == 201)
            await peer.close()

    run(test)


@pytest.mark.parametrize("value", [b"\xff" * 3_900, b"%" * 3_900, b"\\" * 3_900])
def test_what_a_peer_sent_is_cut_before_it_is_quoted(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long token id, sent once and referred to with a byte from then on, was hashed and quoted for each refusal."""
    from stoker.protocol import status

    quoted: list[int] = []
    quote = status._quoted
    monkeypatch.setattr(status, "_quoted", lambda text: quoted.append(len(text)) or quote(text))

    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            for headers, path in (
                ({"x-modal-token-id": value, "x-modal-token-secret": value}, ""),
                (TOKEN, b"/" + value),
                (TOKEN, b"/modal.client.ModalClient/" + value),
            ):
                peer = await served.client()
                peer.head(1, "MountPutFile", headers, end=True, path=path)
                await peer.until(lambda peer=peer: 1 in peer.statuses)
                await peer.close()
            assert quoted and max(quoted) < 500

    run(test)


def test_an_error_of_any_length_costs_the_same() -> None:
    from stoker.errors import NotFound
    from stoker.protocol.status import wire_status

    start = time.process_time()
    status = wire_status(NotFound("ü" * 30_000_000)).trailers()
    assert len(status[1][1]) <= 6000
    assert time.process_time() - start < 2.0  # 100 times as much as it takes


STRANGE = {"x-modal-token-id": "who", "x-modal-token-secret": "knows"}


@pytest.mark.parametrize(
    "name, flood",
    [
        ("pings", lambda n: frames.frame(frames.PING, 0, 0, bytes(8))),
        ("confirmed pings", lambda n: frames.frame(frames.PING, frames.ACK, 0, bytes(8))),
        ("settings", lambda n: frames.settings({})),
        ("confirmed settings", lambda n: frames.frame(frames.SETTINGS, frames.ACK, 0)),
        ("priorities", lambda n: frames.frame(frames.PRIORITY, 0, 1, bytes(5))),
        ("unknown frames", lambda n: frames.frame(0x77, 0, 0, b"")),
        ("window updates", lambda n: frames.window_update(0, 1)),
        ("window updates of a stream", lambda n: frames.window_update(1, 1)),
        ("resets of streams that are over", lambda n: frames.rst_stream(1, 8)),
        ("empty data", lambda n: frames.frame(frames.DATA, 0, 3, b"")),
        ("data byte by byte", lambda n: frames.frame(frames.DATA, 0, 3, b"\0")),
        ("data for a stream that is over", lambda n: frames.frame(frames.DATA, 0, 1, b"")),
    ],
)
@pytest.mark.parametrize("kind", ["stranger", "client", "container"])
def test_frames_that_bring_nothing_end_a_connection(
    name: str, flood: Callable[[int], bytes], kind: str, tmp_path: Path
) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            peer = await (served.container() if kind == "container" else served.client())
            if kind == "stranger":
                peer.call(1, "TokenFlowCreate", api_pb2.TokenFlowCreateRequest(), {})
                peer.head(3, "TokenFlowCreate", {})
            else:
                peer.call(1, "MountPutFile", api_pb2.MountPutFileRequest())
                peer.head(3, "MountPutFile")
                peer.body(3, _prefix(60_000))
            await peer.until(lambda: 1 in peer.statuses)
            peer.send(b"".join(flood(n) for n in range(40_000)))
            await peer.until(lambda: peer.closed)
            assert peer.goaway is None or peer.goaway[0] == ENHANCE_YOUR_CALM
            await _is_served(served)
            await peer.close()

    run(test)


def test_calls_that_are_refused_end_the_connection_of_a_stranger() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            for number in range(100):
                peer.head(2 * number + 1, "MountPutFile", STRANGE, end=True)
            await peer.until(lambda: peer.closed)
            assert 10 < len(peer.statuses) < 60
            await peer.close()

    run(test)


def test_calls_that_are_reset_at_once_are_counted_until_they_are_done(tmp_path: Path) -> None:
    """Rapid reset: the peer's streams are gone, and what it set going is not."""

    async def test(servicer: Servicer) -> None:
        async with serving(servicer, tmp_path) as served:
            peer = await served.container()
            for number in range(6_000):
                peer.call(2 * number + 1, "AppStop", api_pb2.AppStopRequest())
                peer.send(frames.rst_stream(2 * number + 1, frames.CANCEL))
                if number % 100 == 0:
                    with contextlib.suppress(ConnectionError):
                        await peer.writer.drain()
            await peer.until(lambda: peer.closed or len(peer.resets) >= 6_000 - limits.CONTAINER.streams)
            await _is_served(served)
            assert servicer.most_running <= limits.CONTAINER.streams
            servicer.go_on.set()
            await peer.close()

    limited = limits.Limits(**{**vars(limits.CONTAINER), "streams": 500})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CONTAINER", limited)
        patch.setattr(peers, "CONTAINER", limited)
        run(test)


@pytest.mark.parametrize(
    "block",
    [
        b"\x3f\xe1\x1f\x20" * 3_000,  # sizes of the table, over and over
        b"\x00\x01x\x00" * 4_000,  # tiny headers
        b"\x40\x01x\x7f\x81\x1e" + b"v" * 4_000 + b"\xbe" * 12_000,  # one large one, again and again
        b"\x00\x01x\xff\x80\x80\x80\x80\x80\x80\x01",  # an endless length
    ],
)
def test_headers_that_unpack_into_more_than_they_are_end_the_connection(block: bytes) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            peer.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block))
            await peer.until(lambda: peer.closed)
            assert peer.goaway is not None
            await peer.close()

    run(test)


def test_the_header_table_is_resized_at_most_twice_and_long_values_are_cut() -> None:
    decoder = HeaderDecoder(16 << 10, 256)
    assert decoder.decode(b"\x20\x3f\xe1\x1f\x40\x01x\x7f\xa1\x1e" + b"v" * 4_000) == {"x": "v" * 256}
    assert decoder.decode(b"\xbe") == {"x": "v" * 256}
    with pytest.raises(frames.ConnectionFault):
        decoder.decode(b"\x20\x20\x20\x82")
    with pytest.raises(frames.ConnectionFault):
        decoder.decode(b"\x82\x20")


def test_one_peer_with_much_to_do_leaves_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    work = connection_module.Connection._work

    def counting(self: connection_module.Connection) -> None:
        before = self._last_stream
        work(self)
        turns.append((self._last_stream - before) // 2)

    monkeypatch.setattr(connection_module.Connection, "_work", counting)

    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            for number in range(1_000):
                peer.call(2 * number + 1, "MountPutFile", api_pb2.MountPutFileRequest())
            await peer.until(lambda: len(peer.statuses) == 1_000)
            assert max(turns) <= limits.TURN // limits.STREAM_COST + 1
            await peer.close()

    run(test)


# Memory


def test_a_stranger_has_few_streams_and_small_messages() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            request = api_pb2.TokenFlowCreateRequest(utm_source="x" * 4_000).SerializeToString()
            for number in range(20):
                peer.head(2 * number + 1, "TokenFlowCreate", {})
                peer.body(2 * number + 1, _prefix(len(request)) + request[:3_000])
            await peer.until(lambda: len(peer.resets) == 20 - limits.STRANGER.streams)
            assert set(peer.resets.values()) == {frames.REFUSED_STREAM}
            peer.body(1, request[3_000:], end=True)
            await peer.until(lambda: peer.statuses.get(1) == "0")
            peer.head(101, "TokenFlowCreate", {})
            peer.body(101, _prefix(10_000))
            await peer.until(lambda: peer.statuses.get(101) == "3")  # larger than anybody may send without a token
            peer.head(103, "MountPutFile")
            peer.body(103, _message(20_000), end=True)
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
            message = _message(2 * MIB)
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
                    peer.body(stream, _message(2 * MIB)[:60_000])
                await peer.until(lambda peer=peer: 1 in peer.windows)
                await peer.close()
            peer = await served.container()
            peer.head(1, "MountPutFile")
            peer.body(1, _message(2 * MIB)[:60_000])
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
                peer.body(stream, _message(MIB - 100)[:60_000])
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
                    peer.body(stream, _prefix(120 * MIB) + bytes(60_000))
            await hostile[0].until(lambda: 1 in hostile[0].windows)
            memories = served.transport._memories
            assert memories.containers.incoming.held <= memories.containers.incoming.limit
            honest = await served.client()
            honest.head(1, "MountPutFile")
            honest.body(1, _message(2 * MIB)[:60_000])
            await honest.until(lambda: 1 in honest.windows)
            other = await served.container("ta-other")  # and another container its share
            other.head(1, "MountPutFile")
            other.body(1, _message(2 * MIB)[:60_000])
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
            await _until(lambda: budget.held > 4 * MIB)
            await _is_served(served)
            assert budget.held <= 5 * MIB
            if method == "BlobGet":  # and all come once they are read
                peer.send(frames.window_update(0, 1 << 30) + frames.settings({frames.INITIAL_WINDOW_SIZE: 2 * MIB}))
                await peer.until(lambda: len(peer.statuses) == 200)
            await peer.close()
            await _until(lambda: budget.held == 0)

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


def _message(size: int) -> bytes:
    """A message of at least `size` bytes, framed."""
    data = api_pb2.MountPutFileRequest(data=bytes(size)).SerializeToString()
    return _prefix(len(data)) + data


async def _until(condition: Callable[[], bool]) -> None:
    """Waits until something is true that comes about by itself."""
    with anyio.fail_after(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


# Time


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
                peer.body(3, _prefix(60_000))
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
            message = _message(4 * MIB)
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
            message = _message(2 * MIB)
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
            await _until(lambda: budget.held > MIB)
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
            await _until(lambda: budget.held > MIB)
            await pass_by(served, 300)
            await _until(lambda: not served.all)
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
            await _until(lambda: sum(peer.closed for peer in crowd) >= 300 - listeners._MOST_OF_CONTAINER)
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
            await _is_served(served)
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

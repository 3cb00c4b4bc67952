"""The work that a peer of the gRPC server can make it do is bounded, for strangers, clients and containers."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from modal_proto import api_pb2

from stoker.rpc import peers
from stoker.rpc.http2 import connection as connection_module
from stoker.rpc.http2 import frames, limits
from stoker.rpc.http2.headers import HeaderDecoder
from tests.protocol.peer import TOKEN, serving
from tests.protocol.steered import Servicer, is_served, prefix, run

MIB = 1 << 20
ENHANCE_YOUR_CALM = frames.ENHANCE_YOUR_CALM


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
            await is_served(served)
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
            await is_served(served)
            assert looked_at < 100
            peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1000}))
            await peer.until(lambda: len(peer.statuses) == 201)
            await peer.close()

    run(test)


@pytest.mark.parametrize("value", [b"\xff" * 3_900, b"%" * 3_900, b"\\" * 3_900])
def test_what_a_peer_sent_is_cut_before_it_is_quoted(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long token id, sent once and referred to with a byte from then on, was hashed and quoted for each refusal."""
    from stoker.rpc import status

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
    from stoker.rpc.status import wire_status

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
        ("data for a stream that was answered early", lambda n: frames.frame(frames.DATA, 0, 5, b"")),
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
                peer.body(3, prefix(60_000))
            peer.head(5, "Nothing")
            await peer.until(lambda: 1 in peer.statuses and 5 in peer.statuses)
            peer.send(b"".join(flood(n) for n in range(40_000)))
            await peer.until(lambda: peer.closed)
            assert peer.goaway is None or peer.goaway[0] == ENHANCE_YOUR_CALM
            await is_served(served)
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
            await is_served(served)
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

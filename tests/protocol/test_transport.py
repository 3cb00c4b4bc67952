"""The gRPC transport against the client's own stack, and against peers that break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st
from modal_proto import api_grpc, api_pb2

from stoker.errors import FailedPrecondition, NotFound, ResourceExhausted, Unauthenticated
from stoker.rpc.http2 import connection as http2_connection
from stoker.rpc.http2 import frames
from stoker.rpc.http2.headers import HeaderDecoder
from stoker.rpc.methods import Caller, methods_of, rpc
from stoker.rpc.transport import Transport
from stoker.services.access.attempts import Peer


class Echo:
    """A few RPCs with behaviour that tests can steer."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.finished = asyncio.Event()
        self.runs = 0

    @rpc("ClientHello", open=True)
    async def hello(self, request: Empty, caller: Caller) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(warning=caller.host)

    @rpc("MountPutFile")
    async def size(self, request: api_pb2.MountPutFileRequest, caller: Caller) -> api_pb2.MountPutFileResponse:
        if request.sha256_hex == "missing":
            raise NotFound("It is not there: ünïcode, 100 %\nand a second line")
        if request.sha256_hex == "full":
            raise ResourceExhausted("Too much.", 7.5)
        if request.sha256_hex == "long":
            raise NotFound("ü" * 60_000 + " the end")
        if request.sha256_hex == "long hint":
            raise ResourceExhausted("ü" * 60_000 + " the end", 7.5)
        if request.sha256_hex == "half":
            raise NotFound("There is no file \udcff.")
        if request.sha256_hex == "called off":
            work = asyncio.get_running_loop().create_future()
            work.cancel()
            await work
        if request.sha256_hex == "defect":
            raise ZeroDivisionError("a defect")
        return api_pb2.MountPutFileResponse(exists=len(request.data) == 0)

    @rpc("BlobGet")
    async def big(self, request: api_pb2.BlobGetRequest, caller: Caller) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url="x" * int(request.blob_id))

    @rpc("AppCreate", once=True)
    async def create(self, request: api_pb2.AppCreateRequest, caller: Caller) -> api_pb2.AppCreateResponse:
        self.runs += 1
        await asyncio.sleep(0.05)
        return api_pb2.AppCreateResponse(app_id=str(self.runs))

    @rpc("AppHeartbeat", waits=True)
    async def wait(self, request: api_pb2.AppHeartbeatRequest, caller: Caller) -> Empty:
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Empty()

    @rpc("AppStop")
    async def change(self, request: api_pb2.AppStopRequest, caller: Caller) -> Empty:
        self.started.set()
        await asyncio.sleep(0.2)
        self.finished.set()
        return Empty()

    @rpc("AppGetLogs")
    async def logs(self, request: api_pb2.AppGetLogsRequest, caller: Caller) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        for number in range(int(request.app_id)):
            yield api_pb2.TaskLogsBatch(entry_id=str(number), items=[api_pb2.TaskLogs(data="y" * 100_000)])


class OneToken:
    def authenticate(self, token_id: str, token_secret: str, peer: Peer) -> None:
        if (token_id, token_secret) != ("id", "secret"):
            raise Unauthenticated("That token is wrong.")


REQUEST = [(":method", "POST"), (":scheme", "http")]
TOKEN = {"x-modal-token-id": "id", "x-modal-token-secret": "secret"}
Test = Callable[[Echo, int, api_grpc.ModalClientStub], Coroutine[Any, Any, None]]


def serve(test: Test) -> None:
    """Runs `test(servicer, port, stub)` against a listening transport."""

    async def main() -> None:
        echo = Echo()
        transport = Transport(methods_of([echo]), OneToken())
        port = await transport.listen("127.0.0.1", 0)
        channel = Channel("127.0.0.1", port)
        try:
            await asyncio.wait_for(test(echo, port, api_grpc.ModalClientStub(channel)), 30)
        finally:
            channel.close()
            await transport.close()

    asyncio.run(main())


def test_errors_carry_their_sentence_and_hint() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        with pytest.raises(GRPCError) as missing:
            await stub.MountPutFile(api_pb2.MountPutFileRequest(sha256_hex="missing"), metadata=TOKEN)
        assert missing.value.status is Status.NOT_FOUND
        assert missing.value.message == "It is not there: ünïcode, 100 %\nand a second line"
        with pytest.raises(GRPCError) as defect:
            await stub.MountPutFile(api_pb2.MountPutFileRequest(sha256_hex="defect"), metadata=TOKEN)
        assert defect.value.status is Status.FAILED_PRECONDITION  # never one that the client repeats
        with pytest.raises(GRPCError) as unknown:
            await stub.EndpointList(api_pb2.EndpointListRequest(), metadata=TOKEN)
        assert unknown.value.status is Status.UNIMPLEMENTED and "modal endpoint" in str(unknown.value.message)

    serve(test)


def test_an_error_may_be_of_any_length_and_hurts_no_other_call() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        poll = asyncio.ensure_future(stub.AppHeartbeat(api_pb2.AppHeartbeatRequest(), metadata=TOKEN))
        await echo.started.wait()
        for name, status in (("long", Status.NOT_FOUND), ("long hint", Status.RESOURCE_EXHAUSTED)):
            with pytest.raises(GRPCError) as long:
                await stub.MountPutFile(api_pb2.MountPutFileRequest(sha256_hex=name), metadata=TOKEN)
            assert long.value.status is status
            assert str(long.value.message).startswith("üüü") and str(long.value.message).endswith("üüü the end")
        with pytest.raises(GRPCError) as half:
            await asyncio.wait_for(
                stub.MountPutFile(api_pb2.MountPutFileRequest(sha256_hex="half"), metadata=TOKEN), 10
            )
        assert half.value.message == "There is no file ?."
        assert not poll.done()
        poll.cancel()

    serve(test)


def test_a_call_whose_work_is_called_off_is_answered() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        request = api_pb2.MountPutFileRequest(sha256_hex="called off")
        with pytest.raises(GRPCError) as off:
            await asyncio.wait_for(stub.MountPutFile(request, metadata=TOKEN), 10)
        assert off.value.status is Status.UNAVAILABLE  # the client repeats it

    serve(test)


def test_a_retry_hint_reaches_the_client(tmp_path: Path) -> None:
    from modal._utils.grpc_utils import custom_detail_codec, get_server_retry_policy

    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        channel = Channel("127.0.0.1", port, status_details_codec=custom_detail_codec)
        with pytest.raises(GRPCError) as full:
            request = api_pb2.MountPutFileRequest(sha256_hex="full")
            await api_grpc.ModalClientStub(channel).MountPutFile(request, metadata=TOKEN)
        channel.close()
        policy = get_server_retry_policy(full.value)
        assert policy is not None and policy.retry_after_secs == 7.5

    serve(test)


def test_who_has_no_token_gets_nothing_but_open_rpcs() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        assert (await stub.ClientHello(Empty())).warning == "127.0.0.1"
        for metadata in ({}, TOKEN | {"x-modal-token-secret": "wrong"}):
            with pytest.raises(GRPCError) as refused:
                await stub.MountPutFile(api_pb2.MountPutFileRequest(data=b"x" * 1_000_000), metadata=metadata)
            assert refused.value.status is Status.UNAUTHENTICATED
        assert not (await stub.MountPutFile(api_pb2.MountPutFileRequest(data=b"x"), metadata=TOKEN)).exists

    serve(test)


def test_large_messages_go_both_ways() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        assert not (await stub.MountPutFile(api_pb2.MountPutFileRequest(data=b"x" * (40 << 20)), metadata=TOKEN)).exists
        answers = await asyncio.gather(
            *(
                stub.BlobGet(api_pb2.BlobGetRequest(blob_id=str(size)), metadata=TOKEN)
                for size in (0, 1, 30 << 20, 70_000)
            )
        )
        assert [len(a.download_url) for a in answers] == [0, 1, 30 << 20, 70_000]
        received = []
        async with stub.AppGetLogs.open(metadata=TOKEN) as stream:
            await stream.send_message(api_pb2.AppGetLogsRequest(app_id="200"), end=True)
            async for batch in stream:
                received.append((batch.entry_id, len(batch.items[0].data)))
        assert received == [(str(n), 100_000) for n in range(200)]

    serve(test)


def test_a_thousand_open_calls_do_not_starve_a_short_one() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        polls = [
            asyncio.ensure_future(stub.AppHeartbeat(api_pb2.AppHeartbeatRequest(), metadata=TOKEN)) for _ in range(1000)
        ]
        await echo.started.wait()
        await asyncio.wait_for(stub.ClientHello(Empty()), 5)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await asyncio.wait_for(echo.cancelled.wait(), 5)

    serve(test)


def test_repeats_under_one_key_run_once() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        metadata = TOKEN | {"x-idempotency-key": "one"}
        answers = await asyncio.gather(
            *(stub.AppCreate(api_pb2.AppCreateRequest(), metadata=metadata) for _ in range(5))
        )
        assert {a.app_id for a in answers} == {"1"}
        other = await stub.AppCreate(api_pb2.AppCreateRequest(), metadata=TOKEN | {"x-idempotency-key": "two"})
        assert other.app_id == "2"

    serve(test)


def test_a_vanished_caller_frees_its_call() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        channel = Channel("127.0.0.1", port)
        call = asyncio.ensure_future(
            api_grpc.ModalClientStub(channel).AppHeartbeat(api_pb2.AppHeartbeatRequest(), metadata=TOKEN)
        )
        await echo.started.wait()
        channel.close()
        await asyncio.wait_for(echo.cancelled.wait(), 5)
        await asyncio.gather(call, return_exceptions=True)

    serve(test)


def test_what_changes_something_is_finished_though_its_caller_is_gone() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        channel = Channel("127.0.0.1", port)
        call = asyncio.ensure_future(
            api_grpc.ModalClientStub(channel).AppStop(api_pb2.AppStopRequest(), metadata=TOKEN)
        )
        await echo.started.wait()
        channel.close()
        await asyncio.wait_for(echo.finished.wait(), 5)
        await asyncio.gather(call, return_exceptions=True)

    serve(test)


def _head(method: str) -> bytes:
    """The head of a call with a token, for a connection's first request."""
    fields = [*REQUEST, (":path", f"/modal.client.ModalClient/{method}"), (":authority", "x")]
    block: bytes = Encoder().encode([*fields, *TOKEN.items()])
    return block


def _framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


GREETING = frames.PREFACE + frames.settings({})


@pytest.mark.parametrize(
    "name, attack",
    [
        ("http/1.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("noise", bytes(range(256)) * 10),
        ("oversized frame", GREETING + struct.pack(">HBBBI", 0xFFFF, 0xFF, frames.DATA, 0, 1)),
        ("data on no stream", GREETING + frames.frame(frames.DATA, 0, 1, b"x")),
        ("even stream", GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x88")),
        ("broken compression", GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff")),
        ("padding too long", GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b"\x09x")),
        (
            "interrupted headers",
            GREETING + frames.frame(frames.HEADERS, 0, 1, b"\x88") + frames.frame(frames.PING, 0, 0, b"x" * 8),
        ),
        ("short ping", GREETING + frames.frame(frames.PING, 0, 0, b"x")),
        ("broken settings", GREETING + frames.frame(frames.SETTINGS, 0, 0, b"xxxxx")),
        ("short window update", GREETING + frames.frame(frames.WINDOW_UPDATE, 0, 0, b"x")),
        ("window overflow", GREETING + frames.window_update(0, 0x7FFFFFFF)),
        ("push", GREETING + frames.frame(frames.PUSH_PROMISE, 0, 1, b"")),
        (
            "endless headers",
            GREETING
            + frames.frame(frames.HEADERS, 0, 1, b"")
            + frames.frame(frames.CONTINUATION, 0, 1, b"x" * 9000) * 20,
        ),
        (
            "empty continuations",
            GREETING + frames.frame(frames.HEADERS, 0, 1, b"") + frames.frame(frames.CONTINUATION, 0, 1) * 9,
        ),
        (
            "data after the end",
            GREETING
            + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, _head("AppHeartbeat"))
            + frames.frame(frames.DATA, frames.END_STREAM, 1, bytes(5))
            + frames.frame(frames.DATA, 0, 1, b"x"),
        ),
        ("one large header frame", GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x20" * 100_000)),
        ("reset flood", GREETING + frames.rst_stream(1, 8) * 20_000),
        ("settings flood", GREETING + frames.settings({}) * 20_000),
    ],
)
def test_peers_that_break_the_rules_are_shown_out(name: str, attack: bytes) -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(attack)
        try:
            answer = await asyncio.wait_for(reader.read(), 10)  # until the server closes
            assert struct.pack(">B", frames.GOAWAY) in answer
        except ConnectionResetError:
            pass  # closed while we were still sending
        writer.close()
        assert (await stub.ClientHello(Empty())).warning == "127.0.0.1", "the server must serve others on"

    serve(test)


@pytest.mark.parametrize(
    "body", [b"", b"\0\0", b"\1\0\0\0\0", b"\0\0\0\0\5ab", b"\0\0\0\0\2\xff\xff", b"\0\0\0\0\0extra"]
)
def test_broken_messages_get_a_clear_refusal(body: bytes) -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        import h2.connection
        import h2.events

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        path = "/modal.client.ModalClient/MountPutFile"
        head = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "x"), ("te", "trailers")]
        connection.send_headers(1, [*head, *TOKEN.items()])
        connection.send_data(1, body, end_stream=True)
        writer.write(connection.data_to_send())
        fields: dict[str, str] = {}
        while "grpc-status" not in fields:
            for event in connection.receive_data(await asyncio.wait_for(reader.read(65_536), 10)):
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    fields |= {_text(k): _text(v) for k, v in event.headers or []}
        assert fields["grpc-status"] == "3" and "MountPutFile" in fields["grpc-message"]
        writer.close()

    serve(test)


def test_who_shows_no_token_cannot_send_much() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = Encoder().encode([*REQUEST, (":path", "/modal.client.ModalClient/ClientHello")])
        writer.write(GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, head))
        for _ in range(5):
            writer.write(frames.frame(frames.DATA, 0, 1, b"x" * 16_384))  # and so on
        await asyncio.wait_for(reader.readuntil(b"grpc-status\x013"), 10)
        writer.close()

    serve(test)


def test_a_peer_that_does_not_read_is_not_read_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_connection, "MAX_UNREAD", 20_000)
    request = api_pb2.MountPutFileRequest(sha256_hex="long").SerializeToString()  # refused with 6,000 bytes
    count = 400

    async def main() -> None:
        transport = Transport(methods_of([Echo()]), OneToken())
        port = await transport.listen("127.0.0.1", 0)
        assert transport._clients is not None and isinstance(transport._clients.server, asyncio.Server)
        transport._clients.server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        peer.connect(("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=peer, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GREETING)
        for number in range(count):
            writer.write(frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, _head("MountPutFile")))
            writer.write(frames.frame(frames.DATA, frames.END_STREAM, 2 * number + 1, _framed(request)))
            await asyncio.sleep(0)
        await _until(lambda: bool(transport._clients and transport._clients.connections))
        (served,) = transport._clients.connections
        assert isinstance(served, http2_connection.Connection)
        await _until(lambda: served._transport is not None and not served._transport.is_reading())
        assert served._transport is not None and served._transport.get_write_buffer_size() < 1 << 20
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        received = b""
        while received.count(b"grpc-status") < count:  # every one is answered once it is read
            received += await asyncio.wait_for(reader.read(1 << 20), 10)
        writer.close()
        await transport.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_machine_that_is_gone_is_noticed() -> None:
    async def main() -> None:
        transport = Transport(methods_of([Echo()]), OneToken())
        await transport.listen("127.0.0.1", 0)
        assert transport._clients is not None and isinstance(transport._clients.server, asyncio.Server)
        for listening in transport._clients.server.sockets:
            assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await transport.close()

    asyncio.run(main())


async def _until(condition: Callable[[], bool]) -> None:
    """Waits until something is true that comes about by itself."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_a_taken_port_is_explained() -> None:
    async def test(echo: Echo, port: int, stub: api_grpc.ModalClientStub) -> None:
        with pytest.raises(FailedPrecondition, match=f"127.0.0.1:{port}.*--port"):
            await Transport({}, OneToken()).listen("127.0.0.1", port)

    serve(test)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@given(
    blocks=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["accept", "user-agent", "x-modal-token-id", "x-idempotency-key", "content-type", "x-new-one"]
                ),
                st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200).map(str.strip),
            ),
            max_size=12,
        ),
        max_size=30,
    ),
    huffman=st.booleans(),
)
def test_headers_decode_as_the_reference_encodes_them(blocks: list[list[tuple[str, str]]], huffman: bool) -> None:
    """Block after block, so that the table fills, is reused and evicts."""
    encoder, decoder = Encoder(), HeaderDecoder(64 << 10, 256)
    for number, fields in enumerate(blocks):
        if number == 10:
            encoder.header_table_size = 200
        assert decoder.decode(encoder.encode(fields, huffman=huffman)) == dict(fields)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_header_decoder(block: bytes) -> None:
    with contextlib.suppress(frames.ConnectionFault, frames.StreamFault):
        HeaderDecoder(1000, 100).decode(block)

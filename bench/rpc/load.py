"""A client that makes unary calls over one connection at next to no cost: its requests are ready as bytes before the clock starts."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import cast

from hpack import Encoder
from modal_proto import api_pb2

from stoker.rpc.http2 import frames
from stoker.rpc.http2.frames import FrameReader

# What the client of Modal sends with each call, but for the key, which is another one each time.
_HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/modal.client.ModalClient/MountPutFile"),
    (":authority", "127.0.0.1:8100"),
    ("te", "trailers"),
    ("content-type", "application/grpc+proto"),
    ("user-agent", "grpc-python-grpclib/0.4.9 (linux; cpython/3.11)"),
    ("x-modal-client-version", "1.6.4"),
    ("x-modal-client-type", "1"),
    ("x-modal-token-id", "ak-0123456789"),
    ("x-modal-token-secret", "as-0123456789"),
]
_MESSAGE = api_pb2.MountPutFileRequest(sha256_hex="0" * 64).SerializeToString()
_BODY_BYTES = 5 + len(_MESSAGE)


class Client(asyncio.Protocol):
    """Raises RuntimeError when a call or the connection fails."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._next = 1
        self._window = 65_535
        self._requests: Iterator[bytes] = iter(())
        self._waiting: deque[bytes] = deque()  # requests for which there is no window
        self._open = 0
        self._done: asyncio.Future[None] | None = None

    async def call(self, requests: list[bytes], at_once: int) -> None:
        """Makes these calls, `at_once` of them at a time."""
        self._requests, self._done = iter(requests), asyncio.get_running_loop().create_future()
        for request in islice(self._requests, at_once):
            self._send(request)
        await self._done

    def prepare(self, count: int) -> list[bytes]:
        return [self._request() for _ in range(count)]

    def _request(self) -> bytes:
        stream, self._next = self._next, self._next + 2
        block = self._encoder.encode([*_HEADERS, ("x-idempotency-key", f"{stream:032x}")])
        message = struct.pack(">BI", 0, len(_MESSAGE)) + _MESSAGE
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        return head + frames.frame(frames.DATA, frames.END_STREAM, stream, message)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Its frames are read as a server reads them, only without a preface.
        self._reader = FrameReader(1 << 24)
        self._reader.greeted = True
        self._transport.write(frames.PREFACE + frames.settings({}) + frames.window_update(0, 1 << 30))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("the connection ended")

    def data_received(self, data: bytes) -> None:
        self._reader.add(data)
        while (frame := self._reader.next()) is not None:
            kind, flags, _, payload = frame
            if kind == frames.HEADERS and flags & frames.END_STREAM:
                self._answered()
            elif kind == frames.RST_STREAM or kind == frames.GOAWAY:
                self._fail("the server broke a call off")
            elif kind == frames.WINDOW_UPDATE and frame[2] == 0:
                self._window += int.from_bytes(payload, "big")
                self._go_on()
            elif kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
                confirmed = b"" if kind == frames.SETTINGS else payload
                self._transport.write(frames.frame(kind, frames.ACK, 0, confirmed))

    def _answered(self) -> None:
        self._open -= 1
        request = next(self._requests, None)
        if request is not None:
            self._send(request)
        elif not self._open and self._done is not None:
            self._done.set_result(None)

    def _send(self, request: bytes) -> None:
        self._open += 1
        self._waiting.append(request)
        self._go_on()

    def _go_on(self) -> None:
        """Sends what the server's window allows."""
        while self._waiting and self._window >= _BODY_BYTES:
            self._window -= _BODY_BYTES
            self._transport.write(self._waiting.popleft())

    def _fail(self, reason: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(RuntimeError(reason))

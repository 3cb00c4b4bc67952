"""A peer of the gRPC server that sends whatever a test wants, frame by frame."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from hpack import Encoder

from stoker.errors import Unauthenticated
from stoker.rpc.http2 import frames
from stoker.rpc.http2.connection import Connection
from stoker.rpc.methods import methods_of
from stoker.rpc.transport import Transport
from stoker.services.access.attempts import Peer as Known
from stoker.services.containers.identity import ContainerIdentity

Headers = Mapping[str, "str | bytes"]
TOKEN: Headers = {"x-modal-token-id": "id", "x-modal-token-secret": "secret"}
GREETING = frames.PREFACE + frames.settings({})
SECONDS = 20.0  # until a test has failed
_HEAD = struct.Struct(">HBBBI")


class OneToken:
    def authenticate(self, token_id: str, token_secret: str, peer: Known) -> None:
        if (token_id, token_secret) != ("id", "secret"):
            raise Unauthenticated("That token is wrong.")


class Peer:
    """One connection. Notes what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: bytes = GREETING) -> None:
        self.writer = writer
        self.windows: dict[int, int] = {}  # bytes by which each window was opened, by stream
        self.statuses: dict[int, str] = {}  # gRPC statuses, by stream
        self.resets: dict[int, int] = {}  # error codes, by stream
        self.data: dict[int, int] = {}  # bytes of answers, by stream
        self.settings: dict[int, int] = {}
        self.settings_confirmed = 0  # of ours, how often
        self.pongs: list[bytes] = []
        self.blocks: dict[int, list[bytes]] = {}  # of headers, by stream
        self.largest = 0  # bytes of a frame of data
        self.goaway: tuple[int, str] | None = None
        self.closed = False
        self._reader = reader
        self._encoder = Encoder()
        self._changed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())
        self.send(greeting)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def head(
        self, stream: int, method: str, headers: Headers = TOKEN, *, end: bool = False, path: str | bytes = ""
    ) -> None:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path or f"/modal.client.ModalClient/{method}")]
        block = self._encoder.encode([*fields, *headers.items()], huffman=False)
        flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
        self.send(frames.frame(frames.HEADERS, flags, stream, block))

    def call(self, stream: int, method: str, message: Any, headers: Headers = TOKEN) -> None:
        """A whole request."""
        self.head(stream, method, headers)
        body = message.SerializeToString()
        self.body(stream, struct.pack(">BI", 0, len(body)) + body, end=True)

    def body(self, stream: int, data: bytes, *, end: bool = False) -> None:
        for start in range(0, len(data), 16_384):
            last = start + 16_384 >= len(data)
            self.send(frames.frame(frames.DATA, int(end and last), stream, data[start : start + 16_384]))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something has come."""
        with anyio.fail_after(SECONDS):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        self._reading.cancel()
        with suppress(ConnectionError, asyncio.CancelledError):
            await self._reading
        self.writer.close()
        with suppress(ConnectionError, OSError):
            await self.writer.wait_closed()

    async def _read(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                high, low, kind, flags, stream = _HEAD.unpack(await self._reader.readexactly(9))
                self._note(kind, flags, stream, await self._reader.readexactly(high << 8 | low))
                self._changed.set()
        self.closed = True
        self._changed.set()

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, 0) + int.from_bytes(payload, "big")
        elif kind == frames.DATA:
            self.data[stream] = self.data.get(stream, 0) + len(payload)
            self.largest = max(self.largest, len(payload))
        elif kind == frames.HEADERS:
            self.blocks.setdefault(stream, []).append(payload)
            if b"grpc-status" in payload:
                self.statuses[stream] = payload.split(b"grpc-status")[1][1:3].decode().rstrip("\0")
        elif kind == frames.RST_STREAM:
            self.resets[stream] = int.from_bytes(payload, "big")
        elif kind == frames.GOAWAY:
            self.goaway = (int.from_bytes(payload[4:8], "big"), payload[8:].decode())
        elif kind == frames.SETTINGS and not flags:
            self.settings |= dict(struct.iter_unpack(">HI", payload))
        elif kind == frames.SETTINGS:
            self.settings_confirmed += 1
        elif kind == frames.PING and flags:
            self.pongs.append(payload)


class Served:
    """A transport with peers of all kinds."""

    def __init__(self, transport: Transport, port: int, directory: Path | None) -> None:
        self.transport = transport
        self.port = port
        self._directory = directory

    async def client(self, greeting: bytes = GREETING) -> Peer:
        return Peer(*await asyncio.open_connection("127.0.0.1", self.port), greeting)

    async def container(self, task_id: str = "ta-1") -> Peer:
        assert self._directory is not None
        path = self._directory / task_id
        if not path.exists():
            self.transport.expect(ContainerIdentity(task_id, "fu-1", "ap-1"))
            loop, make = asyncio.get_running_loop(), partial(self.transport.container_connection, task_id)
            await loop.create_unix_server(make, str(path))
        return Peer(*await asyncio.open_unix_connection(str(path)))

    @property
    def all(self) -> list[Connection]:
        """The server's ends of all connections."""
        assert self.transport._clients is not None
        listeners = [self.transport._clients, *self.transport._containers.values()]
        return [c for listener in listeners for c in listener.connections if isinstance(c, Connection)]


@asynccontextmanager
async def serving(servicer: object, directory: Path | None = None, **options: Any) -> AsyncIterator[Served]:
    transport = Transport(methods_of([servicer]), OneToken(), **options)
    port = await transport.listen("127.0.0.1", 0)
    try:
        with anyio.fail_after(3 * SECONDS):
            yield Served(transport, port, directory)
    finally:
        await transport.close()

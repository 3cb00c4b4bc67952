"""Websockets of functions: uvicorn's, with bounds on what a client may make us keep."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from stoker.connections import Connections, Unread

MOST_MESSAGE = 16 << 20  # bytes, as of uvicorn; Modal takes 2 MiB
_MOST_FRAGMENTS = 10_000  # frames of one message: each takes memory, also when it brings nothing


class WebSocket(WebSocketsSansIOProtocol):
    def __init__(self, *arguments: Any, kept: Connections, stall: float, **options: Any) -> None:
        """As of `Connection`."""
        super().__init__(*arguments, **options)
        self._kept = kept
        self._stall = stall
        self._unread = Unread(self.loop.time())

    # What `Connections` asks

    @property
    def idle_since(self) -> float | None:
        return None

    def look(self, now: float) -> None:
        if self._unread.seconds(self.transport, now) > self._stall:
            self.transport.abort()

    def turn_away(self, reason: str) -> None:
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._kept.add(self, self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        self._kept.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self.frames) > _MOST_FRAGMENTS and not self.transport.is_closing():
            self.conn.fail(1009, "a message in too many pieces")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # pings would be answered

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

"""One HTTP/1.1 connection of the gateway: uvicorn's, with bounds on how large the head of a request is and how slowly it may come."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_HEAD_BYTES = 64 << 10
_HEAD_SECONDS = 20.0


class Connection(HttpToolsProtocol):
    """Ends connections whose peer does not get to the end of a request's head."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._in_head = True  # also before a first byte
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > _MOST_HEAD_BYTES:
            self._refuse(431, "Request Header Fields Too Large", f"more than {_MOST_HEAD_BYTES >> 10} KiB of headers")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:
            self._watch_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_head()
        super().on_headers_complete()

    def _watch_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._too_slow)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(408, "Request Timeout", f"no complete request within {_HEAD_SECONDS:.0f} seconds")

    def _refuse(self, status: int, phrase: str, sentence: str) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        body = sentence.encode()
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()

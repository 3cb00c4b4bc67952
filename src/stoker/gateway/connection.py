"""One HTTP/1.1 connection of the gateway: uvicorn's, with bounds on how large the head of a request is and how slowly it may come, and a
way past uvicorn for requests to an @app.server."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stoker.gateway.passage import Passage
from stoker.gateway.server_gateway import ServerGateway

_MOST_HEAD_BYTES = 64 << 10
_HEAD_SECONDS = 20.0


class Connection(HttpToolsProtocol):
    """Ends connections whose peer does not get to the end of a request's head."""

    def __init__(self, *arguments: Any, servers: ServerGateway | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._servers = servers
        self._current: Passage | None = None  # the one that has begun and is not over
        self._tunnel = False  # what comes is no HTTP any more
        self._head_bytes = 0
        self._in_head = True  # also before a first byte
        self._head_timer: asyncio.TimerHandle | None = None

    # What a passage asks

    def wants_keep_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and bool(self.parser.should_keep_alive())

    def wants_websocket(self) -> bool:
        return bool(self.parser.should_upgrade()) and self._should_upgrade()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        if self._current is not None:
            self._current.on_client_lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._tunnel:
            if self._current is not None:
                self._current.on_client_bytes(data)
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._current is not None:
            self._current.on_input_end()
        if self._in_head and self._head_bytes > _MOST_HEAD_BYTES:
            self._refuse(431, "Request Header Fields Too Large", f"more than {_MOST_HEAD_BYTES >> 10} KiB of headers")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._current is not None:
            self._current.on_client_writable(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._current is not None:
            self._current.on_client_writable(True)

    # httptools

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:
            self._watch_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_head()
        passage = self._servers.passage(self) if self._servers is not None else None
        if passage is None:
            super().on_headers_complete()
            return
        earlier: Any = self.cycle
        self.cycle = passage  # type: ignore[assignment]
        if earlier is None or earlier.response_complete:
            self._begin(passage)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((passage, None))  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if not isinstance(cycle, Passage):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.on_body(body)

    def on_message_complete(self) -> None:
        cycle: Any = self.cycle
        if not isinstance(cycle, Passage):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.on_request_complete()

    # uvicorn

    def handle_websocket_upgrade(self) -> None:
        if isinstance(self.cycle, Passage):
            self._tunnel = True
        else:
            super().handle_websocket_upgrade()

    def on_response_complete(self) -> None:
        self._current = None
        super().on_response_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Passage):
            self._begin(cycle)
            cycle.on_input_end()
        else:
            super()._start_asgi_task(cycle, app)

    # How it is done

    def _begin(self, passage: Passage) -> None:
        self._current = passage
        passage.begin()

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

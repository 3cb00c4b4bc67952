"""Connections to the servers in containers: each carries one exchange at a time, and waits for the next in between."""

from __future__ import annotations

import asyncio
from typing import Protocol

import httptools

from stoker.gateway.web.heads import HeaderList
from stoker.nodes.base import Ports

_KEEP_ALIVE = 4.0  # seconds an idle connection is kept; most servers close theirs after 5, and must not do so first
_MOST_HEAD_BYTES = 256 << 10  # of an answer, with what is said after its body

Address = tuple[str, int]
"""A container's id, and the port it listens on."""


class Answer(Protocol):
    """What becomes of an answer. Bodies come without the framing that they have on the connection."""

    def on_head(self, status: int, phrase: bytes, headers: HeaderList) -> bool:
        """The head of the answer; whether it has no body whatever its headers say."""
        ...

    def on_chunk(self, data: bytes) -> None: ...

    def on_flush(self) -> None:
        """Nothing more came with what has come."""
        ...

    def on_end(self) -> None:
        """The answer is complete, and the connection free for another exchange. Comes in place of the last `on_flush`."""
        ...

    def on_lost(self) -> None:
        """The connection ended before the answer did."""
        ...

    def on_tunnel(self, data: bytes) -> None:
        """Bytes after a switch of protocols."""
        ...

    def on_writable(self, writable: bool) -> None:
        """Whether the server takes more of the request."""
        ...


class Upstream(asyncio.Protocol):
    """One connection. `write` and `close` are for whoever has it from `Upstreams`."""

    def __init__(self, owner: Upstreams, address: Address) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anybody sees this object
        self.address = address
        self.reused = False  # carried an exchange before this one
        self.idle_since = 0.0
        self._owner = owner
        self._answer: Answer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._phrase = b""
        self._headers: HeaderList = []
        self._head_size = 0
        self._tunnel = False
        self._bodiless = False
        self._ends_with_connection = False
        self._complete = False
        self._usable = True

    def carry(self, answer: Answer) -> None:
        """Begins an exchange."""
        self._answer = answer

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def pause(self, paused: bool) -> None:
        """Stops or goes on reading the answer."""
        if not self.transport.is_closing():
            self.transport.pause_reading() if paused else self.transport.resume_reading()

    def close(self) -> None:
        """Breaks off; the exchange hears no more."""
        self._answer = None
        self.transport.abort()

    def finish_writing(self) -> None:
        """Closes once all is written; the exchange hears no more."""
        self._answer = None
        self.transport.close()

    def release(self, usable: bool) -> None:
        """The exchange is over. usable: nothing of it is left to be sent."""
        self._answer = None
        if not usable or self.transport.get_write_buffer_size():
            self.transport.abort()  # the server may never take the rest of the request
            return
        if not self._usable or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.resume_reading()  # the client may have been slow to take the last of the answer
        if self._bodiless:
            self._parser = httptools.HttpResponseParser(self)  # the old one may wait for the body that was announced
        self._bodiless = self._complete = self._ends_with_connection = False
        self._head_size = 0
        self.reused = True
        self._owner.put(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            self._owner.forget(self)
        elif self._ends_with_connection and _error is None:
            answer.on_end()
        else:
            answer.on_lost()

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.transport.close()  # nothing was asked
            return
        if self._tunnel:
            answer.on_tunnel(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switch:
            self._tunnel = True
            self._usable = False
            answer.on_flush()
            rest = data[switch.args[0] :]
            if rest:
                answer.on_tunnel(rest)
            return
        except httptools.HttpParserError:
            self._usable = False
            if not self._bodiless:
                self._answer = None
                self.transport.close()
                answer.on_lost()
                return
        if self._complete:
            answer.on_end()
        else:
            answer.on_flush()

    def pause_writing(self) -> None:
        if self._answer is not None:
            self._answer.on_writable(False)

    def resume_writing(self) -> None:
        if self._answer is not None:
            self._answer.on_writable(True)

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:
            self._usable = False  # a second answer to one request
        self._phrase = b""
        self._headers = []

    def on_status(self, phrase: bytes) -> None:
        self._phrase += phrase

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > _MOST_HEAD_BYTES:
            raise ValueError("a head that does not end")  # the parser gives up
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._complete or self._answer is None or (status < 200 and status != 101):
            return
        self._usable = self._parser.should_keep_alive()
        self._bodiless = self._answer.on_head(status, self._phrase, self._headers)
        if self._bodiless and status != 101:
            self._complete = True
        elif status not in (101, 204, 304):
            self._ends_with_connection = not any(
                name in (b"content-length", b"transfer-encoding") for name, _ in self._headers
            )

    def on_body(self, data: bytes) -> None:
        if self._complete:
            self._usable = False
        elif self._answer is not None:
            self._answer.on_chunk(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._complete = True


class Upstreams:
    """All connections to containers that wait for an exchange, by address."""

    def __init__(self) -> None:
        self._idle: dict[Address, list[Upstream]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def idle(self, address: Address) -> Upstream | None:
        """A connection that is free, the one used last."""
        waiting = self._idle.get(address)
        while waiting:
            upstream = waiting.pop()
            if not upstream.transport.is_closing():
                return upstream
        return None

    async def connect(self, ports: Ports, address: Address) -> Upstream:
        """A new connection. Raises OSError when nobody listens there."""
        return await ports.connect(*address, lambda: Upstream(self, address))

    def put(self, upstream: Upstream) -> None:
        loop = asyncio.get_running_loop()
        upstream.idle_since = loop.time()
        self._idle.setdefault(upstream.address, []).append(upstream)
        if self._sweep is None:
            self._sweep = loop.call_later(_KEEP_ALIVE / 2, self._close_old)

    def forget(self, upstream: Upstream) -> None:
        waiting = self._idle.get(upstream.address, [])
        if upstream in waiting:
            waiting.remove(upstream)
        if not waiting:
            self._idle.pop(upstream.address, None)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for waiting in self._idle.values():
            for upstream in waiting:
                upstream.transport.close()
        self._idle.clear()

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        newest = loop.time() - _KEEP_ALIVE / 2
        for waiting in self._idle.values():
            while waiting and waiting[0].idle_since <= newest:
                waiting.pop(0).transport.close()
        self._idle = {address: waiting for address, waiting in self._idle.items() if waiting}
        self._sweep = loop.call_later(_KEEP_ALIVE / 2, self._close_old) if self._idle else None

"""One HTTP/1.1 connection of the gateway: uvicorn's, with bounds on size and time, bodies also of requests that offer another protocol, and a
way past uvicorn for requests to an @app.server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stoker.connections import Connections, Unread
from stoker.gateway.web.heads import host_of, is_framed_plainly, own_answer, written
from stoker.gateway.web.passage import WEBSOCKET_WITH_BODY, Passage
from stoker.gateway.web.server_gateway import ServerGateway

_MOST_HEAD_BYTES = 64 << 10
_MOST_HEADERS = 200
_MOST_PIPELINED = 16  # requests that came before the answer to the first was complete; hardly any client sends two
_HEAD_SECONDS = 20.0
_REST_SECONDS = 10.0  # for the rest of a body whose request has been answered
_LINGER_SECONDS = 2.0  # for the client to read why it was refused
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_TELLING = frozenset((b"host", b"transfer-encoding"))  # whose a request is, and where it ends
_LENGTHS_OF_TELLING = frozenset(map(len, _TELLING))


class _Enough(Exception):
    """Nothing more is read."""


class Connection(HttpToolsProtocol):
    """Ends connections whose peer does not get to the end of a request's head."""

    def __init__(
        self, *arguments: Any, kept: Connections, stall: float, servers: ServerGateway | None = None, **options: Any
    ) -> None:
        """kept: notes the connection. stall: seconds for which a client may take nothing of an answer."""
        super().__init__(*arguments, **options)
        self._kept = kept
        self._stall = stall
        self._unread = Unread(self.loop.time())
        self._servers = servers
        self._passage: Passage | None = None  # of the request whose head came last, if it has one
        self._current: Passage | None = None  # the one that has begun and is not over
        self._running: Any = None  # uvicorn's cycle of the request that the application got last
        self._tunnel = False  # what comes is no HTTP any more
        self._body_to_come = False  # the request offers another protocol, which the parser takes for its end
        self._reparsing = False
        self._is_deaf = False  # reads no more; what has been read is answered
        self._head_bytes = 0
        self._bytes_beside = 0  # since the last byte of a body: its framing, and what is said after it
        self._in_head = True  # also before a first byte
        self._head_size = 0  # of what the parser has read of the head
        self._telling: list[tuple[bytes, bytes]] = []  # headers of the request
        self._in_body = False
        self._idle_since: float | None = self.loop.time()  # None while there is a request
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None

    # What a passage asks

    def wants_keep_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and bool(self.parser.should_keep_alive())

    def wants_websocket(self) -> bool:
        return bool(self.parser.should_upgrade()) and self._should_upgrade()

    def announces_body(self) -> bool:
        lengths = [value for name, value in self.headers if name == b"content-length"]
        return any(length != b"0" for length in lengths) or any(
            name == b"transfer-encoding" for name, _ in self.headers
        )

    # What `Connections` asks

    @property
    def idle_since(self) -> float | None:
        return self._idle_since

    def look(self, now: float) -> None:
        if self.transport is not None and self._unread.seconds(self.transport, now) > self._stall:
            self.transport.abort()

    def turn_away(self, reason: str) -> None:
        self._is_deaf = True
        self.transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._kept.add(self, self.client[0] if self.client else ""):
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._kept.remove(self)
        self._forget_head()
        self._forget_rest()
        if self._current is not None:
            self._current.on_client_lost()
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells only the newest request of the connection, which may still wait for its turn.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._tunnel:
            self._pass_bytes(data)
            return
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        self._head_bytes += len(data) if self._in_head else 0
        self._bytes_beside += 0 if self._in_head else len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if not self._is_deaf:
                self.send_400_response("Invalid HTTP request received.")
        if self._current is not None and not self.transport.is_closing():
            self._current.on_input_end()
        if max(self._head_bytes if self._in_head else 0, self._bytes_beside) > _MOST_HEAD_BYTES:
            self._refuse_head()

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
        if self._reparsing:
            return
        super().on_message_begin()
        self._in_head, self._head_bytes, self._head_size, self._bytes_beside = True, 0, 0, 0
        self._telling = []
        if self._head_timer is None:
            self._watch_head()

    def on_url(self, url: bytes) -> None:
        if not self._reparsing:
            self._count(len(url))
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Those after a body are no headers, and were checked by nobody.
        if self._in_head:
            self._count(len(name) + len(value) + 4)
            value = value.rstrip(b" \t")  # as the parser does it before a value
            super().on_header(name, value)
            if len(name) in _LENGTHS_OF_TELLING and (telling := name.lower()) in _TELLING:
                self._telling.append((telling, value))

    def on_headers_complete(self) -> None:
        if self._reparsing:
            return
        self._in_head = False
        self._forget_head()
        if self.transport.is_closing():
            return  # the request before was the last; nobody would read the answer to this one
        self._in_body, self._idle_since = True, None
        self._check_head()
        self._body_to_come = self._offers_other_protocol() and any(name in _FRAMING for name, _ in self.headers)
        passage = self._passage = self._servers.passage(self) if self._servers is not None else None
        if passage is None:
            if self.wants_websocket() and self.announces_body():
                self._refuse(400, "Bad Request", WEBSOCKET_WITH_BODY)
                raise _Enough
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
        self._bytes_beside = 0
        cycle: Any = self.cycle
        if cycle is None or self.transport.is_closing():
            return
        if not isinstance(cycle, Passage):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.on_body(body)

    def on_message_complete(self) -> None:
        cycle: Any = self.cycle
        if self._body_to_come or self.transport.is_closing():
            return
        self._in_body = False
        self._forget_rest()
        if not isinstance(cycle, Passage):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.on_request_complete()

    # uvicorn

    def handle_websocket_upgrade(self) -> None:
        if self._passage is not None:
            self._tunnel = True
        elif self._is_busy():
            self.transport.close()  # it cannot switch protocols while it carries an answer
        else:
            self._kept.remove(self)
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "Bad Request", msg)

    def on_response_complete(self) -> None:
        self._current = None
        if not self.pipeline:
            self._idle_since = self.loop.time()
            if self._is_deaf:
                self.transport.close()
            if self._in_body and not self.transport.is_closing():
                self._forget_rest()
                self._rest_timer = self.loop.call_later(_REST_SECONDS, self.transport.close)
        super().on_response_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Passage):
            self._begin(cycle)
            cycle.on_input_end()
        else:
            self._running = cycle
            super()._start_asgi_task(cycle, app)

    # How it is done

    def _count(self, size: int) -> None:
        """A piece of a head, which may have come all at once. Raises _Enough when it has become too large."""
        self._head_size += size
        if self._head_size > _MOST_HEAD_BYTES or len(self.headers) >= _MOST_HEADERS:
            self._refuse_head()
            raise _Enough

    def _check_head(self) -> None:
        """Refuses what could be read in more than one way. Raises _Enough then."""
        version = self.parser.get_http_version()
        host = host_of(version, self.url, self._telling)
        if version not in ("1.0", "1.1"):
            self._refuse(505, "HTTP Version Not Supported", "this port speaks HTTP/1.0 and HTTP/1.1")
        elif host is None:
            self._refuse(400, "Bad Request", "a request names its host once, in the header Host")
        elif not is_framed_plainly(version, self._telling):
            self._refuse(501, "Not Implemented", "the one transfer-encoding of requests is chunked, in HTTP/1.1")
        elif len(self.pipeline) >= _MOST_PIPELINED:
            self._is_deaf = True
        else:
            if not self.url.startswith(b"/"):  # it may name another host than its header, and counts
                self.headers[:] = [(n, host if n == b"host" else v) for n, v in self.headers]
            return
        raise _Enough

    def _begin(self, passage: Passage) -> None:
        self._current = passage
        passage.begin()

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as switch:
                data = data[switch.args[0] :]
            if self.transport.is_closing():
                return
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                if data and self._tunnel:
                    self._pass_bytes(data)
                return
            if self._body_to_come:
                self._expect_body()

    def _offers_other_protocol(self) -> bool:
        """Whether the request offers to switch to a protocol other than websockets, which nobody here does."""
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def _expect_body(self) -> None:
        """Another parser reads the body of a request for which the one so far thinks that it switches protocols."""
        framing = [header for header in self.headers if header[0] in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(AttributeError):  # of an older httptools
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._body_to_come, self._reparsing = False, True
        try:
            self.parser.feed_data(written(b"POST / HTTP/1.1", framing))
        finally:
            self._reparsing = False

    def _pass_bytes(self, data: bytes) -> None:
        if self._current is None:
            return
        if self._current is self._passage:
            self._current.on_client_bytes(data)
        else:
            self.transport.close()  # the websocket has not had its turn, so nothing can have been sent to it

    def _is_busy(self) -> bool:
        """Whether an answer is under way or still to be given."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_answering(self) -> bool:
        """Whether an answer has begun and is not complete."""
        if self._current is not None:
            return self._current.has_answered
        running = self._running
        return running is not None and running.response_started and not running.response_complete

    def _forget_rest(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _watch_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._too_slow)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._is_busy():
            self._watch_head()  # the next request comes early, and may be held up by what we do
        elif self._in_head:
            self._refuse(408, "Request Timeout", f"no complete request within {_HEAD_SECONDS:.0f} seconds")

    def _refuse_head(self) -> None:
        most = f"{_MOST_HEAD_BYTES >> 10} KiB, or {_MOST_HEADERS}, of headers"
        self._refuse(431, "Request Header Fields Too Large", f"more than {most}")

    def _refuse(self, status: int, phrase: str, sentence: str) -> None:
        """Answers, and takes no more of what comes."""
        transport = self.transport
        if self._is_deaf or transport is None or transport.is_closing():
            return
        self._is_deaf = True
        if self._is_answering():
            transport.close()  # it would become a part of the answer
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        transport.write(own_answer(status, phrase, sentence + "\n", headers, close=True))
        if transport.can_write_eof():
            transport.write_eof()
            # Closed at once, with something unread, the connection would be reset and the answer lost.
            self._forget_rest()
            self._rest_timer = self.loop.call_later(_LINGER_SECONDS, transport.close)
        else:
            transport.close()

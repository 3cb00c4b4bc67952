"""One HTTP/2 connection of a peer: streams, flow control, header compression. What a request means is decided by its `Application`."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from stoker.protocol.http2 import frames
from stoker.protocol.http2.frames import ConnectionFault, FrameReader
from stoker.protocol.http2.headers import HeaderDecoder, Headers

_FRAME_SIZE = 1 << 20  # bytes we accept in one frame
_STREAM_WINDOW = 8 << 20  # bytes a peer may send on a stream before we confirm
_CONNECTION_WINDOW = 64 << 20
_MAX_STREAMS = 1 << 20  # long polls hold a stream each; the limit of 100 that is usual would starve the short calls
_MAX_HEADER_BYTES = 64 << 10
_GATHERED_BYTES = 64 << 10  # frames beyond this are passed on at once, so that a slow peer is noticed
# Bytes a peer may leave unread before nothing more is read of it: what it sends (pings above all) would be answered.
_MOST_UNREAD = 16 << 20
_MAX_ODD_FRAMES = 10_000  # resets and empty frames beyond all calls made; more is an attack


class Application(Protocol):
    """What is served. One instance per connection side, shared by its streams."""

    def begin(self, stream: Stream, headers: Headers) -> None:
        """A request has begun; its body follows by `receive`."""
        ...

    def receive(self, stream: Stream, data: bytes, end: bool) -> None:
        """A piece of a request's body."""
        ...

    def abandon(self, stream: Stream) -> None:
        """The peer has cancelled the stream, or is gone."""
        ...


class Stream:
    """One request and its answer. `state` belongs to the application."""

    __slots__ = (
        "_connection",
        "_end",
        "_pending",
        "_room",
        "closed",
        "head_sent",
        "id",
        "remote_ended",
        "state",
        "unconfirmed",
        "window",
    )

    def __init__(self, connection: Connection, id: int, window: int) -> None:
        self._connection = connection
        self.id = id
        self.window = window  # what the peer lets us send
        self.unconfirmed = 0  # received bytes we have not given back to its window
        self.remote_ended = False
        self.closed = False
        self.head_sent = False
        self.state: object = None
        self._pending: deque[bytes] = deque()  # data that waits for window
        self._end = b""  # the frames after the data
        self._room: asyncio.Future[None] | None = None

    @property
    def connection(self) -> Connection:
        return self._connection

    def answer(self, head: bytes, data: bytes, end: bytes) -> None:
        """A whole answer: header frame, body, and the frames that end it (header blocks without their frame heads)."""
        self._connection.send_answer(self, head, data, end)

    def send_head(self, block: bytes) -> None:
        self.head_sent = True
        self._connection.write(frames.frame(frames.HEADERS, frames.END_HEADERS, self.id, block))

    async def send_data(self, data: bytes) -> None:
        """Sends a piece of the body; waits while the peer takes nothing."""
        self._pending.append(data)
        self._connection.flush(self)
        while self._pending and not self.closed:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def send_end(self, block: bytes) -> None:
        """Trailers. Must come after all data was sent."""
        self._connection.send_end(self, block)

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Connection(asyncio.Protocol):
    """The server side of a connection. `proven` belongs to the application: the token that this peer has shown last, rightly."""

    def __init__(self, application: Application, on_close: Callable[[Connection], None]) -> None:
        self.peer = ""  # its address, "" for one at a unix socket
        self.proven: object = None
        self._application = application
        self._on_close = on_close
        self._reader = FrameReader(_FRAME_SIZE)
        self._decoder = HeaderDecoder(_MAX_HEADER_BYTES)
        self._transport: asyncio.Transport | None = None
        self._gathered: list[bytes] = []  # frames written in this turn of the event loop, which go out together
        self._gathered_bytes = 0
        self._reading = False
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._window = 65_535  # what the peer lets us send on the connection
        self._peer_stream_window = 65_535
        self._peer_frame_size = 16_384
        self._unconfirmed = 0
        self._odd_frames = 0
        self._peer_is_slow = False
        self._blocked: dict[int, Stream] = {}  # streams with data that waits for window
        self._headers: tuple[int, int, bytearray] | None = (
            None  # a header block whose end has not come: stream, flags, block
        )
        self._closing = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if isinstance(address, tuple) else ""
        self.write(
            frames.settings(
                {
                    frames.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
                    frames.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                    frames.MAX_FRAME_SIZE: _FRAME_SIZE,
                    frames.MAX_HEADER_LIST_SIZE: _MAX_HEADER_BYTES,
                }
            )
            + frames.window_update(0, _CONNECTION_WINDOW - 65_535)
        )

    def data_received(self, data: bytes) -> None:
        self._reading = True
        try:
            for kind, flags, stream, payload in self._reader.feed(data):
                self._take(kind, flags, stream, payload)
        except ConnectionFault as fault:
            self._fail(fault.code, str(fault))
        except struct.error:
            self._fail(frames.FRAME_SIZE_ERROR, "a frame that is too short")
        finally:
            self._reading = False
            self._send_gathered()
            self._mind_unread()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        for stream in list(self._streams.values()):
            self._drop(stream)
        self._on_close(self)

    def pause_writing(self) -> None:
        self._peer_is_slow = True

    def resume_writing(self) -> None:
        self._peer_is_slow = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._flush_blocked()

    # What streams use

    def write(self, data: bytes) -> None:
        """Sends frames at the end of this turn of the event loop: the answers to many calls then cost one system call."""
        if not self._gathered and not self._reading:
            asyncio.get_running_loop().call_soon(self._send_gathered)
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes > _GATHERED_BYTES:
            self._send_gathered()

    def send_answer(self, stream: Stream, head: bytes, data: bytes, end: bytes) -> None:
        if stream.closed:
            return
        size = len(data)
        if size <= stream.window and size <= self._window and size <= self._peer_frame_size:
            # The usual case: everything in one write.
            stream.window -= size
            self._window -= size
            self.write(
                frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, head)
                + frames.frame(frames.DATA, 0, stream.id, data)
                + frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.id, end)
            )
            self._finish(stream)
            return
        stream.send_head(head)
        stream._pending.append(data)
        stream._end = end
        self.flush(stream)

    def send_end(self, stream: Stream, block: bytes) -> None:
        if stream.closed:
            return
        self.write(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.id, block))
        self._finish(stream)

    def flush(self, stream: Stream) -> None:
        """Sends as much of a stream's data as the windows allow, and as the peer reads: windows are often far larger than what should lie here."""
        while stream._pending and not stream.closed:
            data = stream._pending[0]
            size = min(len(data), stream.window, self._window, self._peer_frame_size)
            if data and (size <= 0 or self._peer_is_slow):
                self._blocked[stream.id] = stream
                return
            self.write(frames.frame(frames.DATA, 0, stream.id, data[:size]))
            stream.window -= size
            self._window -= size
            if size == len(data):
                stream._pending.popleft()
            else:
                stream._pending[0] = data[size:]
        self._blocked.pop(stream.id, None)
        if stream._end and not stream.closed:
            self.send_end(stream, stream._end)
        stream._wake()

    def _send_gathered(self) -> None:
        if not self._gathered:
            return
        data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_bytes = 0
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _flush_blocked(self) -> None:
        for stream in list(self._blocked.values()):
            self.flush(stream)

    def _mind_unread(self) -> None:
        transport = self._transport
        if transport is None or not self._peer_is_slow or transport.is_closing():
            return
        if transport.get_write_buffer_size() > _MOST_UNREAD:
            transport.pause_reading()

    def shut_down(self) -> None:
        """Tells the peer that no new calls are taken; open ones go on."""
        if not self._closing:
            self._closing = True
            self.write(frames.goaway(self._last_stream, frames.NO_ERROR))
        if not self._streams:
            self.abort()

    def abort(self) -> None:
        self._send_gathered()
        if self._transport is not None:
            self._transport.close()

    # Frames

    def _take(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        if self._headers is not None and kind != frames.CONTINUATION:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block was interrupted")
        if kind == frames.HEADERS:
            self._take_headers(flags, id, payload)
        elif kind == frames.DATA:
            self._take_data(flags, id, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._take_window_update(id, payload)
        elif kind == frames.CONTINUATION:
            self._take_continuation(flags, id, payload)
        elif kind == frames.RST_STREAM:
            self._count_odd()
            stream = self._streams.get(id)
            if stream is not None:
                self._drop(stream)
        elif kind == frames.SETTINGS:
            self._take_settings(flags, payload)
        elif kind == frames.PING:
            self._take_ping(flags, payload)
        elif kind == frames.GOAWAY:
            self._closing = True
            if not self._streams:
                self.abort()
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client cannot push")
        # PRIORITY and unknown kinds are ignored.

    def _take_headers(self, flags: int, id: int, payload: bytes) -> None:
        block = frames.unpad(flags, payload)
        if flags & frames.HAS_PRIORITY:
            block = block[5:]
        if len(block) > _MAX_HEADER_BYTES:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & frames.END_HEADERS:
            self._open(flags, id, block)
        else:
            self._headers = (id, flags, bytearray(block))

    def _take_continuation(self, flags: int, id: int, payload: bytes) -> None:
        if self._headers is None or self._headers[0] != id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a continuation of nothing")
        _, first_flags, block = self._headers
        block += payload
        if len(block) > _MAX_HEADER_BYTES or not payload:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & frames.END_HEADERS:
            self._headers = None
            self._open(first_flags, id, bytes(block))

    def _open(self, flags: int, id: int, block: bytes) -> None:
        # Every block must be decoded, wanted or not: the compression state of both ends goes with it.
        headers = self._decoder.decode(block)
        stream = self._streams.get(id)
        if stream is not None:  # trailers of a request; gRPC has none that matter
            if flags & frames.END_STREAM:
                self._end_of_request(stream, b"")
            return
        if id % 2 == 0 or id <= self._last_stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"stream {id} cannot be opened")
        self._last_stream = id
        if self._closing or len(self._streams) >= _MAX_STREAMS:
            self.write(frames.rst_stream(id, frames.REFUSED_STREAM))
            return
        stream = Stream(self, id, self._peer_stream_window)
        self._streams[id] = stream
        self._application.begin(stream, headers)
        if flags & frames.END_STREAM:
            self._end_of_request(stream, b"")

    def _take_data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self._unconfirmed += size
        if self._unconfirmed > _CONNECTION_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window allows")
        if self._unconfirmed > _CONNECTION_WINDOW // 2:
            self.write(frames.window_update(0, self._unconfirmed))
            self._unconfirmed = 0
        stream = self._streams.get(id)
        if stream is None:
            if id == 0 or id > self._last_stream:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "data for a stream that is not open")
            return  # of a stream that has ended here
        if stream.remote_ended:
            raise ConnectionFault(frames.STREAM_CLOSED, "data after the end of a request")
        if not size and not flags & frames.END_STREAM:
            self._count_odd()
        data = frames.unpad(flags, payload)
        if flags & frames.END_STREAM:
            self._end_of_request(stream, data)
            return
        stream.unconfirmed += size
        if stream.unconfirmed > _STREAM_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window allows")
        self._application.receive(stream, data, False)
        if stream.unconfirmed > _STREAM_WINDOW // 2 and not stream.closed:
            self.write(frames.window_update(id, stream.unconfirmed))
            stream.unconfirmed = 0

    def _end_of_request(self, stream: Stream, data: bytes) -> None:
        if stream.remote_ended:
            raise ConnectionFault(frames.STREAM_CLOSED, "data after the end of a request")
        stream.remote_ended = True
        self._application.receive(stream, data, True)

    def _take_window_update(self, id: int, payload: bytes) -> None:
        (amount,) = struct.unpack(">I", payload)
        amount &= 0x7FFFFFFF
        if id == 0:
            self._window += amount
            if self._window > 0x7FFFFFFF or not amount:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window that cannot be")
            self._flush_blocked()
        else:
            blocked = self._streams.get(id)
            if blocked is not None:
                blocked.window += amount
                if blocked.id in self._blocked:
                    self.flush(blocked)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        self._count_odd()
        if len(payload) % 6:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "settings of a broken length")
        for key, value in struct.iter_unpack(">HI", payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > 0x7FFFFFFF:
                    raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window that cannot be")
                for stream in list(self._streams.values()):
                    stream.window += value - self._peer_stream_window
                self._peer_stream_window = value
            elif key == frames.MAX_FRAME_SIZE:
                self._peer_frame_size = min(max(value, 16_384), _FRAME_SIZE)
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        for stream in list(self._blocked.values()):
            self.flush(stream)

    def _take_ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a ping of a broken length")
        if not flags & frames.ACK:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    # Ends

    def _finish(self, stream: Stream) -> None:
        """Our side of the stream has ended."""
        if not stream.remote_ended:
            self.write(frames.rst_stream(stream.id, frames.NO_ERROR))  # the rest of the request is not wanted
        self._forget(stream)

    def _drop(self, stream: Stream) -> None:
        """The peer's side has ended the stream."""
        self._forget(stream)
        self._application.abandon(stream)

    def _forget(self, stream: Stream) -> None:
        stream.closed = True
        stream._wake()
        self._streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        if self._closing and not self._streams:
            self.abort()

    def _count_odd(self) -> None:
        self._odd_frames += 1
        if self._odd_frames > _MAX_ODD_FRAMES + self._last_stream:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many resets and empty frames")

    def _fail(self, code: int, message: str) -> None:
        self._closing = True
        self.write(frames.goaway(self._last_stream, code, message.encode()[:200]))
        self.abort()

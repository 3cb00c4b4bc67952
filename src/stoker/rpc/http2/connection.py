"""One HTTP/2 connection of a peer: streams, flow control, header compression. What a request means is decided by its `Application`."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from stoker.budget import Account
from stoker.connections import Unread
from stoker.rpc.http2 import frames, settings
from stoker.rpc.http2.application import Application
from stoker.rpc.http2.blocks import BlockReader
from stoker.rpc.http2.frames import ConnectionFault, FrameReader, StreamFault
from stoker.rpc.http2.headers import HeaderDecoder, check_request, check_trailers, content_length
from stoker.rpc.http2.limits import (
    MAX_HEADER_BYTES,
    MAX_STREAMS,
    MAX_UNREAD,
    MAX_VALUE,
    STRANGER,
    STREAM_COST,
    STREAM_FAULT_COST,
    TURN,
    Limits,
    Patience,
)
from stoker.rpc.http2.progress import Progress
from stoker.rpc.http2.sender import Sender
from stoker.rpc.http2.stream import Stream
from stoker.rpc.http2.unfinished import Unfinished

_STUCK_SECONDS = 600.0  # an answer of which the peer takes nothing, though it reads the connection, is given up


class Connection(asyncio.Protocol):
    """The server side of a connection. `owner` and `proven` belong to the application: who calls, and the token that was shown last, rightly."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        account: Account,
        owner: object,
        on_open: Callable[[Connection], None],
        on_close: Callable[[Connection], None],
    ) -> None:
        """account: of answers that wait for the peer."""
        self._application = application
        self._on_open = on_open
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self.limits = limits
        self._reader = FrameReader(limits.frame_size)
        self._blocks = BlockReader()
        self._decoder = HeaderDecoder(MAX_HEADER_BYTES, MAX_VALUE)
        self._patience = Patience(limits, self._loop.time())
        self.sender = Sender(account, self._finish, self._patience.earn, self._loop)
        self.owner = owner
        self.proven: object = None
        self.address = ""  # of the peer, "" on a unix socket
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._unfinished = Unfinished()
        self._last_stream = 0
        self._unconfirmed = 0  # bytes received since the last update of the connection's window
        self._configured = False  # the peer's first settings have come
        self._waits_for_turn = False
        self._closing = False  # nothing new is taken
        self._ended = False  # nothing is read any more
        self._is_paused = False
        self._opened_at = self._idle_since = self._loop.time()
        self._progress = Progress(self._opened_at)
        self._unread = Unread(self._opened_at)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self.sender.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        values = {frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS, frames.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES}
        self.write(frames.settings(values | _windows(self.limits)) + _opened(65_535, self.limits))
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        if self._reader.has_part:
            self._progress.brought += len(data)
        self._reader.add(data)
        if not self._waits_for_turn:
            self._work()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = self._ended = True
        for stream in list(self._streams.values()):
            self._drop(stream)
        self._on_close(self)

    def pause_writing(self) -> None:
        self.sender.set_slow(True)

    def resume_writing(self) -> None:
        self.sender.set_slow(False)
        if self._is_paused and not self._waits_for_turn:
            self._work()

    # What the application uses

    def write(self, data: bytes) -> None:
        """Sends frames at the end of this turn of the event loop."""
        self.sender.write(data)

    def trust(self, limits: Limits, account: Account) -> None:
        """The peer has shown who it is: other limits from now on."""
        if limits is self.limits:
            return
        self.write(frames.settings(_windows(limits)) + _opened(self.limits.connection_window, limits))
        self._patience.grow(limits)
        self._reader.max_frame_size = limits.frame_size
        self.limits = limits
        self.sender.account = account

    def charge(self, amount: float) -> None:
        """Of the peer's patience. Raises ConnectionFault, which ends the connection when a frame is being read."""
        self._patience.spend(self._loop.time(), amount)

    def shut_down(self) -> None:
        """Tells the peer that no new calls are taken; open ones go on."""
        if not self._closing:
            self._closing = True
            self.write(frames.goaway(self._last_stream, frames.NO_ERROR))
        if not self._streams:
            self.abort()

    def abort(self) -> None:
        self._ended = True
        self.sender.pass_on()
        if self._transport is not None:
            self._transport.close()

    # What `Connections` uses

    @property
    def idle_since(self) -> float | None:
        """Of who has not shown a token: since the connection is there."""
        if self.limits is STRANGER:
            return self._opened_at
        return None if self._streams else self._idle_since

    def turn_away(self, reason: str) -> None:
        self._fail(frames.ENHANCE_YOUR_CALM, reason)

    def look(self, now: float) -> None:
        limits, transport = self.limits, self._transport
        if transport is None:
            return
        if self._unread.seconds(transport, now) > limits.stall_seconds:
            transport.abort()  # nothing said now would be read
        elif transport.is_closing():
            return
        elif not self._last_stream and now - self._opened_at > limits.begin_seconds:
            self._fail(frames.ENHANCE_YOUR_CALM, f"no request within {limits.begin_seconds:.0f} seconds")
        elif not self._is_fast_enough(now):
            reason = f"an unfinished request, and next to nothing for {limits.silence_seconds:.0f} seconds"
            self._fail(frames.ENHANCE_YOUR_CALM, reason)
        elif not (self._streams or self._closing) and now - self._idle_since > limits.idle_seconds:
            self.shut_down()
        else:
            self._give_up_old_streams(now)

    def _is_fast_enough(self, now: float) -> bool:
        waiting = any(not (stream.remote_ended or stream.is_held_up) for stream in self._streams.values())
        unfinished = waiting or self._blocks.has_part or self._reader.has_part
        return self._progress.is_enough(now, self.limits.silence_seconds, unfinished=unfinished)

    def _give_up_old_streams(self, now: float) -> None:
        oldest = now - self.limits.request_seconds
        late = [s for s in self._streams.values() if not s.remote_ended and s.opened_at < oldest]
        for stream in {*late, *self.sender.stuck(now - _STUCK_SECONDS)}:
            self.reset(stream, frames.CANCEL)

    # Frames

    def _work(self) -> None:
        """Reads the frames that have come, as many as one turn allows."""
        self._waits_for_turn = False
        self.sender.is_reading = True
        work, much_unread = 0, self._has_much_unread()
        try:
            while not (self._ended or much_unread):
                frame = self._reader.next()
                if frame is None:
                    break
                work += 1 + (len(frame[3]) >> 12)
                last = self._last_stream
                try:
                    self._take(*frame)
                except StreamFault as fault:
                    self._refuse(frame[2], fault)
                if self._last_stream != last:
                    work += STREAM_COST
                if work > TURN and self._reader.has_part:
                    self._waits_for_turn = True
                    self._loop.call_soon(self._work)
                    break
        except ConnectionFault as fault:
            self._fail(fault.code, str(fault))
        finally:
            self.sender.is_reading = False
            self.sender.pass_on()
            self._pace()

    def _pace(self) -> None:
        """Reads on, or not: what has come is dealt with first, and who does not read is not read either."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if (self._waits_for_turn or self._has_much_unread()) != self._is_paused:
            self._is_paused = not self._is_paused
            transport.pause_reading() if self._is_paused else transport.resume_reading()

    def _has_much_unread(self) -> bool:
        transport = self._transport
        return self.sender.peer_is_slow and transport is not None and transport.get_write_buffer_size() > MAX_UNREAD

    def _take(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        if self._blocks.has_part and kind != frames.CONTINUATION:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block was interrupted")
        if not self._configured and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a connection begins with settings")
        if kind == frames.HEADERS:
            self._take_headers(flags, id, payload)
        elif kind == frames.DATA:
            self._take_data(flags, id, payload)
        elif (id == 0) != (kind in _OF_CONNECTION) and kind in _OF_ONE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a frame on the wrong stream")
        elif len(payload) != _LENGTHS.get(kind, len(payload)):
            fault = StreamFault if kind == frames.PRIORITY else ConnectionFault
            raise fault(frames.FRAME_SIZE_ERROR, "a frame of a broken length")
        elif kind == frames.WINDOW_UPDATE:
            self._take_window_update(id, payload)
        elif kind == frames.CONTINUATION:
            self._take_continuation(flags, id, payload)
        elif kind == frames.RST_STREAM:
            self._take_reset(id)
        elif kind == frames.SETTINGS:
            self._take_settings(flags, payload)
        elif kind == frames.PING:
            self._take_ping(flags, payload)
        elif kind == frames.GOAWAY:
            self._take_goaway(payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client cannot push")
        else:  # PRIORITY, also of streams that depend on themselves, and unknown kinds mean nothing here
            self.charge(1 + len(payload) / 1024)

    def _take_headers(self, flags: int, id: int, payload: bytes) -> None:
        block = self._blocks.begin(flags, id, payload)
        if block is None:
            self.charge(1)
        else:
            self._open(flags, id, block)

    def _take_continuation(self, flags: int, id: int, payload: bytes) -> None:
        self.charge(1)
        complete = self._blocks.go_on(flags, id, payload)
        if complete is not None:
            first_flags, block = complete
            self._open(first_flags, id, block)

    def _open(self, flags: int, id: int, block: bytes) -> None:
        self._progress.brought += len(block)
        if id <= self._last_stream or id % 2 == 0:
            self._take_trailers(flags, id, block)
            return
        self._last_stream = id
        headers = self._decoder.decode(block)
        check_request(headers)
        ended = bool(flags & frames.END_STREAM)
        if self._closing or len(self._streams) >= self.limits.streams:
            self.charge(1)
            self._break_off(id, frames.REFUSED_STREAM, ended)
            return
        stream = Stream(self, id, self._loop.time())
        if "content-length" in headers:
            stream.length = content_length(headers)
        stream.remote_ended = ended
        self._streams[id] = stream
        self._application.begin(stream, headers)
        if ended:
            self._complete(stream, b"")

    def _take_trailers(self, flags: int, id: int, block: bytes) -> None:
        """Headers of a stream that has been there. gRPC has none that matter at the end of a request, but the decoder must see every block."""
        self.charge(1)
        stream = self._streams.get(id)
        if id % 2 == 0 or (stream is None and not self._unfinished.expects(id)):
            # STREAM_CLOSED if it has ended, but nobody keeps in mind which ones were skipped.
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"stream {id} cannot be opened")
        if stream is not None and stream.remote_ended:
            raise ConnectionFault(frames.STREAM_CLOSED, "headers after the end of a request")
        headers = self._decoder.decode(block)
        if stream is None:
            self._take_late(flags, id)
            return
        check_trailers(headers)
        if not flags & frames.END_STREAM:
            raise StreamFault(frames.PROTOCOL_ERROR, "headers in the middle of a request")
        self._end_of_request(stream, b"")

    def _take_data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self._progress.brought += size
        self._unconfirmed += size
        if self._unconfirmed > self.limits.connection_window:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window allows")
        if self._unconfirmed > self.limits.connection_window // 2:
            self.write(frames.window_update(0, self._unconfirmed))
            self._unconfirmed = 0
        stream = self._streams.get(id)
        if stream is None:
            if id == 0 or self._is_idle(id):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "data for a stream that is not open")
            self._take_late(flags, id)
            return
        if stream.remote_ended:
            raise ConnectionFault(frames.STREAM_CLOSED, "data after the end of a request")
        stream.received += size
        if stream.received > self.limits.stream_window + stream.granted:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window allows")
        data = frames.unpad(flags, payload)
        if flags & frames.END_STREAM:
            self._end_of_request(stream, data)
            return
        if size < 1024:
            self.charge(1)
        if len(data) != size:
            stream.grant(size - len(data))  # padding is no part of the request
        if stream.length >= 0:
            self._count_down(stream, len(data))
        self._application.receive(stream, data, False)

    def _end_of_request(self, stream: Stream, data: bytes) -> None:
        if stream.remote_ended:
            raise ConnectionFault(frames.STREAM_CLOSED, "data after the end of a request")
        stream.remote_ended = True
        self._complete(stream, data)

    def _complete(self, stream: Stream, data: bytes) -> None:
        """The last of a request has come."""
        if stream.length >= 0:
            self._count_down(stream, len(data))
            if stream.length:
                raise StreamFault(frames.PROTOCOL_ERROR, "a request that is shorter than its content-length")
        if not stream.closed:
            self._patience.earn(3)  # a reset, an update and a small frame
        self._application.receive(stream, data, True)

    def _count_down(self, stream: Stream, size: int) -> None:
        stream.length -= size
        if stream.length < 0:
            raise StreamFault(frames.PROTOCOL_ERROR, "a request that is longer than its content-length")

    def _take_late(self, flags: int, id: int) -> None:
        """A piece of a request whose stream has ended here."""
        if not self._unfinished.expects(id):
            raise ConnectionFault(frames.STREAM_CLOSED, "more of a request on a stream that has ended")
        self.charge(1)
        if flags & frames.END_STREAM:
            self._unfinished.end(id)

    def _take_window_update(self, id: int, payload: bytes) -> None:
        self.charge(1)
        (amount,) = struct.unpack(">I", payload)
        amount &= frames.MAX_WINDOW
        if self._is_idle(id):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a window for a stream that is not open")
        if not amount:
            fault = StreamFault if id in self._streams else ConnectionFault
            raise fault(frames.PROTOCOL_ERROR, "a window that does not grow")
        if id == 0:
            if self.sender.window + amount > frames.MAX_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window that cannot be")
            self.sender.open_window(amount)
            return
        stream = self._streams.get(id)
        if stream is not None and not self.sender.open_stream_window(stream, amount):
            raise StreamFault(frames.FLOW_CONTROL_ERROR, "a window that cannot be")

    def _take_reset(self, id: int) -> None:
        self.charge(1)
        if self._is_idle(id):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a reset of a stream that is not open")
        self._unfinished.end(id)
        stream = self._streams.get(id)
        if stream is not None:
            self._drop(stream)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        self.charge(1)
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "settings that confirm something and say more")
            return
        values, sender = settings.read(payload), self.sender
        self._configured = True
        window = values.get(frames.INITIAL_WINDOW_SIZE, sender.stream_window)
        if window + sender.most_credit > frames.MAX_WINDOW:  # perhaps of a stream that is still there
            self.charge(len(self._streams) / 64)
            if any(window + stream.credit > frames.MAX_WINDOW for stream in self._streams.values()):
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window that cannot be")
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        sender.frame_size = min(values.get(frames.MAX_FRAME_SIZE, sender.frame_size), _FRAME_SIZE_OUT)
        if frames.HEADER_TABLE_SIZE in values:
            sender.set_table_size(values[frames.HEADER_TABLE_SIZE])
        self.charge(sender.set_stream_window(window) / 64)

    def _take_ping(self, flags: int, payload: bytes) -> None:
        self.charge(1)
        if not flags & frames.ACK:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _take_goaway(self, payload: bytes) -> None:
        self.charge(1)
        if len(payload) < 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a frame of a broken length")
        self._closing = True
        if not self._streams:
            self.abort()

    def _is_idle(self, id: int) -> bool:
        """Whether a stream has never been: the peer's have odd numbers, and we begin none."""
        return id > self._last_stream or (id != 0 and id % 2 == 0)

    # Ends

    def reset(self, stream: Stream, code: int) -> None:
        """Breaks off a stream; the application hears of it."""
        self._break_off(stream.id, code, stream.remote_ended)
        self._drop(stream)

    def _finish(self, stream: Stream) -> None:
        """Our side of the stream has ended."""
        if not stream.remote_ended:
            self._break_off(stream.id, frames.NO_ERROR, False)  # the rest of the request is not wanted
        self._forget(stream)

    def _refuse(self, id: int, fault: StreamFault) -> None:
        """Ends the one stream on which the peer broke the rules."""
        self.charge(STREAM_FAULT_COST)
        stream = self._streams.get(id)
        if stream is not None:
            self.reset(stream, fault.code)
        elif self._is_idle(id):  # there is nothing that could be reset
            raise ConnectionFault(fault.code, str(fault))
        else:
            self._break_off(id, fault.code, False)

    def _break_off(self, id: int, code: int, remote_ended: bool) -> None:
        self.write(frames.rst_stream(id, code))
        if not remote_ended:
            self._unfinished.add(id)

    def _drop(self, stream: Stream) -> None:
        """The peer's side has ended the stream."""
        self._forget(stream)
        self._application.abandon(stream)

    def _forget(self, stream: Stream) -> None:
        stream.closed = True
        self._streams.pop(stream.id, None)
        self.sender.forget(stream)
        if not self._streams:
            self._idle_since = self._loop.time()
            if self._closing:
                self.abort()

    def _fail(self, code: int, message: str) -> None:
        self._closing = True
        self.write(frames.goaway(self._last_stream, code, message.encode()[:200]))
        self.abort()


# Bytes we send in one frame at most, also to who takes more: others have their turn in between.
_FRAME_SIZE_OUT = 256 << 10
_LENGTHS = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}  # of payloads, in bytes
_OF_CONNECTION = frozenset((frames.SETTINGS, frames.PING, frames.GOAWAY))  # have no stream
_OF_ONE = _OF_CONNECTION | {frames.PRIORITY, frames.RST_STREAM, frames.CONTINUATION}


def _windows(limits: Limits) -> dict[int, int]:
    return {frames.INITIAL_WINDOW_SIZE: limits.stream_window, frames.MAX_FRAME_SIZE: limits.frame_size}


def _opened(before: int, limits: Limits) -> bytes:
    """The frame that opens the connection's window."""
    more = limits.connection_window - before
    return frames.window_update(0, more) if more else b""

"""The way out of a connection: what may go now goes together, the rest waits for windows, or for the peer to read."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from stoker.budget import Account
from stoker.rpc.http2 import frames
from stoker.rpc.http2.stream import Stream

_GATHERED_BYTES = 64 << 10  # frames beyond this are passed on at once, so that a slow peer is noticed
_TABLE_BYTES = 4096  # of headers, which a peer keeps in mind when it says nothing else
_NO_TABLE = b"\x20"  # a table's new size of 0, before a header block
_BYTES_OF_PATIENCE = 8 << 10  # sent, for which a peer may send one update


class Sender:
    """`finish` is called with a stream whose answer is complete."""

    def __init__(
        self,
        account: Account,
        finish: Callable[[Stream], None],
        earn: Callable[[float], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """account: of data that waits. earn: of patience."""
        self.transport: asyncio.Transport | None = None
        self.account = account
        self.window = 65_535  # what the peer lets us send on the connection
        self.stream_window = 65_535  # and on each stream, before its own updates
        self.frame_size = 16_384
        self.most_credit = 0  # that any stream has had
        self.is_reading = False  # what is written now goes out when all that was received is dealt with
        self.peer_is_slow = False
        self._shrinks = False  # the peer must be told that we use no table of headers
        self._has_shrunk = False
        self._finish = finish
        self._earn = earn
        self._loop = loop
        self._gathered: list[bytes] = []  # frames written in this turn of the event loop, which go out together
        self._gathered_bytes = 0
        self._ready: OrderedDict[int, Stream] = (
            OrderedDict()
        )  # wait for the connection's window, or for the peer to read
        self._starved: OrderedDict[int, Stream] = OrderedDict()  # wait for their own windows

    def write(self, data: bytes) -> None:
        """Sends frames at the end of this turn of the event loop: the answers to many calls then cost one system call."""
        if not self._gathered and not self.is_reading:
            self._loop.call_soon(self.pass_on)
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes > _GATHERED_BYTES:
            self.pass_on()

    def pass_on(self) -> None:
        """Hands to the transport what has gathered."""
        if not self._gathered:
            return
        data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_bytes = 0
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def answer_now(self, stream: Stream, head: bytes, data: bytes, end: bytes) -> bool:
        """The usual case: everything in one write. False when it cannot be."""
        if stream.closed:
            return True
        size = len(data)
        most = min(self.window, self.stream_window + stream.credit, self.frame_size)
        if size > most or self.peer_is_slow:
            return False
        stream.credit -= size
        self.window -= size
        if self._shrinks:
            head = self._shrunk(head)
        self.write(
            frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, head)
            + frames.frame(frames.DATA, 0, stream.id, data)
            + frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.id, end)
        )
        self._finish(stream)
        return True

    async def has_room(self, stream: Stream, size: int) -> bool:
        """Waits until `size` more bytes may lie in memory for the peer; False when the stream has ended meanwhile."""
        if not stream.closed and not self.account.take(size):
            stream.room = self._loop.create_future()
            turn = self.account.wait(size, stream.wake)
            try:
                await stream.room
            except BaseException:
                self.account.leave(turn)
                raise
            if not turn.granted or stream.closed:
                self.account.leave(turn)
                return False
        elif stream.closed:
            return False
        stream.charged += size
        return True

    async def is_read(self, stream: Stream) -> bool:
        """Waits until there is room for anything; False when the stream has ended meanwhile."""
        if not await self.has_room(stream, 1):
            return False
        self._discharge(stream, 1)
        return True

    def send(self, stream: Stream, data: bytes) -> None:
        """Sends data for which there is room, as far as it may go."""
        if not stream.pending:
            stream.stuck_since = self._loop.time()
        stream.pending.append(memoryview(data))
        self._flush(stream)

    def send_head(self, stream: Stream, block: bytes) -> None:
        if self._shrinks:
            block = self._shrunk(block)
        self.write(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, block))

    def send_end(self, stream: Stream, block: bytes) -> None:
        if stream.closed:
            return
        if self._shrinks:
            block = self._shrunk(block)
        self.write(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.id, block))
        self._finish(stream)

    # What the peer allows

    def set_table_size(self, size: int) -> None:
        """The peer keeps so many bytes of headers in mind. We let it keep none, but it waits to be told when it can keep less than usual (RFC 7541,
        4.2); a size of 0 is right whatever follows."""
        if size < _TABLE_BYTES and not self._has_shrunk:
            self._shrinks = self._has_shrunk = True

    def set_stream_window(self, size: int) -> int:
        """The peer gives all streams another window; how many streams had to be looked at."""
        grows, self.stream_window = size > self.stream_window, size
        starved = list(self._starved.values()) if grows else []
        for stream in starved:
            self._flush(stream)
        return len(starved)

    def open_window(self, amount: int) -> None:
        """The peer takes `amount` more bytes on the connection."""
        self.window += amount
        self._flush_ready()

    def open_stream_window(self, stream: Stream, amount: int) -> bool:
        """False when the window became larger than one may be."""
        stream.credit += amount
        self.most_credit = max(self.most_credit, stream.credit)
        if self.stream_window + stream.credit > frames.MAX_WINDOW:
            return False
        if stream.id in self._starved:
            self._flush(stream)
        return True

    def set_slow(self, slow: bool) -> None:
        """Whether the peer leaves unread what was sent."""
        self.peer_is_slow = slow
        self._flush_ready()

    def stuck(self, before: float) -> list[Stream]:
        """Streams of whose data nothing has gone since `before`."""
        waiting = [*self._ready.values(), *self._starved.values()]
        return [stream for stream in waiting if stream.stuck_since < before]

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        self._ready.pop(stream.id, None)
        self._starved.pop(stream.id, None)
        stream.pending.clear()
        self._discharge(stream, stream.charged)
        stream.wake()

    def _shrunk(self, block: bytes) -> bytes:
        self._shrinks = False
        return _NO_TABLE + block

    def _flush_ready(self) -> None:
        while self._ready and self.window > 0 and not self.peer_is_slow:
            self._flush(next(iter(self._ready.values())))

    def _flush(self, stream: Stream) -> None:
        """Sends as much of a stream's data as the windows allow, and as the peer reads: windows are often far larger than what should lie here."""
        sent = 0
        while stream.pending and not stream.closed:
            data = stream.pending[0]
            own = self.stream_window + stream.credit
            size = min(len(data), own, self.window, self.frame_size)
            if len(data) and (size <= 0 or self.peer_is_slow):
                ready, other = (self._ready, self._starved) if own > 0 else (self._starved, self._ready)
                other.pop(stream.id, None)
                ready[stream.id] = stream
                break
            self.write(frames.frame(frames.DATA, 0, stream.id, data[:size]))
            stream.credit -= size
            self.window -= size
            sent += size
            if size == len(data):
                stream.pending.popleft()
            else:
                stream.pending[0] = data[size:]
        if sent:
            stream.stuck_since = self._loop.time()
            self._earn(sent / _BYTES_OF_PATIENCE)
            self._discharge(stream, sent)
        if not stream.pending and not stream.closed:
            self._ready.pop(stream.id, None)
            self._starved.pop(stream.id, None)
            if stream.end:
                self.send_end(stream, stream.end)
            stream.wake()

    def _discharge(self, stream: Stream, size: int) -> None:
        if size:
            stream.charged -= size
            self.account.give(size)

"""What generators yield, on its way from their containers to their callers.

A container is held up while its caller is behind. A caller whose connection broke goes on where it was, so an item is kept until the caller
says that it has it: by asking for what follows. When its container waits for that, a reading ends, whereupon the client asks again as soon as
it has used what it got.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from stoker.aio.bell import Bell
from stoker.errors import FailedPrecondition, InvalidArgument

_WINDOW = 8 << 20  # bytes that a caller may be behind before its container has to wait
_MOST = (
    256 << 20
)  # bytes in memory for all callers; when there are more, containers wait until their callers have everything
_CHUNK_BYTES = 300  # of memory that a chunk takes besides its content
_GONE_AFTER = 300.0  # seconds without a sign of the caller after which nobody waits for it
# Seconds in which a caller reads (again) that reads at all: after it stopped or its generator failed, and after it was heard of otherwise.
_COMES_BACK, _COMES_NOW = 5.0, 1.5


@dataclass(frozen=True)
class Chunk:
    """`index` counts from 1 within the call. When the content lies in a blob, `data` only names it; `blob_bytes` is its size."""

    index: int
    data: bytes
    blob_id: str = ""
    blob_bytes: int = 0

    @property
    def memory(self) -> int:
        return len(self.data) + _CHUNK_BYTES

    @property
    def weight(self) -> int:
        return self.memory + self.blob_bytes


@dataclass(eq=False)
class _Stream:
    """That of one call."""

    alone_since: float  # by the loop's clock: without a reader
    kept: dict[int, Chunk] = field(default_factory=dict)  # by index: what the caller may ask for
    last: int = 0  # highest index that came
    dropped: int = 0  # highest index that is not kept any more
    weight: int = 0  # of what is kept
    held_up: int = 0  # puts that wait
    reader: object = None  # the newest one counts
    comes_back: bool = False  # the last reading ended so that the caller asks again
    failed_at: float | None = None  # by the loop's clock: the caller must have everything before it hears of that
    given_up: bool = False  # nobody reads: nothing is kept, and nobody waits
    news: Bell = field(default_factory=Bell)
    timer: asyncio.TimerHandle | None = None


class Streams:
    """The streams of all calls, in memory: a caller that comes back finds them, a restarted server does not."""

    def __init__(
        self, *, window: int = _WINDOW, most: int = _MOST, on_used: Callable[[str], None] = lambda blob_id: None
    ) -> None:
        """window, most: bytes, see above. on_used: called with each blob that nobody will ask for again."""
        self._window = window
        self._most = most
        self._on_used = on_used
        self._memory = 0
        self._streams: dict[str, _Stream] = {}

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._streams

    @property
    def memory(self) -> int:
        """Bytes that all of them take."""
        return self._memory

    # The container's side

    async def put(self, call_id: str, chunks: Sequence[Chunk]) -> None:
        """Adds chunks, and waits while the caller is too far behind. A repeat of an index changes nothing. Raises InvalidArgument for a gap."""
        stream = self._stream(call_id)
        for chunk in chunks:
            self._add(stream, chunk)
        stream.held_up += 1
        stream.news.ring()
        try:
            while stream.weight > (self._window if self._memory <= self._most else 0):
                await stream.news.wait()
        finally:
            stream.held_up -= 1

    def finish(self, call_id: str, *, failed: bool) -> None:
        """Event: the call is over; nothing more comes."""
        stream = self._streams.get(call_id)
        if stream is not None and failed:
            stream.failed_at = asyncio.get_running_loop().time()
            stream.news.ring()

    def forget(self, call_id: str) -> None:
        """Nobody asks for the stream of a call any more."""
        stream = self._streams.pop(call_id, None)
        if stream is not None:
            self._give_up(stream)

    # The caller's side

    async def follow(self, call_id: str, after: int) -> AsyncGenerator[bytes, None]:
        """Chunks with an index above `after`, in order; the caller has those before. Ends when the caller shall say what it has by asking
        again, or when there is a newer reader. Raises FailedPrecondition when such chunks are not kept any more."""
        stream = self._stream(call_id)
        if after < stream.dropped:
            raise FailedPrecondition(
                "What this generator yielded is not kept any more, for its caller was not heard of for "
                f"{_GONE_AFTER:.0f} seconds. Call it again."
                if stream.given_up
                else "What this generator yielded was read before, and can be read once."
            )
        stream.reader = reader = object()
        stream.comes_back = False
        if stream.given_up:
            stream.given_up = False
            self._watch(stream, _GONE_AFTER)
        self._drop(stream, after)
        position = after
        try:
            while stream.reader is reader and self._streams.get(call_id) is stream:
                chunk = stream.kept.get(position + 1)
                if chunk is not None:
                    position += 1
                    yield chunk.data
                elif position > after and (stream.held_up or stream.failed_at):
                    stream.comes_back = True
                    return
                else:
                    await stream.news.wait()
        finally:
            if stream.reader is reader:
                self._leave(call_id, stream)

    def alive(self, call_id: str) -> None:
        """The caller was heard of otherwise. That counts while it uses what it got, and not when it never read or its connection broke."""
        stream = self._streams.get(call_id)
        if stream is not None and stream.comes_back:
            stream.alone_since = asyncio.get_running_loop().time()

    async def delivered(self, call_id: str, timeout: float) -> bool:
        """Whether the caller has all that its generator yielded, or nobody is there to read it; waits for that up to `timeout` seconds. To be
        asked before a caller hears that its generator failed, for then it stops reading."""
        stream, loop = self._streams.get(call_id), asyncio.get_running_loop()
        began = loop.time()
        while stream is not None and stream.kept and self._streams.get(call_id) is stream:
            now, until = loop.time(), began + timeout
            if stream.reader is None and not stream.comes_back:
                patience = max(stream.alone_since, stream.failed_at or began) + _COMES_BACK
                patience = max(patience, min(until, began + _COMES_NOW))
                if patience <= now:
                    return True
                until = min(until, patience)
            if began + timeout <= now:
                return False
            await stream.news.wait(until - now)
        return True

    # How it is done

    def _stream(self, call_id: str) -> _Stream:
        stream = self._streams.get(call_id)
        if stream is None:
            loop = asyncio.get_running_loop()
            stream = self._streams[call_id] = _Stream(loop.time())
            self._watch(stream, _GONE_AFTER)
        return stream

    def _add(self, stream: _Stream, chunk: Chunk) -> None:
        if chunk.index <= stream.last:  # of a repeated request, or of another attempt
            known = stream.kept.get(chunk.index)
            if known is None or known.blob_id != chunk.blob_id:
                self._use(chunk)
            return
        if chunk.index != stream.last + 1:
            raise InvalidArgument(f"The chunk {chunk.index} came without the chunk {stream.last + 1} before it.")
        stream.last = chunk.index
        if stream.given_up or chunk.index <= stream.dropped:
            stream.dropped = max(stream.dropped, chunk.index)
            self._use(chunk)
            return
        stream.kept[chunk.index] = chunk
        stream.weight += chunk.weight
        self._memory += chunk.memory
        stream.news.ring()

    def _drop(self, stream: _Stream, index: int) -> None:
        """Keeps no chunk up to `index` any more."""
        was_crowded = self._memory > self._most
        for number in range(stream.dropped + 1, min(index, stream.last) + 1):
            chunk = stream.kept.pop(number)
            stream.weight -= chunk.weight
            self._memory -= chunk.memory
            self._use(chunk)
        stream.dropped = max(stream.dropped, index)
        stream.news.ring()
        if was_crowded and self._memory <= self._most:
            for other in self._streams.values():
                other.news.ring()

    def _use(self, chunk: Chunk) -> None:
        if chunk.blob_id:
            self._on_used(chunk.blob_id)

    def _leave(self, call_id: str, stream: _Stream) -> None:
        """The reader is gone, or comes back later."""
        stream.reader, stream.alone_since = None, asyncio.get_running_loop().time()
        if not stream.last and not stream.held_up:  # nothing came of it
            del self._streams[call_id]
            self._give_up(stream)
        stream.news.ring()

    def _watch(self, stream: _Stream, seconds: float) -> None:
        stream.timer = asyncio.get_running_loop().call_later(seconds, self._look, stream)

    def _look(self, stream: _Stream) -> None:
        """Whether its caller is gone."""
        alone = asyncio.get_running_loop().time() - stream.alone_since if stream.reader is None else 0.0
        if alone >= _GONE_AFTER:
            self._give_up(stream)
        else:
            self._watch(stream, _GONE_AFTER - alone)

    def _give_up(self, stream: _Stream) -> None:
        stream.given_up = True
        self._drop(stream, stream.last)
        if stream.timer is not None:
            stream.timer.cancel()

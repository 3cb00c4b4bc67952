"""Header blocks, put together from the frames in which they come."""

from __future__ import annotations

from stoker.rpc.http2 import frames
from stoker.rpc.http2.frames import ConnectionFault
from stoker.rpc.http2.limits import MAX_HEADER_BYTES

_PRIORITY_BYTES = 5
_TOO_LARGE = "the headers are too large"


class BlockReader:
    """Of one connection, on which no other frame may come between those of a block."""

    def __init__(self) -> None:
        self._stream = 0
        self._flags = 0  # of its first frame
        self._block = bytearray()
        self.has_part = False
        """Whether a block has begun whose end has not come."""

    def begin(self, flags: int, stream: int, payload: bytes) -> bytes | None:
        """Takes HEADERS; the block when that is all of it. Raises ConnectionFault."""
        block = frames.unpad(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(block) < _PRIORITY_BYTES:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a priority that is cut off")
            block = block[_PRIORITY_BYTES:]
        if len(block) > MAX_HEADER_BYTES:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, _TOO_LARGE)
        if flags & frames.END_HEADERS:
            return block
        self.has_part, self._stream, self._flags, self._block = True, stream, flags, bytearray(block)
        return None

    def go_on(self, flags: int, stream: int, payload: bytes) -> tuple[int, bytes] | None:
        """Takes CONTINUATION; the flags of the block's first frame, and the block, when it is complete. Raises ConnectionFault."""
        if not self.has_part or self._stream != stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a continuation of nothing")
        if not (payload or flags & frames.END_HEADERS):
            # It is allowed, but only who wants to keep us busy sends it.
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "a continuation that brings nothing")
        self._block += payload
        if len(self._block) > MAX_HEADER_BYTES:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, _TOO_LARGE)
        if not flags & frames.END_HEADERS:
            return None
        self.has_part = False
        return self._flags, bytes(self._block)

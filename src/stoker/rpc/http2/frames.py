"""Frames of HTTP/2: their layout on the wire, and a reader that cuts a byte stream into them."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM, ACK = 0x1, 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 5, 6, 7, 8, 9, 11

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

_HEAD = struct.Struct(">HBBBI")  # length (high 16, low 8 bits), type, flags, stream

Frame = tuple[int, int, int, bytes]  # type, flags, stream, payload


class ConnectionFault(Exception):
    """The peer broke the protocol: the connection ends with this error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamFault(Exception):
    """The peer broke the protocol on one stream: that is reset with this error code, and the others go on."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


MAX_WINDOW = 0x7FFFFFFF


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame as bytes."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values.items()))


def window_update(stream: int, amount: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", amount))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(last_stream: int, code: int, message: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + message)


def unpad(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - payload[0]]


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self, max_frame_size: int) -> None:
        self.max_frame_size = max_frame_size
        self.greeted = False
        """Whether the connection preface has come."""
        self._buffer = bytearray()
        self._position = 0

    @property
    def has_part(self) -> bool:
        """Whether bytes wait for more, or to be read."""
        return self._position < len(self._buffer)

    def add(self, data: bytes) -> None:
        if self._position:
            del self._buffer[: self._position]
            self._position = 0
        self._buffer += data

    def next(self) -> Frame | None:
        """The next frame that is complete. Raises ConnectionFault."""
        buffer, position = self._buffer, self._position
        if not self.greeted:
            if not PREFACE.startswith(buffer[: len(PREFACE)]):
                raise ConnectionFault(PROTOCOL_ERROR, "this port speaks gRPC (HTTP/2 with prior knowledge) only")
            if len(buffer) < len(PREFACE):
                return None
            self.greeted = True
            position = self._position = len(PREFACE)
        if len(buffer) - position < 9:
            return None
        high, low, kind, flags, stream = _HEAD.unpack_from(buffer, position)
        length = high << 8 | low
        if length > self.max_frame_size:
            raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        end = position + 9 + length
        if end > len(buffer):
            return None
        self._position = end
        return kind, flags, stream & 0x7FFFFFFF, bytes(buffer[position + 9 : end])

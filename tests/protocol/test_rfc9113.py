"""What a peer may send by RFC 9113 (HTTP/2) and RFC 7541 (header compression) and what it may not, section by section: the answer is an error of
the connection, an error of the one stream after which the others go on, or a call that is served."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

import pytest
from hpack import Decoder, Encoder
from modal_proto import api_pb2

from stoker.rpc.http2 import frames, huffman
from stoker.rpc.http2.frames import (
    CANCEL,
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
)
from stoker.rpc.http2.limits import CLIENT
from stoker.rpc.http2.unfinished import Unfinished
from tests.protocol.peer import GREETING, TOKEN, serving
from tests.protocol.steered import Servicer, prefix, run

END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY = (
    frames.END_STREAM,
    frames.END_HEADERS,
    frames.PADDED,
    frames.HAS_PRIORITY,
)
MOST = frames.MAX_WINDOW
Fields = dict[str, str | bytes]


@dataclass(frozen=True)
class Gone:
    """The connection ends with GOAWAY."""

    code: int


@dataclass(frozen=True)
class Reset:
    """The streams are reset, and the connection serves the next call."""

    code: int
    streams: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Fine:
    """The connection serves the next call, and nothing is reset."""


Expected = Gone | Reset | Fine
FINE = Fine()


def field(name: str, value: str | bytes = "", first: int = 0x00) -> bytes:
    """A literal without Huffman code; `first` says whether it joins the table."""
    raw = value if isinstance(value, bytes) else value.encode("latin-1")
    assert len(name) < 127 and len(raw) < 127
    return bytes([first, len(name)]) + name.encode("latin-1") + bytes([len(raw)]) + raw


def block(method: str = "MountPutFile", change: Fields | None = None, more: bytes = b"", pseudo: bytes = b"") -> bytes:
    """The headers of a call. change: other values of its fields; None leaves one out. more: fields after them. pseudo: fields before."""
    usual: Fields = {":method": "POST", ":scheme": "http", ":path": f"/modal.client.ModalClient/{method}", **TOKEN}
    fields = usual | (change or {})
    return pseudo + b"".join(field(name, value) for name, value in fields.items() if value != b"none") + more


def without(name: str) -> bytes:
    return block(change={name: b"none"})


def head(payload: bytes | None = None, flags: int = END_HEADERS, stream: int = 1) -> bytes:
    return frames.frame(frames.HEADERS, flags, stream, block() if payload is None else payload)


def body(data: bytes = bytes(5), flags: int = END_STREAM, stream: int = 1) -> bytes:
    """Without arguments the whole of an empty message."""
    return frames.frame(frames.DATA, flags, stream, data)


def call(stream: int = 1, payload: bytes | None = None) -> bytes:
    """A call that is answered at once."""
    return head(payload, stream=stream) + body(stream=stream)


def more(payload: bytes, flags: int = END_HEADERS, stream: int = 1) -> bytes:
    return frames.frame(frames.CONTINUATION, flags, stream, payload)


def raw(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return frames.frame(kind, flags, stream, payload)


def with_field(name: str, value: str | bytes = "x") -> bytes:
    return call(payload=block(more=field(name, value)))


def setting(*pairs: tuple[int, int]) -> bytes:
    return raw(frames.SETTINGS, b"".join(struct.pack(">HI", key, value) for key, value in pairs))


WAITING = head(block("AppHeartbeat"))  # the head of a call that is not answered
OPEN = WAITING + body()  # and all of it: the stream is half closed
PING = raw(frames.PING, b"12345678")

# What is sent after preface and settings, and what comes of it. Of several parts the next is sent when stream 1 has been answered or reset.
CASES: dict[str, tuple[bytes | tuple[bytes, ...], Expected]] = {
    # 4.1 Frames
    "4.1 an unknown kind of frame": (raw(0x16, b"x" * 8) + raw(0xFF, b"", 0xFF, 7), FINE),
    "4.1 unknown flags": (raw(frames.PING, b"12345678", 0xFE), FINE),
    "4.1 the reserved bit": (raw(frames.PING, b"12345678", 0, 1 << 31), FINE),
    "4.1 the reserved bit of a stream": (head(stream=1 | 1 << 31) + body(), FINE),
    # 4.2 Sizes
    "4.2 data that is too large": (body(bytes(16_385), 0), Gone(FRAME_SIZE_ERROR)),
    "4.2 headers that are too large": (head(bytes(16_385)), Gone(FRAME_SIZE_ERROR)),
    "4.2 a frame as large as can be": (head() + body(prefix(16_379) + bytes(16_379)), FINE),
    "4.2 an unknown kind that is too large": (raw(0x16, bytes(16_385)), Gone(FRAME_SIZE_ERROR)),
    # 4.3 Header blocks
    "4.3 broken compression": (head(b"\xff\xff\xff\xff\xff\xff"), Gone(COMPRESSION_ERROR)),
    "4.3 broken compression of trailers": (WAITING + head(b"\x80", END_HEADERS | END_STREAM), Gone(COMPRESSION_ERROR)),
    "4.3 another stream's frame inside a block": (head(block()[:9], 0) + head(stream=3), Gone(PROTOCOL_ERROR)),
    "4.3 data inside a block": (head(block()[:9], 0) + body(), Gone(PROTOCOL_ERROR)),
    "4.3 an unknown kind inside a block": (head(block()[:9], 0) + raw(0x16), Gone(PROTOCOL_ERROR)),
    "4.3 settings inside a block": (head(block()[:9], 0) + setting(), Gone(PROTOCOL_ERROR)),
    "4.3 a block in pieces": (head(block()[:9], 0) + more(block()[9:50], 0) + more(block()[50:]) + body(), FINE),
    # 5.1 States of a stream
    "5.1 idle: data": (body(stream=1), Gone(PROTOCOL_ERROR)),
    "5.1 idle: a reset": (frames.rst_stream(1, CANCEL), Gone(PROTOCOL_ERROR)),
    "5.1 idle: a window": (frames.window_update(1, 1), Gone(PROTOCOL_ERROR)),
    "5.1 idle: a continuation": (more(block()), Gone(PROTOCOL_ERROR)),
    "5.1 idle: a priority": (raw(frames.PRIORITY, bytes(5), 0, 7), FINE),
    "5.1 idle, even: data": (call(5) + body(stream=2), Gone(PROTOCOL_ERROR)),
    "5.1 idle, even: a reset": (call(5) + frames.rst_stream(2, CANCEL), Gone(PROTOCOL_ERROR)),
    "5.1 idle, even: a window": (call(5) + frames.window_update(2, 1), Gone(PROTOCOL_ERROR)),
    "5.1 half closed: data": (OPEN + body(), Gone(STREAM_CLOSED)),
    "5.1 half closed: headers": (OPEN + head(), Gone(STREAM_CLOSED)),
    "5.1 half closed: trailers": (OPEN + head(b"", END_HEADERS | END_STREAM), Gone(STREAM_CLOSED)),
    "5.1 half closed: a continuation": (OPEN + more(block()), Gone(PROTOCOL_ERROR)),
    "5.1 half closed: window, priority, reset": (
        OPEN + frames.window_update(1, 9) + raw(frames.PRIORITY, bytes(5), 0, 1) + frames.rst_stream(1, CANCEL),
        FINE,
    ),
    "5.1 reset by the peer: data": (WAITING + frames.rst_stream(1, CANCEL) + body(), Gone(STREAM_CLOSED)),
    "5.1 reset by the peer: headers": (WAITING + frames.rst_stream(1, CANCEL) + head(), Gone(PROTOCOL_ERROR)),
    "5.1 reset by the peer: a window": (WAITING + frames.rst_stream(1, CANCEL) + frames.window_update(1, 1), FINE),
    "5.1 reset by the peer, again": (WAITING + frames.rst_stream(1, CANCEL) * 2, FINE),
    "5.1 closed: data": ((call(), body()), Gone(STREAM_CLOSED)),
    "5.1 closed: headers": ((call(), head()), Gone(PROTOCOL_ERROR)),
    "5.1 closed: a continuation": ((call(), more(block())), Gone(PROTOCOL_ERROR)),
    "5.1 closed: window, reset, priority": (
        (call(), frames.window_update(1, 9) + frames.rst_stream(1, 0) + raw(frames.PRIORITY, bytes(5), 0, 1)),
        FINE,
    ),
    "5.1 reset by us: what was under way": (
        (head(without(":path")), body(b"x", 0) + frames.window_update(1, 9) + head(b"", END_HEADERS | END_STREAM)),
        Reset(PROTOCOL_ERROR),
    ),
    "5.1 reset by us: more after the end": ((head(without(":path")), body() + body()), Gone(STREAM_CLOSED)),
    "5.1 answered early: what was under way": (
        (head(block("Nothing")), body(b"x", 0) + body(b"x", 0) + head(b"", END_HEADERS | END_STREAM)),
        Reset(frames.NO_ERROR),
    ),
    "5.1.1 an even stream": (head(stream=2), Gone(PROTOCOL_ERROR)),
    "5.1.1 stream 0": (head(stream=0), Gone(PROTOCOL_ERROR)),
    "5.1.1 a lower stream": (call(5) + call(3), Gone(PROTOCOL_ERROR)),
    "5.1.1 skipped streams": (call(7) + call(101), FINE),
    "5.1.1 data on a skipped stream": (call(7) + body(stream=3), Gone(STREAM_CLOSED)),
    "5.3 a stream that depends on itself": (raw(frames.PRIORITY, struct.pack(">IB", 1, 1), 0, 1) + call(), FINE),
    "5.5 an extension's frame on a stream": (WAITING + raw(0x20, b"x", 1, 1), FINE),
    # 6.1 DATA
    "6.1 data on stream 0": (body(stream=0), Gone(PROTOCOL_ERROR)),
    "6.1 data with padding": (head() + body(b"\2" + bytes(5) + b"pp", END_STREAM | PADDED), FINE),
    "6.1 padding as long as the frame": (head() + body(b"\6" + bytes(5), END_STREAM | PADDED), Gone(PROTOCOL_ERROR)),
    "6.1 padding without its length": (head() + body(b"", END_STREAM | PADDED), Gone(PROTOCOL_ERROR)),
    "6.1 nothing but padding": (head() + body(b"\0", PADDED) + body(), FINE),
    # 6.2 HEADERS
    "6.2 headers with padding and priority": (
        head(b"\3" + bytes(5) + block() + b"ppp", END_HEADERS | PADDED | HAS_PRIORITY) + body(),
        FINE,
    ),
    "6.2 padding longer than the headers": (head(b"\xff" + block()[:9], END_HEADERS | PADDED), Gone(PROTOCOL_ERROR)),
    "6.2 a priority that is cut off": (head(bytes(4), END_HEADERS | HAS_PRIORITY), Gone(FRAME_SIZE_ERROR)),
    # 6.3 PRIORITY
    "6.3 stream 0": (raw(frames.PRIORITY, bytes(5)), Gone(PROTOCOL_ERROR)),
    "6.3 four bytes": (WAITING + raw(frames.PRIORITY, bytes(4), 0, 1), Reset(FRAME_SIZE_ERROR)),
    "6.3 six bytes on an idle stream": (raw(frames.PRIORITY, bytes(6), 0, 9), Gone(FRAME_SIZE_ERROR)),
    # 6.4 RST_STREAM
    "6.4 stream 0": (frames.rst_stream(0, CANCEL), Gone(PROTOCOL_ERROR)),
    "6.4 three bytes": (WAITING + raw(frames.RST_STREAM, bytes(3), 0, 1), Gone(FRAME_SIZE_ERROR)),
    "6.4 five bytes": (WAITING + raw(frames.RST_STREAM, bytes(5), 0, 1), Gone(FRAME_SIZE_ERROR)),
    "6.4 an unknown reason": (WAITING + frames.rst_stream(1, 0xFFFF), FINE),
    # 6.5 SETTINGS
    "6.5 on a stream": (WAITING + raw(frames.SETTINGS, b"", 0, 1), Gone(PROTOCOL_ERROR)),
    "6.5 confirmed with values": (raw(frames.SETTINGS, bytes(6), frames.ACK), Gone(FRAME_SIZE_ERROR)),
    "6.5 confirmed": (raw(frames.SETTINGS, b"", frames.ACK), FINE),
    "6.5 seven bytes": (raw(frames.SETTINGS, bytes(7)), Gone(FRAME_SIZE_ERROR)),
    "6.5.2 push that is neither on nor off": (setting((frames.ENABLE_PUSH, 2)), Gone(PROTOCOL_ERROR)),
    "6.5.2 push": (setting((frames.ENABLE_PUSH, 1)), FINE),
    "6.5.2 a window that is too large": (setting((frames.INITIAL_WINDOW_SIZE, MOST + 1)), Gone(FLOW_CONTROL_ERROR)),
    "6.5.2 frames of 1 byte": (setting((frames.MAX_FRAME_SIZE, 1)), Gone(PROTOCOL_ERROR)),
    "6.5.2 frames of 16,383 bytes": (setting((frames.MAX_FRAME_SIZE, 16_383)), Gone(PROTOCOL_ERROR)),
    "6.5.2 frames of 16 MiB": (setting((frames.MAX_FRAME_SIZE, 1 << 24)), Gone(PROTOCOL_ERROR)),
    "6.5.2 frames as large as can be": (setting((frames.MAX_FRAME_SIZE, (1 << 24) - 1)), FINE),
    "6.5.2 unknown settings": (setting((0, 1), (0xFF, 1 << 31), (0x8, 1)), FINE),
    "6.5.3 a wrong value before a right one": (
        setting((frames.MAX_FRAME_SIZE, 1), (frames.MAX_FRAME_SIZE, 16_384)),
        Gone(PROTOCOL_ERROR),
    ),
    "6.5.3 a window that is too large before another": (
        setting((frames.INITIAL_WINDOW_SIZE, MOST + 1), (frames.INITIAL_WINDOW_SIZE, 9_999)),
        Gone(FLOW_CONTROL_ERROR),
    ),
    # 6.6 PUSH_PROMISE
    "6.6 a push by a client": (WAITING + raw(frames.PUSH_PROMISE, bytes(4), END_HEADERS, 1), Gone(PROTOCOL_ERROR)),
    # 6.7 PING
    "6.7 on a stream": (WAITING + raw(frames.PING, bytes(8), 0, 1), Gone(PROTOCOL_ERROR)),
    "6.7 seven bytes": (raw(frames.PING, bytes(7)), Gone(FRAME_SIZE_ERROR)),
    "6.7 nine bytes, confirmed": (raw(frames.PING, bytes(9), frames.ACK), Gone(FRAME_SIZE_ERROR)),
    # 6.8 GOAWAY
    "6.8 on a stream": (WAITING + raw(frames.GOAWAY, bytes(8), 0, 1), Gone(PROTOCOL_ERROR)),
    "6.8 seven bytes": (WAITING + raw(frames.GOAWAY, bytes(7)), Gone(FRAME_SIZE_ERROR)),
    # 6.9 WINDOW_UPDATE
    "6.9 by nothing": (frames.window_update(0, 0), Gone(PROTOCOL_ERROR)),
    "6.9 by nothing, on a stream": (WAITING + frames.window_update(1, 0), Reset(PROTOCOL_ERROR)),
    "6.9 three bytes": (raw(frames.WINDOW_UPDATE, bytes(3)), Gone(FRAME_SIZE_ERROR)),
    "6.9 five bytes on a stream": (WAITING + raw(frames.WINDOW_UPDATE, bytes(5), 0, 1), Gone(FRAME_SIZE_ERROR)),
    "6.9 the reserved bit": (frames.window_update(0, 1 | 1 << 31), FINE),
    "6.9.1 over the highest": (frames.window_update(0, MOST), Gone(FLOW_CONTROL_ERROR)),
    "6.9.1 over the highest in two": (frames.window_update(0, 1 << 30) * 2, Gone(FLOW_CONTROL_ERROR)),
    "6.9.1 up to the highest": (frames.window_update(0, MOST - 65_535), FINE),
    "6.9.1 over the highest, on a stream": (WAITING + frames.window_update(1, MOST), Reset(FLOW_CONTROL_ERROR)),
    "6.9.2 over the highest by settings": (
        WAITING + frames.window_update(1, 1) + setting((frames.INITIAL_WINDOW_SIZE, MOST)),
        Gone(FLOW_CONTROL_ERROR),
    ),
    "6.9.2 as large as can be by settings": (WAITING + setting((frames.INITIAL_WINDOW_SIZE, MOST)), FINE),
    "6.9.2 large for a stream that is gone": (
        WAITING
        + frames.window_update(1, 1)
        + frames.rst_stream(1, CANCEL)
        + setting((frames.INITIAL_WINDOW_SIZE, MOST)),
        FINE,
    ),
    # 6.10 CONTINUATION
    "6.10 stream 0": (head(block()[:9], 0) + more(block()[9:], stream=0), Gone(PROTOCOL_ERROR)),
    "6.10 another stream": (head(block()[:9], 0) + more(block()[9:], stream=3), Gone(PROTOCOL_ERROR)),
    "6.10 after the end of a block": (head() + more(b""), Gone(PROTOCOL_ERROR)),
    "6.10 after data": (head() + body(b"", 0) + more(b""), Gone(PROTOCOL_ERROR)),
    "6.10 nothing but the end": (head(flags=0) + more(b"") + body(), FINE),
    "6.10 nothing at all": (head(flags=0) + more(b"", 0), Gone(ENHANCE_YOUR_CALM)),  # 10.5: our choice
    # 8.1 Messages
    "8.1 headers in the middle": (WAITING + head(field("x", "y")), Reset(PROTOCOL_ERROR)),
    "8.1 trailers": (head() + body(bytes(5), 0) + head(field("x", "y"), END_HEADERS | END_STREAM), FINE),
    "8.1 a pseudo-header in trailers": (
        head() + body(bytes(5), 0) + head(field(":path", "/"), END_HEADERS | END_STREAM),
        Reset(PROTOCOL_ERROR),
    ),
    "8.1 upper case in trailers": (WAITING + head(field("X"), END_HEADERS | END_STREAM), Reset(PROTOCOL_ERROR)),
    "8.1.1 content-length": (with_field("content-length", "5"), FINE),
    "8.1.1 a shorter request": (with_field("content-length", "6"), Reset(PROTOCOL_ERROR)),
    "8.1.1 a longer request": (with_field("content-length", "4"), Reset(PROTOCOL_ERROR)),
    "8.1.1 a longer request in pieces": (
        head(block(more=field("content-length", "4"))) + body(bytes(5), 0),
        Reset(PROTOCOL_ERROR),
    ),
    "8.1.1 a shorter request that ends by trailers": (
        head(block(more=field("content-length", "6"))) + body(bytes(5), 0) + head(b"", END_HEADERS | END_STREAM),
        Reset(PROTOCOL_ERROR),
    ),
    "8.1.1 content-length without content": (
        head(block("AppHeartbeat", more=field("content-length", "1")), END_HEADERS | END_STREAM),
        Reset(PROTOCOL_ERROR),
    ),
    "8.1.1 content-length without a number": (with_field("content-length", "abc"), Reset(PROTOCOL_ERROR)),
    "8.1.1 content-length that is empty": (with_field("content-length", ""), Reset(PROTOCOL_ERROR)),
    "8.1.1 content-length below zero": (with_field("content-length", "-5"), Reset(PROTOCOL_ERROR)),
    "8.1.1 content-length in other digits": (with_field("content-length", b"\xb2"), Reset(PROTOCOL_ERROR)),
    "8.1.1 two content-lengths": (
        call(payload=block(more=field("content-length", "6") + field("content-length", "5"))),
        Reset(PROTOCOL_ERROR),
    ),
    # 8.2 Fields
    "8.2.1 upper case": (with_field("X-Name"), Reset(PROTOCOL_ERROR)),
    "8.2.1 a space in a name": (with_field("x name"), Reset(PROTOCOL_ERROR)),
    "8.2.1 a colon in a name": (with_field("x:name"), Reset(PROTOCOL_ERROR)),
    "8.2.1 a control character in a name": (with_field("x\x7f"), Reset(PROTOCOL_ERROR)),
    "8.2.1 no ASCII in a name": (with_field("x\xff"), Reset(PROTOCOL_ERROR)),
    "8.2.1 no name": (with_field(""), Gone(PROTOCOL_ERROR)),
    "8.2.1 NUL": (with_field("x", "a\0b"), Reset(PROTOCOL_ERROR)),
    "8.2.1 CR": (with_field("x", "a\rb"), Reset(PROTOCOL_ERROR)),
    "8.2.1 LF": (with_field("x", "a\nb"), Reset(PROTOCOL_ERROR)),
    "8.2.1 LF at the end": (with_field("x", "a\n"), Reset(PROTOCOL_ERROR)),
    "8.2.1 a space before a value": (with_field("x", " a"), Reset(PROTOCOL_ERROR)),
    "8.2.1 a tab after a value": (with_field("x", "a\t"), Reset(PROTOCOL_ERROR)),
    "8.2.1 a space for a value": (with_field("x", " "), Reset(PROTOCOL_ERROR)),
    "8.2.1 LF in a pseudo-header": (call(payload=block(change={":path": "/a\nb"})), Reset(PROTOCOL_ERROR)),
    "8.2.1 other characters in a value": (with_field("x", b"a \t\x01\xff!"), FINE),
    "8.2.1 no value": (with_field("x", ""), FINE),
    "8.2.1 a bad field that joins the table, and good ones after it": (
        head(block(more=field("X-Bad", "a", 0x40) + field("x-good", "b", 0x40)))
        + body()
        + call(3, block(more=b"\xbe"))  # the newest
        + call(5, block(more=b"\xbf"))  # the bad one again
        + call(7, block(more=field("x", "y", 0x40) + b"\xbf")),
        Reset(PROTOCOL_ERROR, (1, 5)),
    ),
    "8.2.2 connection": (with_field("connection", "close"), Reset(PROTOCOL_ERROR)),
    "8.2.2 keep-alive": (with_field("keep-alive"), Reset(PROTOCOL_ERROR)),
    "8.2.2 proxy-connection": (with_field("proxy-connection"), Reset(PROTOCOL_ERROR)),
    "8.2.2 upgrade": (with_field("upgrade", "h2c"), Reset(PROTOCOL_ERROR)),
    "8.2.2 transfer-encoding": (with_field("transfer-encoding", "chunked"), Reset(PROTOCOL_ERROR)),
    "8.2.2 transfer-encoding by index": (call(payload=block(more=b"\xb9")), Reset(PROTOCOL_ERROR)),
    "8.2.2 transfer-encoding's name by index": (call(payload=block(more=b"\x0f\x2a\1x")), Reset(PROTOCOL_ERROR)),
    "8.2.2 the size of its entry in the table": (
        call(payload=b"\x3f\x34" + block(more=b"\x79\1x"))  # 83 bytes of table, and an entry of 50
        + head(block(more=field("x", "y", 0x40) + b"\xbf"), stream=3),  # one of 34, and the first one again
        Gone(COMPRESSION_ERROR),
    ),
    "8.2.1 a bad field before a good one of the same name": (
        call(payload=block(more=field("x", "a\n") + field("x", "a"))),
        Reset(PROTOCOL_ERROR),
    ),
    "8.2.2 te": (with_field("te", "trailers"), FINE),
    "8.2.2 another te": (with_field("te", "trailers, gzip"), Reset(PROTOCOL_ERROR)),
    "8.2.2 another te before the right one": (
        call(payload=block(more=field("te", "gzip") + field("te", "trailers"))),
        Reset(PROTOCOL_ERROR),
    ),
    # 8.3 Pseudo-headers
    "8.3 an unknown one": (call(payload=block(pseudo=field(":protocol", "x"))), Reset(PROTOCOL_ERROR)),
    "8.3 one of answers": (call(payload=block(pseudo=b"\x88")), Reset(PROTOCOL_ERROR)),
    "8.3 one after a field": (call(payload=block(more=field(":authority", "x"))), Reset(PROTOCOL_ERROR)),
    "8.3 one after a field that is bad": (call(payload=block(pseudo=field("X"))), Reset(PROTOCOL_ERROR)),
    "8.3.1 the method twice": (call(payload=block(pseudo=field(":method", "POST"))), Reset(PROTOCOL_ERROR)),
    "8.3.1 the path twice": (call(payload=block(pseudo=field(":path", "/"))), Reset(PROTOCOL_ERROR)),
    "8.3.1 no method": (call(payload=without(":method")), Reset(PROTOCOL_ERROR)),
    "8.3.1 no scheme": (call(payload=without(":scheme")), Reset(PROTOCOL_ERROR)),
    "8.3.1 no path": (call(payload=without(":path")), Reset(PROTOCOL_ERROR)),
    "8.3.1 an empty path": (call(payload=block(change={":path": ""})), Reset(PROTOCOL_ERROR)),
    "8.3.1 no field at all": (call(payload=b"\x20"), Reset(PROTOCOL_ERROR)),
    "8.3.1 another host": (
        call(payload=block(pseudo=field(":authority", "a"), more=field("host", "b"))),
        Reset(PROTOCOL_ERROR),
    ),
    "8.3.1 the same host": (call(payload=block(pseudo=field(":authority", "a"), more=field("host", "A"))), FINE),
    "8.3.1 two hosts": (call(payload=block(more=field("host", "a") + field("host", "b"))), Reset(PROTOCOL_ERROR)),
    "8.5 CONNECT": (head(field(":method", "CONNECT") + field(":authority", "x")), Reset(PROTOCOL_ERROR)),
    # RFC 7541
    "7541 2.3.3 an index of nothing": (head(block(more=b"\xbe")), Gone(COMPRESSION_ERROR)),
    "7541 2.3.3 a name's index of nothing": (head(block(more=b"\x7e\1x")), Gone(COMPRESSION_ERROR)),
    "7541 2.3.3 an evicted entry": (
        head(block(more=field("x", "y", 0x40) + b"\xbe")) + head(b"\x20\xbe", stream=3),
        Gone(COMPRESSION_ERROR),
    ),
    "7541 4.2 sizes of the table": (call(payload=b"\x20\x3f\xe1\x1f" + block()), FINE),
    "7541 4.2 a size above ours": (head(b"\x3f\xe2\x1f" + block()), Gone(COMPRESSION_ERROR)),
    "7541 4.2 a size after a field": (head(block(more=b"\x20")), Gone(COMPRESSION_ERROR)),
    "7541 4.2 three sizes": (head(b"\x20" * 3 + block()), Gone(COMPRESSION_ERROR)),
    "7541 4.3 an entry that evicts others": (
        call(payload=block(more=field("x", "y", 0x40)))
        + call(3, b"\x3f\x1d" + block(more=field("long", "z" * 30, 0x40)))  # 60 bytes of table, and an entry of 66
        + head(block(more=b"\xbe"), stream=5),
        Gone(COMPRESSION_ERROR),
    ),
    "7541 5.1 an endless integer": (head(b"\x7f" + b"\x80" * 9 + b"\1"), Gone(COMPRESSION_ERROR)),
    "7541 5.1 an integer that is cut off": (head(block(more=b"\xff\x80")), Gone(COMPRESSION_ERROR)),
    "7541 5.2 a string that is cut off": (head(block(more=b"\0\1x\x05ab")), Gone(COMPRESSION_ERROR)),
    "7541 5.2 a field without its value": (head(block(more=b"\0\1x")), Gone(COMPRESSION_ERROR)),
    "7541 5.2 Huffman code": (call(payload=block(more=b"\0\1x\x81\x1f")), FINE),
    "7541 5.2 padding of zeros": (head(block(more=b"\0\1x\x81\x18")), Gone(COMPRESSION_ERROR)),
    "7541 5.2 padding of eight bits": (head(block(more=b"\0\1x\x82\x1f\xff")), Gone(COMPRESSION_ERROR)),
    "7541 5.2 nothing but padding": (head(block(more=b"\0\1x\x81\xff")), Gone(COMPRESSION_ERROR)),
    "7541 5.2 the end of a string in it": (head(block(more=b"\0\1x\x85\x1f\xff\xff\xff\xff")), Gone(COMPRESSION_ERROR)),
    "7541 6.1 index 0": (head(block(more=b"\x80")), Gone(COMPRESSION_ERROR)),
    "7541 6.2 never indexed": (call(payload=block(more=field("x", "y", 0x10))), FINE),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rules_of_http2(name: str) -> None:
    sent, expected = CASES[name]
    parts = sent if isinstance(sent, tuple) else (sent,)

    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            for number, part in enumerate(parts):
                if number:
                    await peer.until(lambda: 1 in peer.statuses or 1 in peer.resets)
                peer.send(part)
            if isinstance(expected, Gone):
                await peer.until(lambda: peer.closed)
                assert peer.goaway is not None and peer.goaway[0] == expected.code, peer.goaway
            else:
                peer.send(call(201))
                await peer.until(lambda: peer.closed or 201 in peer.statuses)
                assert peer.statuses.get(201) == "0", peer.goaway
                resets = dict.fromkeys(expected.streams, expected.code) if isinstance(expected, Reset) else {}
                assert peer.resets == resets and peer.goaway is None
            await peer.close()

    run(test)


@pytest.mark.parametrize(
    ("greeting", "code"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX" + setting(), PROTOCOL_ERROR),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", PROTOCOL_ERROR),
        (frames.PREFACE + call(), PROTOCOL_ERROR),
        (frames.PREFACE + PING, PROTOCOL_ERROR),
        (frames.PREFACE + raw(frames.SETTINGS, b"", frames.ACK), PROTOCOL_ERROR),
        (frames.PREFACE + raw(frames.SETTINGS, bytes(5)), FRAME_SIZE_ERROR),
    ],
)
def test_3_4_a_connection_begins_with_preface_and_settings(greeting: bytes, code: int) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client(greeting)
            await peer.until(lambda: peer.closed)
            assert peer.goaway is not None and peer.goaway[0] == code
            await peer.close()

    run(test)


def test_3_4_a_preface_may_come_byte_by_byte() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client(b"")
            for byte in GREETING + call():
                peer.send(bytes([byte]))
                await asyncio.sleep(0)
            await peer.until(lambda: peer.statuses.get(1) == "0")
            await peer.close()

    run(test)


def test_6_5_3_settings_and_pings_are_confirmed_once_and_no_confirmation_is() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            peer.send(setting() + PING + raw(frames.PING, b"confirms", frames.ACK))
            peer.send(raw(frames.SETTINGS, b"", frames.ACK) + raw(frames.PING, b"the last"))
            await peer.until(lambda: b"the last" in peer.pongs)
            assert peer.pongs == [b"12345678", b"the last"] and peer.settings_confirmed == 2
            await peer.close()

    run(test)


def test_6_8_a_peer_that_goes_gets_the_answers_to_what_it_asked() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            peer.send(OPEN + raw(frames.GOAWAY, bytes(8)) + call(3))
            await peer.until(lambda: peer.resets.get(3) == frames.REFUSED_STREAM)
            servicer.go_on.set()
            await peer.until(lambda: peer.closed)
            assert peer.statuses == {1: "0"}
            await peer.close()

    run(test)


def test_6_9_answers_keep_to_the_windows_and_frames_of_the_peer() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            get = api_pb2.BlobGetRequest(blob_id="60000")
            peer.send(setting((frames.INITIAL_WINDOW_SIZE, 10)))
            peer.call(1, "BlobGet", get)
            await peer.until(lambda: peer.data.get(1) == 10)
            # The window becomes negative: 4 - 10, and 7 more let one byte go.
            peer.send(setting((frames.INITIAL_WINDOW_SIZE, 4)) + frames.window_update(1, 7))
            await peer.until(lambda: peer.data.get(1) == 11)
            peer.send(frames.window_update(1, 1 << 20))
            await peer.until(lambda: peer.statuses.get(1) == "0")
            assert peer.largest <= 16_384
            taken = peer.data[1]
            peer.send(setting((frames.INITIAL_WINDOW_SIZE, 1 << 20)))
            peer.call(3, "BlobGet", get)
            await peer.until(lambda: peer.data.get(3) == 65_535 - taken)  # what is left of the connection's
            peer.send(frames.window_update(0, 1 << 20))
            await peer.until(lambda: peer.statuses.get(3) == "0")
            await peer.close()

    run(test)


def test_6_9_who_sends_more_than_the_window_of_a_stream_is_shown_out() -> None:
    """Windows are opened as soon as there is memory, so only a request for which there is none can be too long for its own."""

    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            budget = served.transport._memories.clients.incoming
            budget.limit, budget.each, budget.share = 1 << 20, 1 << 20, 0
            peer = await served.client()
            peer.send(head() + body(prefix(1 << 20), 0))
            peer.send(head(stream=3) + body(prefix(1 << 20), 0, 3))
            for _ in range(CLIENT.stream_window // 16_384):
                peer.send(body(bytes(16_384), 0, 3))
            await peer.until(lambda: peer.closed)
            assert peer.goaway is not None and peer.goaway[0] == FLOW_CONTROL_ERROR
            await peer.close()

    run(test)


def test_8_1_a_stream_that_both_have_ended_is_not_reset() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            peer.send(head(block("Nothing"), END_HEADERS | END_STREAM))
            await peer.until(lambda: 1 in peer.statuses)
            peer.send(call(3))
            await peer.until(lambda: 3 in peer.statuses)
            assert peer.resets == {}
            await peer.close()

    run(test)


def test_5_1_of_many_streams_that_were_ended_early_some_are_forgotten_and_none_is_held_against_the_peer() -> None:
    unfinished = Unfinished()
    for stream in range(1, 10_001, 2):
        unfinished.add(stream)
    assert all(unfinished.expects(stream) for stream in range(1, 10_001, 2))
    assert len(unfinished._ids) < 2_000
    unfinished.end(9_999)
    assert not unfinished.expects(9_999)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "post"])
def test_8_3_1_a_call_is_a_post_request(method: str) -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer = await served.client()
            peer.send(call(payload=block(change={":method": method})))
            await peer.until(lambda: 1 in peer.statuses)
            assert peer.statuses[1] == "12" and 1 not in peer.data  # UNIMPLEMENTED
            await peer.close()

    run(test)


def test_7541_4_2_a_peer_that_keeps_no_headers_in_mind_is_told_that_none_are_needed() -> None:
    async def test(servicer: Servicer) -> None:
        async with serving(servicer) as served:
            peer, decoder = await served.client(), Decoder()
            peer.send(setting((frames.HEADER_TABLE_SIZE, 0)) + call() + call(3, block("Nothing")))
            await peer.until(lambda: 1 in peer.statuses and 3 in peer.statuses)
            decoder.max_allowed_table_size = 0
            first = min(peer.blocks, key=lambda stream: not peer.blocks[stream][0].startswith(b"\x20"))
            blocks = peer.blocks.pop(first) + [block for blocks in peer.blocks.values() for block in blocks]
            assert dict(decoder.decode(blocks[0]))[":status"] == "200"
            assert sum(block.startswith(b"\x20") for block in blocks) == 1
            for one in blocks[1:]:
                decoder.decode(one)
            await peer.close()

    run(test)


def test_7541_5_2_every_character_has_the_code_of_the_reference() -> None:
    for first in range(256):
        text = bytes((first, (first + 1) % 256, 255 - first)).decode("latin-1")
        coded: bytes = Encoder().encode([("x", text.encode("latin-1"))], huffman=True)
        value = coded.split(b"\x40\x81\xf3")[1]  # a literal that joins the table, with the name x
        assert value[0] & 0x80
        assert huffman.decode(value[1:]) == text

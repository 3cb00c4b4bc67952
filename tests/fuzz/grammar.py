"""What a hostile peer could send, made up from a seed: frames, header blocks, messages of each RPC, and old attacks."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hpack import Encoder

from stoker.rpc.http2 import frames
from stoker.rpc.methods import SERVICE

GREETING = frames.PREFACE + frames.settings({})
Headers = Sequence[tuple[str, "str | bytes"]]
_KINDS = (*range(10), 0x0A, 0x77, 0xFF)
_TEXTS = (
    b"a",
    b"/",
    b"a/",
    b"../",
    b"$",
    b"${a",
    b"\\",
    b'"',
    b"a=b ",
    b"\n",
    b" ",
    b"* ",
    b"a,",
    b"<<a\n",
    "ü".encode(),
    b"9",
    b"a\\\n",
    b"{",
)
_PIECE = 16_384  # bytes of a frame
_NAMES = (":method", ":path", ":scheme", ":authority", "te", "x", "content-length", "connection", "X-Upper", "x\0y", "")


class Grammar:
    def __init__(self, seed: int, known: Mapping[str, str]) -> None:
        """known: ids and names that the server knows, by the fields they belong into, so that some messages get further than the first check."""
        self.rng = random.Random(seed)
        self._known = known
        self._words = list(known.values())

    # Bytes

    def noise(self) -> bytes:
        """Nothing in particular, with and without a greeting before it."""
        rng = self.rng
        return rng.choice((b"", frames.PREFACE[: rng.randrange(25)], GREETING)) + rng.randbytes(
            rng.randrange(1, 20_000)
        )

    def mutated(self, recording: bytes) -> bytes:
        """What a real client said, with some of it changed, left out, said twice, or in another order."""
        rng, data = self.rng, bytearray(recording)
        for _ in range(rng.choice((1, 1, 3, 30))):
            at = rng.randrange(len(data))
            end = min(len(data), at + rng.choice((1, 9, 100, 5_000)))
            change = rng.randrange(5)
            if change == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif change == 1:
                del data[at:end]
            elif change == 2:
                data[at:at] = data[at:end]
            elif change == 3:
                data[at:end] = rng.randbytes(end - at)
            else:
                piece = bytes(data[at:end])
                del data[at:end]
                to = rng.randrange(len(data) + 1)
                data[to:to] = piece
            if not data:
                return recording
        return bytes(data)

    # HTTP/2

    def frames(self, headers: Headers) -> bytes:
        """Frames in any order, hardly any of which is against the rules: those end the connection."""
        rng, encoder, said = self.rng, Encoder(), [GREETING]
        last, breaches = -1, rng.choice((0.0, 0.001, 0.01))
        for _ in range(rng.choice((20, 200, 2_000))):
            if rng.random() < 0.3:
                last += 2
                block = encoder.encode([(":path", f"/{SERVICE.full_name}/{self._method()}"), *headers])
                cut = rng.randrange(1, len(block)) if rng.random() < 0.1 else len(block)
                ended = rng.random() < 0.1
                said.append(frames.frame(frames.HEADERS, 4 * (cut == len(block)) | ended, last, block[:cut]))
                if cut < len(block):
                    said.append(frames.frame(frames.CONTINUATION, 4, last, block[cut:]))
                if not ended:
                    said.append(self._data(last))
            elif rng.random() < breaches:
                said.append(self._breach(last))
            elif last > 0:
                said.append(self._frame(last))
        return b"".join(said)

    def _data(self, stream: int) -> bytes:
        rng = self.rng
        body = self.framed(rng.randbytes(rng.choice((0, 1, 20, 3_000, 12_000))))
        padding = rng.randrange(50) if rng.random() < 0.1 else 0
        payload = bytes([padding]) + body + bytes(padding) if padding else body
        return frames.frame(frames.DATA, (rng.random() < 0.9) | 8 * bool(padding), stream, payload)

    def _frame(self, last: int) -> bytes:
        """One that may come at any time."""
        rng = self.rng
        stream = max(1, last - 2 * rng.choice((0, 0, 1, 20)))
        window = rng.choice((0, 1, 100, 65_535, 1 << 20))
        return rng.choice(
            (
                frames.frame(frames.PING, rng.choice((0, 1)), 0, rng.randbytes(8)),
                frames.settings({frames.INITIAL_WINDOW_SIZE: window, rng.randrange(7, 99): rng.randrange(1 << 32)}),
                frames.settings(
                    {frames.MAX_FRAME_SIZE: rng.choice((16_384, 1 << 20)), frames.HEADER_TABLE_SIZE: window}
                ),
                frames.window_update(rng.choice((0, stream)), rng.choice((1, 1, 1_000, 100_000))),
                frames.rst_stream(stream, rng.randrange(20)),
                frames.frame(frames.PRIORITY, 0, stream, rng.randbytes(5)),
                frames.frame(rng.randrange(0x0B, 0x100), rng.randrange(256), stream, rng.randbytes(rng.randrange(40))),
            )
        )

    def _breach(self, last: int) -> bytes:
        rng = self.rng
        stream = rng.choice((0, max(last, 1), last + 1, rng.randrange(1 << 31)))
        data = frames.frame(rng.choice(_KINDS), rng.randrange(256), stream, rng.randbytes(rng.choice((0, 4, 8, 3_000))))
        return data if rng.random() < 0.9 else data[: rng.randrange(len(data))]

    def header_blocks(self) -> bytes:
        """Header blocks that unpack into something else than a request."""
        rng, encoder = self.rng, Encoder()
        said = [GREETING]
        for number in range(rng.randrange(1, 20)):
            if rng.random() < 0.5:
                block = rng.randbytes(rng.randrange(2_000))
            else:
                fields = [
                    (rng.choice(_NAMES), rng.randbytes(rng.choice((0, 5, 5_000)))) for _ in range(rng.randrange(40))
                ]
                block = encoder.encode(fields, huffman=rng.random() < 0.5)
            cut = rng.randrange(len(block) + 1)
            said.append(frames.frame(frames.HEADERS, 0, 2 * number + 1, block[:cut]))
            said.append(frames.frame(frames.CONTINUATION, rng.choice((4, 4, 0)), 2 * number + 1, block[cut:]))
        return b"".join(said)

    # RPCs

    def calls(self, methods: Sequence[str], headers: Headers, make: Any) -> bytes:
        """One call of each method, with a message that `make` makes of its descriptor."""
        encoder, said = Encoder(), [GREETING]
        for number, method in enumerate(methods):
            block = encoder.encode([(":path", f"/{SERVICE.full_name}/{method}"), *headers])
            said.append(frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, block))
            body = self.framed(make(SERVICE.methods_by_name[method].input_type)[:15_000])
            said.append(frames.frame(frames.DATA, frames.END_STREAM, 2 * number + 1, body))
        return b"".join(said)

    def framed(self, message: bytes) -> bytes:
        rng = self.rng
        size = len(message) if rng.random() < 0.95 else rng.choice((0, len(message) + 1, 1 << 20, 0xFFFFFFFF))
        return struct.pack(">BI", rng.random() < 0.02, size) + message

    def message(self, descriptor: Descriptor, depth: int = 0) -> bytes:
        """A message with some of its fields, now and then of a wrong kind, cut off, or nested without end."""
        rng, said = self.rng, []
        if depth > 6:
            return b""
        fields = [field for field in descriptor.fields if rng.random() < 0.5]
        for field in fields:
            for _ in range(rng.choice((1, 1, 1, 2, 30)) if field.is_repeated else 1):
                said.append(self._field(field, depth))
        if rng.random() < 0.05:
            said.append(_tag(rng.randrange(1, 3_000), rng.randrange(8)) + rng.randbytes(5))
        data = b"".join(said)
        if rng.random() < 0.03:
            data = data[: rng.randrange(len(data) + 1)]
        return data if rng.random() < 0.99 else b"\x0a\x7e" * 3_000 + data

    def crowded(self, descriptor: Descriptor) -> bytes:
        """A message with one list of as many tiny entries as fit."""
        lists = [field for field in descriptor.fields if field.is_repeated]
        if not lists:
            return self.message(descriptor)
        field = self.rng.choice(lists)
        entry = self._field(field, 5)[:60]
        return (entry * (15_000 // max(1, len(entry))))[: 15_000 // max(1, len(entry)) * len(entry)]

    def large(self, headers: Headers, method: str, path: Sequence[FieldDescriptor], size: int) -> bytes:
        """A call whose message of `size` bytes is one list of tiny entries, or one text. path: the fields that lead to it."""
        last = path[-1]
        if last.is_repeated:
            entry = self._field(last, 5)[:60]
            message = entry * (size // max(1, len(entry)))
        else:
            text = self.rng.choice(_TEXTS)
            message = _tag(last.number, 2) + _sized(text * (size // len(text)))
        for number, field in reversed([*enumerate(path)]):
            around = b"".join(
                self._field(f, 5) for f in field.containing_type.fields if _name(f) in self._known and f != field
            )
            message = around + (_tag(field.number, 2) + _sized(message) if number < len(path) - 1 else message)
        block = Encoder().encode([(":path", f"/{SERVICE.full_name}/{method}"), *headers])
        body = struct.pack(">BI", 0, len(message)) + message
        pieces = [body[start : start + _PIECE] for start in range(0, len(body), _PIECE)]
        said = [frames.frame(frames.DATA, number == len(pieces), 1, piece) for number, piece in enumerate(pieces, 1)]
        return GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block) + b"".join(said)

    def _field(self, field: FieldDescriptor, depth: int) -> bytes:
        rng, kind = self.rng, field.type
        if rng.random() < 0.03:
            return _tag(field.number, rng.randrange(6)) + rng.randbytes(rng.randrange(12))
        if kind == FieldDescriptor.TYPE_MESSAGE:
            return _tag(field.number, 2) + _sized(self.message(field.message_type, depth + 1))
        if kind in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            known = self._known.get(_name(field), "").encode() if rng.random() < 0.8 else b""
            return _tag(field.number, 2) + _sized(known or self._text())
        if kind in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64):
            return _tag(field.number, 1) + struct.pack(
                "<d", rng.choice((0.0, 1.5, -1.0, 1e300, float("inf"), float("nan")))
            )
        if kind in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32):
            return _tag(field.number, 5) + struct.pack(
                "<f", rng.choice((0.0, 1.5, -1.0, 1e30, float("inf"), float("nan")))
            )
        return _tag(field.number, 0) + _varint(rng.choice((0, 1, 2, 3, 100, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)))

    def _text(self) -> bytes:
        rng = self.rng
        if rng.random() < 0.5:
            return rng.choice(self._words).encode()
        return rng.choice(
            (
                b"",
                b"x",
                b"a/../b",
                b"\0",
                b"\xff\xfe",
                "ü€😀".encode(),
                b"%s%n",
                b"*" * 300,
                b"'; drop table apps; --",
                rng.randbytes(20),
            )
        )

    def _method(self) -> str:
        return self.rng.choice(list(SERVICE.methods_by_name)) if self.rng.random() < 0.95 else "Nothing"


def large_fields(descriptor: Descriptor, depth: int = 0) -> Iterator[list[FieldDescriptor]]:
    """The ways to all lists and texts in a message, as far as its third level."""
    for field in descriptor.fields:
        if field.is_repeated or field.type == FieldDescriptor.TYPE_STRING:
            yield [field]
        elif field.type == FieldDescriptor.TYPE_MESSAGE and depth < 2:
            yield from ([field, *path] for path in large_fields(field.message_type, depth + 1))


def _name(field: FieldDescriptor) -> str:
    return str(field.name).removesuffix("s")


def attacks(headers: Headers) -> Iterator[tuple[str, bytes]]:
    """Old ones, each of which held the server up for minutes per megabyte, or its memory."""
    waiting = [opened(headers, number, "ContainerHeartbeat", b"") for number in range(400)]
    entries = struct.pack(">HIHI", frames.INITIAL_WINDOW_SIZE, 1, frames.INITIAL_WINDOW_SIZE, 2)
    yield (
        "174,000 settings in one frame, with 400 streams",
        GREETING + b"".join(waiting) + _frame(frames.SETTINGS, entries * 87_000),
    )
    many = frames.frame(frames.SETTINGS, 0, 0, entries * 30) * 3_000
    yield "many settings in many frames, with 400 streams", GREETING + b"".join(waiting) + many
    for name, value in (
        ("token id", {"x-modal-token-id": b"\xff" * 3_900}),
        ("path", {":path": b"/" + b"\xff" * 3_900}),
    ):
        yield (
            f"a {name} of 3,900 bytes, sent once and used again and again",
            GREETING + _repeated(headers, value, 20_000),
        )
    empty = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
    updates = frames.window_update(0, 1) * 20_000
    asked = b"".join(opened(headers, number, "ClientHello", b"") for number in range(400))
    yield "a window that grows by one, with 400 answers waiting", GREETING + empty + asked + updates
    yield (
        "streams opened and reset",
        GREETING
        + b"".join(
            opened(headers, number, "ClientHello", b"") + frames.rst_stream(2 * number + 1, 8)
            for number in range(3_000)
        ),
    )
    yield "sizes of the header table", GREETING + frames.frame(frames.HEADERS, 4, 1, b"\x3f\xe1\x1f\x20" * 4_000) * 60
    for name, kind, payload in (
        ("pings", frames.PING, bytes(8)),
        ("empty data", frames.DATA, b""),
        ("priorities", frames.PRIORITY, bytes(5)),
    ):
        yield name, GREETING + waiting[0] + frames.frame(kind, 0, 0 if kind == frames.PING else 1, payload) * 30_000


def _repeated(headers: Headers, more: Mapping[str, bytes], count: int) -> bytes:
    """A request with a long header, then requests of a few bytes that refer to it."""
    encoder = Encoder()
    given = {":path": f"/{SERVICE.full_name}/ClientHello", **dict(headers), **more}
    fields = sorted(given.items(), key=lambda field: field[0][0] != ":")  # those with a colon come first
    blocks = [encoder.encode(fields, huffman=False) for _ in range(3)]
    said = []
    for number in range(count):
        block = blocks[min(number, 2)]
        said.append(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 2 * number + 1, block))
    return b"".join(said)


def opened(headers: Headers, number: int, method: str, message: bytes) -> bytes:
    block = Encoder().encode([(":path", f"/{SERVICE.full_name}/{method}"), *headers])
    body = struct.pack(">BI", 0, len(message)) + message
    stream = 2 * number + 1
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block) + frames.frame(frames.DATA, 1, stream, body)


def _frame(kind: int, payload: bytes) -> bytes:
    return frames.frame(kind, 0, 0, payload)


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(value: int) -> bytes:
    said = bytearray()
    while value > 127:
        said.append(value & 127 | 128)
        value >>= 7
    return bytes([*said, value])

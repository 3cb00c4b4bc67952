"""Header decompression (HPACK, RFC 7541), for the few header shapes that gRPC clients send.

The general decoder of the `hpack` library took a quarter of the server's time per call; this one keeps entries as ready strings and steps
through the Huffman code by bytes. The static table is what the library's decoder says.

A field that may not be makes one request malformed, and the others of the connection go on (RFC 9113, 8.1.1). So such a field goes through all
of the decoding, with a value that no field can have: blocks after it may depend on its name and its place in the table.
"""

from __future__ import annotations

import re

from hpack import Decoder

from stoker.rpc.http2 import huffman
from stoker.rpc.http2.frames import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    PROTOCOL_ERROR,
    ConnectionFault,
    StreamFault,
)

_STATIC_SIZE = 61
_TABLE_BYTES = 4096  # the protocol's default, which we never raise
_ENTRY_OVERHEAD = 32
_MOST_SIZE_UPDATES = 2  # in one block, at its begin (RFC 7541, 4.2)

_NAME = re.compile(r":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_OF_CONNECTIONS = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
_PSEUDO = frozenset((":method", ":scheme", ":path", ":authority"))
_ONCE = frozenset(("te", "content-length", "host"))  # whose values must not contradict each other
_BAD = "\0"  # the value of a field that may not be

Headers = dict[str, str]


def check_request(headers: Headers) -> None:
    """Raises StreamFault when decoded headers cannot begin a request (RFC 9113, 8.2.2 and 8.3.1). CONNECT, which has no path, is none that could
    be answered here."""
    if not (headers.get(":method") and headers.get(":scheme") and headers.get(":path")):
        raise StreamFault(PROTOCOL_ERROR, "a request without method, scheme or path")
    if headers.get("te", "trailers") != "trailers":
        raise StreamFault(PROTOCOL_ERROR, "a header that concerns one connection of HTTP/1")
    host = headers.get("host")
    if host is not None and host.lower() != headers.get(":authority", host).lower():
        raise StreamFault(PROTOCOL_ERROR, "a request to two hosts")


def check_trailers(headers: Headers) -> None:
    """Raises StreamFault when decoded headers cannot end a request (RFC 9113, 8.1)."""
    if any(name[0] == ":" for name in headers):
        raise StreamFault(PROTOCOL_ERROR, "a pseudo-header after a request")


def content_length(headers: Headers) -> int:
    """Bytes of a request whose headers tell them. Raises StreamFault."""
    length = headers["content-length"]
    if not (length.isascii() and length.isdigit() and len(length) < 19):
        raise StreamFault(PROTOCOL_ERROR, "a content-length that cannot be")
    return int(length)


class HeaderDecoder:
    """Decodes the header blocks of one connection, in the order they come: each may change the table for the next."""

    def __init__(self, max_bytes: int, max_value: int) -> None:
        """max_bytes: of all names and values of one block together. max_value: characters of a value that are kept. A long value is sent once,
        and may then be part of any number of requests of a few bytes each, so nothing that is done with it may take long."""
        self._max_bytes = max_bytes
        self._max_value = max_value
        self._entries: list[tuple[str, str]] = []  # the dynamic table, newest last
        self._sizes: list[int] = []
        self._size = 0
        self._limit = _TABLE_BYTES

    def decode(self, block: bytes) -> Headers:
        """The headers by name; of repeated names the last counts, and values are cut. Raises ConnectionFault; StreamFault for names and values that
        may not be, after which the next block can be decoded."""
        try:
            headers = self._decode(block)
        except IndexError as error:
            raise ConnectionFault(COMPRESSION_ERROR, f"broken header compression: {error}") from error
        if _BAD in headers.values():
            raise StreamFault(PROTOCOL_ERROR, "a header that may not be")
        return headers

    def _decode(self, block: bytes) -> Headers:
        headers: Headers = {}
        position, end, total = self._resize(block), len(block), 0
        ordinary = False
        while position < end:
            first = block[position]
            if first & 0x80:  # a whole entry of the table
                if first == 0xFF:
                    index, position = _integer(block, position, 0x7F)
                else:
                    index, position = first & 0x7F, position + 1
                name, value = self._entry(index)
            elif first & 0x40:  # a literal that joins the table
                name, value, position = self._literal(block, position, 0x3F, remember=True)
            elif first & 0x20:
                raise ConnectionFault(COMPRESSION_ERROR, "a new size of the header table where none may be")
            else:  # a literal that does not
                name, value, position = self._literal(block, position, 0x0F)
            total += len(name) + len(value) + _ENTRY_OVERHEAD
            if total > self._max_bytes:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "the headers are too large")
            if name[0] != ":":
                ordinary = True
                before = headers.setdefault(name, value)
                if before != value and before != _BAD:
                    headers[name] = _BAD if name in _ONCE else value
            elif ordinary or name in headers or name not in _PSEUDO:
                headers[name] = _BAD  # unknown, repeated or late
            else:
                headers[name] = value
        return headers

    def _resize(self, block: bytes) -> int:
        """Follows new sizes of the table; the position after them."""
        position, updates = 0, 0
        while position < len(block) and block[position] & 0xE0 == 0x20:
            limit, position = _integer(block, position, 0x1F)
            updates += 1
            if limit > _TABLE_BYTES or updates > _MOST_SIZE_UPDATES:
                raise ConnectionFault(COMPRESSION_ERROR, "a header table larger than allowed, or resized too often")
            self._limit = limit
            self._evict()
        return position

    def _entry(self, index: int) -> tuple[str, str]:
        if index > _STATIC_SIZE:
            return self._entries[_STATIC_SIZE - index]  # the newest has the lowest index
        if index:
            return _STATIC[index - 1]
        raise ConnectionFault(COMPRESSION_ERROR, "no header has the index 0")

    def _literal(self, block: bytes, position: int, mask: int, *, remember: bool = False) -> tuple[str, str, int]:
        index = block[position] & mask
        if index == mask:
            index, position = _integer(block, position, mask)
        else:
            position += 1
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _string(block, position)
            if not name:
                raise ConnectionFault(PROTOCOL_ERROR, "a header without a name")
        value, position = _string(block, position)
        size = len(name) + len(value) + _ENTRY_OVERHEAD
        if not _may_be(name, value):
            value = _BAD
        elif len(value) > self._max_value:
            value = value[: self._max_value]
        if remember:
            self._remember(name, value, size)
        return name, value, position

    def _remember(self, name: str, value: str, size: int) -> None:
        self._entries.append((name, value))
        self._sizes.append(size)
        self._size += size
        if self._size > self._limit:
            self._evict()

    def _evict(self) -> None:
        gone = 0
        while self._size > self._limit:
            self._size -= self._sizes[gone]
            gone += 1
        del self._entries[:gone], self._sizes[:gone]


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer with a prefix of the bits in `mask`, and the position after it."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise ConnectionFault(COMPRESSION_ERROR, "an integer that is too long")


def _string(block: bytes, position: int) -> tuple[str, int]:
    coded = block[position] & 0x80
    length = block[position] & 0x7F
    if length == 0x7F:
        length, position = _integer(block, position, 0x7F)
    else:
        position += 1
    end = position + length
    if end > len(block):
        raise ConnectionFault(COMPRESSION_ERROR, "a string that is cut off")
    raw = block[position:end]
    # Latin-1 keeps one character per byte, as the sizes of table entries count bytes; what gRPC sends is ASCII.
    return huffman.decode(raw) if coded else raw.decode("latin-1"), end


def _may_be(name: str, value: str) -> bool:
    if not _NAME.fullmatch(name) or name in _OF_CONNECTIONS:
        return False
    # A pattern would take ten times as long.
    return not ("\0" in value or "\r" in value or "\n" in value) and value.strip(" \t") == value


def _static(index: int) -> tuple[str, str]:
    ((name, value),) = Decoder().decode(bytes((0x80 | index,)), raw=True)
    return name.decode(), _BAD if name.decode() in _OF_CONNECTIONS else value.decode()


_STATIC = tuple(_static(index) for index in range(1, _STATIC_SIZE + 1))

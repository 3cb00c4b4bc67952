"""Header decompression (HPACK, RFC 7541), for the few header shapes that gRPC clients send.

The general decoder of the `hpack` library took a quarter of the server's time per call; this one keeps entries as ready strings and steps
through the Huffman code by bytes instead of half bytes. The static table and the Huffman code are the library's.
"""

from __future__ import annotations

from hpack.exceptions import HPACKError
from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)
from hpack.table import HeaderTable

from stoker.protocol.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault

_STATIC = tuple((name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE)
_STATIC_SIZE = len(_STATIC)
_TABLE_BYTES = 4096  # the protocol's default, which we never raise
_ENTRY_OVERHEAD = 32

Headers = dict[str, str]


class HeaderDecoder:
    """Decodes the header blocks of one connection, in the order they come: each may change the table for the next."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of all names and values of one block together."""
        self._max_bytes = max_bytes
        self._entries: list[tuple[str, str]] = []  # the dynamic table, newest last
        self._sizes: list[int] = []
        self._size = 0
        self._limit = _TABLE_BYTES

    def decode(self, block: bytes) -> Headers:
        """The headers by name; of repeated names the last counts. Raises ConnectionFault."""
        try:
            return self._decode(block)
        except (IndexError, UnicodeDecodeError, HPACKError) as error:
            raise ConnectionFault(COMPRESSION_ERROR, f"broken header compression: {error}") from error

    def _decode(self, block: bytes) -> Headers:
        headers: Headers = {}
        position, end, total = 0, len(block), 0
        while position < end:
            first = block[position]
            if first & 0x80:  # a whole entry of the table
                if first == 0xFF:
                    index, position = _integer(block, position, 0x7F)
                else:
                    index, position = first & 0x7F, position + 1
                name, value = self._entry(index)
            elif first & 0x40:  # a literal that joins the table
                name, value, position = self._literal(block, position, 0x3F)
                self._remember(name, value)
            elif first & 0x20:  # a new size of the table
                limit, position = _integer(block, position, 0x1F)
                if limit > _TABLE_BYTES:
                    raise ConnectionFault(COMPRESSION_ERROR, "a header table larger than allowed")
                self._limit = limit
                self._evict()
                continue
            else:  # a literal that does not
                name, value, position = self._literal(block, position, 0x0F)
            total += len(name) + len(value) + _ENTRY_OVERHEAD
            if total > self._max_bytes:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "the headers are too large")
            headers[name] = value
        return headers

    def _entry(self, index: int) -> tuple[str, str]:
        if index > _STATIC_SIZE:
            return self._entries[_STATIC_SIZE - index]  # the newest has the lowest index
        if index:
            return _STATIC[index - 1]
        raise ConnectionFault(COMPRESSION_ERROR, "no header has the index 0")

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[str, str, int]:
        index = block[position] & mask
        if index == mask:
            index, position = _integer(block, position, mask)
        else:
            position += 1
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return name, value, position

    def _remember(self, name: str, value: str) -> None:
        size = len(name) + len(value) + _ENTRY_OVERHEAD
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
    huffman = block[position] & 0x80
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
    return _huffman(raw) if huffman else raw.decode("latin-1"), end


def _huffman(raw: bytes) -> str:
    """Characters of a Huffman-coded string."""
    state, complete, parts = 0, True, []
    for byte in raw:
        key = state << 8 | byte
        step = _steps.get(key)
        if step is None:
            step = _steps[key] = _step(state, byte)
        state, complete, text = step
        parts.append(text)
    if not complete:
        raise ConnectionFault(COMPRESSION_ERROR, "a Huffman code that is cut off")
    return "".join(parts)


_steps: dict[int, tuple[int, bool, str]] = {}
"""What `_step` gave for a state and a byte: some hundred entries for what gRPC sends, 65,536 at most."""


def _step(state: int, byte: int) -> tuple[int, bool, str]:
    """Decodes one byte: the state after it, whether the string may end there, and the characters it completes."""
    text, flags = "", 0
    for nibble in (byte >> 4, byte & 0x0F):
        state, flags, character = HUFFMAN_TABLE[state * 16 + nibble]
        if flags & HUFFMAN_FAIL:
            raise ConnectionFault(COMPRESSION_ERROR, "a broken Huffman code")
        if flags & HUFFMAN_EMIT_SYMBOL:
            text += chr(character)
    return state, bool(flags & HUFFMAN_COMPLETE), text

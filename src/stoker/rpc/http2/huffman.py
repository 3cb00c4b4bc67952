"""The Huffman code of header strings (RFC 7541, appendix B), decoded by bytes instead of bits: the usual decoders took most of the time of a
request's headers."""

from __future__ import annotations

from stoker.rpc.http2.frames import COMPRESSION_ERROR, ConnectionFault

# Bits of the code of each character, and of the end of a string. The code is canonical: shorter ones come first, and those of one length in
# the order of their characters. So the lengths are all there is to know.
_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
)  # fmt: skip
_END_OF_STRING = 256
_MOST_PADDING = 7  # bits after the last character, all of them one

_Step = tuple[
    int, bool, str
]  # the state after a byte, whether the string may end there, and the characters it completes
_Node = list[int]  # what a bit leads to: another node, or the complement of a character


def decode(raw: bytes) -> str:
    """The characters of a string. Raises ConnectionFault."""
    state, complete, parts = 0, True, []
    for byte in raw:
        state, complete, text = (_steps[state] or _steps_of(state))[byte]
        if text:
            parts.append(text)
    if not complete:
        raise ConnectionFault(COMPRESSION_ERROR, "a Huffman code that is cut off")
    return "".join(parts)


def _tree() -> list[_Node]:
    """The inner nodes of the code's tree; the first is its root."""
    nodes, code, before = [[0, 0]], 0, 0
    for length, character in sorted((length, character) for character, length in enumerate(_LENGTHS)):
        code, before = code << (length - before), length
        node = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if not nodes[node][bit]:
                nodes.append([0, 0])
                nodes[node][bit] = len(nodes) - 1
            node = nodes[node][bit]
        nodes[node][code & 1] = ~character
        code += 1
    return nodes


def _ends() -> frozenset[int]:
    """The nodes at which a string may end."""
    node, found = 0, [0]
    for _ in range(_MOST_PADDING):
        node = _nodes[node][1]
        found.append(node)
    return frozenset(found)


def _steps_of(state: int) -> list[_Step]:
    _steps[state] = [_step(state, byte) for byte in range(256)]
    return _steps[state]


def _step(node: int, byte: int) -> _Step:
    text = ""
    for shift in range(7, -1, -1):
        node = _nodes[node][byte >> shift & 1]
        if node == ~_END_OF_STRING:
            return _BROKEN
        if node < 0:
            text += chr(~node)
            node = 0
    return node, node in _string_ends, text


_nodes = _tree()
_string_ends = _ends()
_BROKEN: _Step = (len(_nodes), False, "")  # a state that leads nowhere else
_steps: list[list[_Step]] = [*([] for _ in _nodes), [_BROKEN] * 256]
"""For each state its 256 steps; empty until one is needed."""

"""Digests of a file by blocks, so that any part of it can be checked without reading the rest."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from stoker.errors import Damaged

DIGEST_BYTES = 32  # SHA-256
_SMALLEST, _MOST_BLOCKS = 1 << 20, 4096
_ZEROS = bytes(1 << 16)
_HELD = 1 << 20  # bytes of a block that are kept back until its digest is known to be right


def block_bytes(size: int) -> int:
    """The length of the blocks of a file of `size` bytes: a power of two, 1 MiB up to 4 GiB."""
    block = _SMALLEST
    while block * _MOST_BLOCKS < size:
        block *= 2
    return block


class Sums(Protocol):
    """Digests that are made as bytes pass."""

    def update(self, data: bytes) -> None: ...

    def digests(self) -> bytes: ...


class BlockSums:
    """The digests of the blocks of a stream, made as its bytes pass."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._left = block
        self._hash = hashlib.sha256()
        self._done = bytearray()

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            part, view = view[: self._left], view[self._left :]
            self._add(part)
            self._left -= len(part)
            if not self._left:
                self._end_block()

    def digests(self) -> bytes:
        """Those of all blocks, one after the other; that of the last one, when it is shorter, too. Nothing more may follow."""
        if self._left < self._block:
            self._end_block()
        return bytes(self._done)

    def _add(self, part: memoryview) -> None:
        """Of one block."""
        self._hash.update(part)

    def _end_block(self) -> None:
        self._done += self._hash.digest()
        self._hash, self._left = hashlib.sha256(), self._block


async def verified(
    pieces: AsyncIterator[bytes], sums: bytes, *, size: int, start: int, end: int, damaged: Callable[[str], Damaged]
) -> AsyncIterator[bytes]:
    """The same bytes; none of a block up to 1 MiB, and not the last MiB of a larger one, before the digest of the block was found right.

    sums: as `BlockSums.digests` gives them for the file of `size` bytes. start, end: which part of it the pieces are; whole blocks, but for
    the end of the file. damaged: makes the error, from what is wrong."""
    block, position = block_bytes(size), start
    held: deque[bytes] = deque()
    held_bytes = 0
    digest, left = hashlib.sha256(), min(block, end - start)
    async for piece in pieces:
        rest = memoryview(piece)
        while rest:
            if not left:
                raise damaged(f"it is longer than its {size} bytes")
            part, rest = bytes(rest[:left]), rest[left:]
            await asyncio.to_thread(digest.update, part)
            position, left = position + len(part), left - len(part)
            held.append(part)
            held_bytes += len(part)
            if left:
                release = held_bytes - _HELD
            else:
                index = (position - 1) // block
                if digest.digest() != sums[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
                    raise damaged(
                        f"the block of {block >> 20} MiB at {index * block} has another SHA-256 than was stored"
                    )
                digest, left, release = hashlib.sha256(), min(block, end - position), held_bytes
            while held and len(held[0]) <= release:
                release -= len(held[0])
                held_bytes -= len(held[0])
                yield held.popleft()
    if position < end:
        raise damaged(f"it ends after {position} of its {size} bytes")


class TrimmedSums(BlockSums):
    """The digests of the blocks of a stream, each without its trailing zeros: those by which clients name the blocks of a file."""

    def __init__(self, block: int) -> None:
        super().__init__(block)
        self._zeros = 0  # at the end of what came of this block

    def _add(self, part: memoryview) -> None:
        content = bytes(part).rstrip(b"\0")
        if content:
            while self._zeros:
                some = min(self._zeros, len(_ZEROS))
                self._hash.update(_ZEROS[:some])
                self._zeros -= some
            self._hash.update(content)
        self._zeros += len(part) - len(content)

    def _end_block(self) -> None:
        super()._end_block()
        self._zeros = 0

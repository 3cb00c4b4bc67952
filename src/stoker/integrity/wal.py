"""SQLite's write-ahead log: whether all that was committed to it can be read back.

SQLite itself takes the log for ended at the first frame whose checksum is wrong, and says nothing: that is right for what a crash cut off, and
silent loss when the disk has changed a frame with others behind it. The format is that of https://www.sqlite.org/fileformat2.html#walformat."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAGIC = 0x377F0682  # and one more where checksums are of big-endian words
_HEAD = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class WalState:
    """`committed`: frames that SQLite reads back. `lost`: frames after these that belong to the same log, and of which commits are lost.
    `problem`: what is wrong, as a part of a sentence; "" when nothing is."""

    committed: int = 0
    lost: int = 0
    problem: str = ""


def examine(path: Path) -> WalState:
    """The log beside a database, which nobody has open. Blocks. Raises OSError."""
    try:
        with path.open("rb") as file:
            return _examine(file)
    except FileNotFoundError:
        return WalState()


def _examine(file: BinaryIO) -> WalState:
    head = file.read(_HEAD.size)
    if not head:
        return WalState()
    if len(head) < _HEAD.size:
        return WalState(problem="it ends within its head")
    magic, _, page_bytes, _, salt1, salt2, *sums = _HEAD.unpack(head)
    if magic & ~1 != _MAGIC or not 512 <= page_bytes <= 65_536:
        return WalState(problem="its head is not that of such a log")
    order = ">" if magic & 1 else "<"
    running = _checksum(head[:24], (0, 0), order)
    if running != tuple(sums):
        return WalState(problem="the checksum of its head is wrong")
    committed = read = lost = 0
    broken = False
    for frame, page in _frames(file, page_bytes):
        _, size_after, own1, own2, *sums = _FRAME.unpack(frame)
        if (own1, own2) != (salt1, salt2):
            break  # what is left of an earlier log
        if not broken:
            running = _checksum(page, _checksum(frame[:8], running, order), order)
            broken = running != tuple(sums)
        if broken:
            lost += 1
            continue
        read += 1
        committed = read if size_after else committed
    if broken and lost > 1:
        return WalState(committed, lost, f"its frame {read + 1} is damaged, so that {lost} frames are not read")
    return WalState(committed)


def _frames(file: BinaryIO, page_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    while len(frame := file.read(_FRAME.size)) == _FRAME.size:
        page = file.read(page_bytes)
        if len(page) < page_bytes:
            return
        yield frame, page


def _checksum(data: bytes, start: Iterable[int], order: str) -> tuple[int, int]:
    first, second = start
    for one, two in struct.iter_unpack(f"{order}2I", data):
        first = (first + one + second) & _WORD
        second = (second + two + first) & _WORD
    return first, second

"""Reading whole files for their digests: past the page cache where that can be, not faster than is good for others, and until it is called off."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_PIECE = 4 << 20
_ENTRY = 64 << 10  # bytes that could be read in the time that a file or a directory takes beside its content


class CalledOff(Exception):
    """The reader was told to stop."""


@dataclass
class Pace:
    """bytes_a_second: 0 for as fast as it goes. direct: from the disk, though the page cache has it, and without filling that. `read` counts the
    bytes read so far."""

    bytes_a_second: float = 0.0
    direct: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    read: int = 0
    _entries: int = 0
    _began: float = field(default_factory=time.monotonic)

    def count(self, size: int) -> None:
        """So many bytes were read: waits a little. Blocks. Raises CalledOff."""
        self.read += size
        self._wait()

    def entry(self) -> None:
        """A file or a directory was come to: as `count`."""
        self._entries += 1
        self._wait()

    def _wait(self) -> None:
        done = self.read + self._entries * _ENTRY
        wait = self._began + done / self.bytes_a_second - time.monotonic() if self.bytes_a_second else 0.0
        if self.stop.wait(max(0.0, wait)) if wait > 0 else self.stop.is_set():
            raise CalledOff


def pieces(path: Path, pace: Pace) -> Iterator[memoryview]:
    """The content of a file; each piece is only good until the next one. Blocks. Raises OSError, CalledOff."""
    file = _open(path, pace.direct)
    try:
        size = os.fstat(file).st_size
        with mmap.mmap(-1, _room(size)) as buffer, memoryview(buffer) as view:
            while size > 0 and (count := _read(file, view)):
                size -= count
                pace.count(count)
                with view[:count] as piece:
                    yield piece
    finally:
        os.close(file)


def sha256(path: Path, pace: Pace) -> str:
    """Hexadecimal digest of a file. Blocks. Raises OSError, CalledOff."""
    digest = hashlib.sha256()
    for piece in pieces(path, pace):
        digest.update(piece)
    return digest.hexdigest()


def _room(size: int) -> int:
    """Bytes for the pieces of a file of so many: whole pages. A direct read makes all of them ready first, however little it is to read."""
    return min(_PIECE, size // mmap.PAGESIZE * mmap.PAGESIZE + mmap.PAGESIZE)


def _open(path: Path, direct: bool) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    if direct and hasattr(os, "O_DIRECT"):
        try:
            return os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system has nothing of the kind
                raise
    return os.open(path, flags)


def _read(file: int, into: memoryview) -> int:
    try:
        return os.readv(file, [into])
    except OSError as error:
        flags = fcntl.fcntl(file, fcntl.F_GETFL)
        if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
            raise
        fcntl.fcntl(file, fcntl.F_SETFL, flags & ~os.O_DIRECT)  # not at this place, or not in this way
        return os.readv(file, [into])

"""Bytes on their way in: streamed to a file, hashed as they pass, and kept whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from stoker.aio.cancelling import finished
from stoker.errors import InvalidArgument, ResourceExhausted
from stoker.integrity.blocks import Sums

_NAME = ".incoming-"
CHUNK = 256 << 10  # times a hundred transfers at once


class Incoming:
    """A temporary file in `directory`, used as a context manager: gone at its end unless `move_to` was called."""

    def __init__(
        self,
        directory: Path,
        *,
        limit: int,
        algorithm: str,
        mode: int = 0o600,
        sums: Sums | None = None,
        sync: bool = False,
    ) -> None:
        """limit: bytes that may come. algorithm: as in hashlib. sums: gets all bytes, too. sync: `settle` waits for the disk."""
        self.path = directory / f"{_NAME}{secrets.token_hex(12)}"
        self.size = 0
        self._limit = limit
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._mode = mode
        self._sums = sums
        self._sync = sync
        self._file: Any = None

    def __enter__(self) -> Incoming:
        with disk_errors():
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, self._mode)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    async def fill(self, chunks: AsyncIterator[bytes]) -> None:
        """Takes all of a stream; memory is bounded by one chunk of it and 256 KiB. Raises InvalidArgument when it is too long."""
        waiting: list[bytes] = []
        amount = 0
        async for chunk in chunks:
            waiting.append(chunk)
            amount += len(chunk)
            if amount >= CHUNK:
                await finished(asyncio.to_thread(self.write, b"".join(waiting)))
                waiting, amount = [], 0
        await finished(asyncio.to_thread(self.write, b"".join(waiting)))

    def write(self, data: bytes) -> None:
        """Blocks. Raises InvalidArgument when more comes than announced, ResourceExhausted when the disk is full."""
        self.size += len(data)
        if self.size > self._limit:
            raise InvalidArgument(f"The upload is longer than the {self._limit} bytes that were announced.")
        self._hash.update(data)
        if self._sums is not None:
            self._sums.update(data)
        with disk_errors():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def fileno(self) -> int:
        number: int = self._file.fileno()
        return number

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def move_to(self, target: Path) -> None:
        """Gives the complete file its name, replacing what has it."""
        os.replace(self.path, target)

    async def settle(self, target: Path) -> None:
        """The same; and with `sync` the file is on the disk before, and has its name there afterwards."""
        if not self._sync:
            self.move_to(target)
            return

        def work() -> None:
            os.fsync(self._file.fileno())
            move(self.path, target, sync=True)

        await finished(asyncio.to_thread(work))


def move(source: Path, target: Path, *, sync: bool) -> None:
    """Gives a complete file another name, replacing what has it; with `sync` it has it after a power cut, too."""
    os.replace(source, target)
    if sync:
        sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """The names in a directory are on the disk. Blocks."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_incoming(directory: Path) -> None:
    """Removes what a killed server left unfinished. Only when nothing is on its way to this directory."""
    for path in directory.glob(f"{_NAME}*"):
        path.unlink(missing_ok=True)


def copy_range(source: int, target: int, length: int, *, source_offset: int = 0, target_offset: int = 0) -> None:
    """Copies bytes between two open files inside the kernel where it can. Raises ResourceExhausted when the disk is full."""
    with disk_errors():
        while length > 0:
            copied = _copy_some(source, target, min(length, 1 << 30), source_offset, target_offset)
            if copied == 0:
                return  # the source is shorter than expected; what is missing stays as it was
            length -= copied
            source_offset += copied
            target_offset += copied


def file_digest(
    path: Path, algorithm: str, start: int = 0, length: int | None = None, *, sums: Sums | None = None
) -> str:
    """Hexadecimal digest of a file, or of `length` bytes from `start`. sums: gets these bytes, too. Blocks."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = length if length is not None else os.fstat(file.fileno()).st_size
        while left > 0:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                break
            digest.update(chunk)
            if sums is not None:
                sums.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk is for people to deal with: who uploads shall see the error at once."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(
                "The server's disk is full, so nothing can be stored. Free some space, then repeat what you did.",
                0.0,
            ) from None
        raise


def _copy_some(source: int, target: int, length: int, source_offset: int, target_offset: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, length, source_offset, target_offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                raise
    data = os.pread(source, min(length, CHUNK), source_offset)
    return os.pwrite(target, data, target_offset) if data else 0

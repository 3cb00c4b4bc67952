"""Files that are being uploaded in blocks: each verified block goes straight to its place, so finishing costs one rename.

An upload is known by a key computed from what the file will be, so an interrupted one goes on where it stopped, also after a restart of
the server. Beside the file (`<key>.data`, sparse) lies one byte per block (`<key>.seen`) that says how far it is. Of a file of one block
there is nothing until it is whole: there may be a hundred thousand of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

from stoker.aio.cancelling import finished
from stoker.errors import FailedPrecondition, InvalidArgument, Unavailable
from stoker.store.filetree import FileTree, parts_of
from stoker.store.incoming import Incoming, disk_errors

BLOCK_BYTES = 8 << 20
ZEROS = hashlib.sha256(b"").hexdigest()
"""The digest of a block without its trailing zeros when it has nothing else: such a block is a hole."""

_ALONE = "one-"  # begins the keys of files of one block
_REMEMBERED = 10_000
_PIECE = 1 << 20  # bytes that are hashed and written at once
_MISSING, _THERE, _SPOILT = (
    0,
    1,
    2,
)  # what a byte of `<key>.seen` says; spoilt: something was written, but not the whole block


@dataclass(frozen=True)
class FilePlan:
    """A file as announced: `size` bytes in blocks of 8 MiB, each known by its SHA-256 (hexadecimal) without trailing zeros."""

    path: str
    size: int
    mode: int
    blocks: tuple[str, ...]

    def key(self) -> str:
        document = json.dumps([self.path, self.size, self.mode, self.blocks]).encode()
        digest = hashlib.sha256(document).hexdigest()[:40]
        return _ALONE + digest if len(self.blocks) == 1 and self.blocks[0] != ZEROS else digest

    def check(self) -> None:
        """Raises InvalidArgument."""
        if len(self.blocks) != -(-self.size // BLOCK_BYTES) or self.size >= 1 << 43:
            raise InvalidArgument(
                f"The file {self.path!r} of {self.size} bytes cannot have {len(self.blocks)} blocks of {BLOCK_BYTES} bytes."
            )


@dataclass(frozen=True)
class _Identity:
    """Differs as soon as a file is replaced or changed in any way: nobody can set the change time."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result | None) -> _Identity | None:
        return None if status is None else cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class _Block:
    """The place of one block in a file that is being uploaded; a context manager. All methods block the thread."""

    def __init__(self, data: Path, marks: int, index: int, *, spoilt: bool) -> None:
        """marks: the open `.seen`, which is closed with the block. spoilt: an earlier attempt wrote into this place."""
        self._marks = marks
        self._index = index
        self._spoilt = spoilt
        self._hash = hashlib.sha256()
        self._file = os.open(data, os.O_WRONLY | os.O_CLOEXEC)
        self._start = self._position = index * BLOCK_BYTES
        self._end = min(self._start + BLOCK_BYTES, os.fstat(self._file).st_size)

    def __enter__(self) -> _Block:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        os.close(self._marks)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Raises InvalidArgument when the block becomes too long, ResourceExhausted when the disk is full."""
        if self._position == self._start and not self._spoilt:
            self._mark(_SPOILT)
        for piece in pieces:
            self._hash.update(piece)
        self._put(pieces)

    def finish(self, pieces: Sequence[bytes], digest: str) -> None:
        """Writes the last pieces. Raises what `write` does, and InvalidArgument when the block has another digest."""
        for piece in pieces:
            self._hash.update(piece)
        _check(self._hash.hexdigest(), digest)
        self._put(pieces)
        if self._spoilt:
            self._put([bytes(self._end - self._position)])
        self._mark(_THERE)

    def _put(self, pieces: Sequence[bytes]) -> None:
        if self._position + sum(map(len, pieces)) > self._end:
            raise InvalidArgument(f"The block is longer than the {self._end - self._start} bytes that were announced.")
        with disk_errors():
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    written = os.pwrite(self._file, view, self._position)
                    self._position += written
                    view = view[written:]

    def _mark(self, mark: int) -> None:
        with disk_errors():
            os.pwrite(self._marks, bytes([mark]), self._index)


class AssemblyStore:
    """The uploads to one tree. `directory` must lie on the same file system as the tree."""

    def __init__(self, directory: Path, tree: FileTree, *, sync: bool = False) -> None:
        """sync: a file is on the disk before it is in its place, so that it survives a power cut."""
        self._directory = directory
        self._tree = tree
        self._sync = sync
        self._lock = threading.Lock()  # between putting a block in its place and moving the file away
        self._published: OrderedDict[str, _Identity | None] = OrderedDict()
        self._turns: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()

    def prepare(self, plan: FilePlan) -> list[int]:
        """Starts or continues an upload; returns the indices of the blocks that are missing. Blocks the thread."""
        key = plan.key()
        with self._lock, disk_errors():
            if self._in_place(key, plan):
                return []
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_remains(key)
            data, seen = self._files(key)
            if key.startswith(_ALONE):
                return [] if data.exists() else [0]
            if not data.exists():
                temporary = data.with_suffix(".new")
                with temporary.open("wb") as file:
                    file.truncate(plan.size)
                seen.write_bytes(bytes(_THERE if digest == ZEROS else _MISSING for digest in plan.blocks))
                temporary.rename(data)
            for path in (data, seen):
                os.utime(path)  # an upload that goes on is not abandoned
            return [index for index, there in enumerate(seen.read_bytes()) if there != _THERE]

    def publish(self, plan: FilePlan, *, overwrite: bool) -> os.stat_result | None:
        """Moves a complete file to its place in the tree; its status there, None when it was there already. Raises what `FileTree.publish`
        raises, and Unavailable when another upload of the same file has begun since `prepare` found this one complete. Blocks the thread."""
        key, parts = plan.key(), parts_of(plan.path)
        with self._lock:
            if self._in_place(key, plan):
                return None
            data, seen = self._files(key)
            if not self._is_complete(key):
                raise Unavailable(
                    f"The file {plan.path!r} was uploaded and changed by others meanwhile. Send it again."
                )
            data.chmod(plan.mode)
            if key.startswith(_ALONE):
                _restore_zeros(data, plan)
            else:
                os.utime(data)
            if self._sync:
                _sync_file(data)
            self._tree.publish(data, parts, overwrite=overwrite, sync=self._sync)
            if not key.startswith(_ALONE):
                seen.unlink(missing_ok=True)
            status = self._tree.stat(parts)
            self._published[key] = _Identity.of(status)
            if len(self._published) > _REMEMBERED:
                self._published.popitem(last=False)
            return status

    async def receive(self, digest: str, chunks: AsyncIterator[bytes], key: str, index: int) -> None:
        """Takes one block as a stream, without its trailing zeros. Raises InvalidArgument, FailedPrecondition, ResourceExhausted."""
        async with self._turn(key, index):
            if key.startswith(_ALONE):
                with Incoming(self._directory, limit=BLOCK_BYTES, algorithm="sha256") as incoming:
                    await incoming.fill(chunks)
                    _check(incoming.hexdigest(), digest)
                    incoming.move_to(self._files(key)[0])
                return
            pieces = await _take(chunks)
            block = await asyncio.to_thread(self._open, key, index)
            if block is None:  # somebody else was faster
                async for _ in chunks:
                    pass
                return
            with block:
                while pieces:
                    await finished(asyncio.to_thread(block.write, pieces))
                    pieces = await _take(chunks)
                await finished(asyncio.to_thread(block.finish, [], digest))

    async def adopt(self, digest: str, source: BinaryIO, offset: int, key: str, index: int) -> bool:
        """Takes a block from `offset` of an open file if it is there. Raises ResourceExhausted."""

        def work() -> bool:
            content = os.pread(source.fileno(), BLOCK_BYTES, offset).rstrip(b"\0")
            if hashlib.sha256(content).hexdigest() != digest:
                return False
            if key.startswith(_ALONE):
                with Incoming(self._directory, limit=BLOCK_BYTES, algorithm="sha256") as incoming:
                    incoming.write(content)
                    incoming.move_to(self._files(key)[0])
            elif (block := self._open(key, index)) is not None:
                with block:
                    block.finish([content], digest)
            return True

        async with self._turn(key, index):
            return await asyncio.to_thread(work)

    def clear(self) -> None:
        """Gives up all uploads. Blocks the thread."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def sweep(self, older_than_seconds: float) -> None:
        """Removes what was abandoned. Blocks the thread."""
        oldest = time.time() - older_than_seconds
        with suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.path)

    def _turn(self, key: str, index: int) -> asyncio.Lock:
        """Held by whoever writes a block, so that two never write into each other's."""
        return self._turns.setdefault((key, index), asyncio.Lock())

    def _open(self, key: str, index: int) -> _Block | None:
        """A block to be written; None when it is there. Raises FailedPrecondition, InvalidArgument."""
        data, seen = self._files(key)
        with self._lock:
            try:
                marks = os.open(seen, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                if key in self._published:
                    return None
                raise FailedPrecondition("This upload is over or was given up. Start it again.") from None
            try:
                mark = os.pread(marks, 1, index)
                if mark in (b"", bytes([_THERE])):
                    if not mark:
                        raise InvalidArgument(f"The file has no block {index}.")
                    os.close(marks)
                    return None
                return _Block(data, marks, index, spoilt=mark == bytes([_SPOILT]))
            except BaseException:
                os.close(marks)
                raise

    def _in_place(self, key: str, plan: FilePlan) -> bool:
        """Whether this very upload was finished before and nobody has touched the file since."""
        known = self._published.get(key)
        return known is not None and known == _Identity.of(self._tree.stat(parts_of(plan.path)))

    def _is_complete(self, key: str) -> bool:
        data, seen = self._files(key)
        if key.startswith(_ALONE):
            return data.exists()
        return data.exists() and seen.exists() and not seen.read_bytes().strip(bytes([_THERE]))

    def _remove_remains(self, key: str) -> None:
        """Removes what a kill between two steps left: a file that is in its place already and has this name too, so that whoever writes to
        the one changes the other, or a file without its marks."""
        data, seen = self._files(key)
        with suppress(FileNotFoundError):
            if data.stat().st_nlink > 1 or not (key.startswith(_ALONE) or seen.exists()):
                data.unlink()

    def _files(self, key: str) -> tuple[Path, Path]:
        return self._directory / f"{key}.data", self._directory / f"{key}.seen"


def _check(found: str, digest: str) -> None:
    if found != digest:
        raise InvalidArgument(
            f"The block has SHA-256 {found}, not {digest} as announced; the file may have changed while it was uploaded. Try again."
        )


def _sync_file(data: Path) -> None:
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _restore_zeros(data: Path, plan: FilePlan) -> None:
    size = data.stat().st_size
    if size > plan.size:
        data.unlink()
        raise InvalidArgument(f"The block of the file {plan.path!r} is longer than its {plan.size} bytes.")
    if size < plan.size:
        os.truncate(data, plan.size)


async def _take(chunks: AsyncIterator[bytes]) -> list[bytes]:
    """The next MiB or more of a stream, less only at its end."""
    pieces: list[bytes] = []
    amount = 0
    async for chunk in chunks:
        pieces.append(chunk)
        amount += len(chunk)
        if amount >= _PIECE:
            break
    return pieces

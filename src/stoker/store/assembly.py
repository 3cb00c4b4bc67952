"""Files that are being uploaded in blocks: each verified block goes straight to its place, so finishing costs one rename.

An upload is known by a key computed from what the file will be, so an interrupted one goes on where it stopped, also after a restart of
the server. Beside the file (`<key>.data`, sparse) lies one byte per block (`<key>.seen`), set once the block is in place.
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
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.store.filetree import FileTree, parts_of
from stoker.store.incoming import Incoming, copy_range, disk_errors

BLOCK_BYTES = 8 << 20
ZEROS = hashlib.sha256(b"").hexdigest()
"""The digest of a block without its trailing zeros when it has nothing else: such a block is a hole."""

_REMEMBERED = 10_000


@dataclass(frozen=True)
class FilePlan:
    """A file as announced: `size` bytes in blocks of 8 MiB, each known by its SHA-256 (hexadecimal) without trailing zeros."""

    path: str
    size: int
    mode: int
    blocks: tuple[str, ...]

    def key(self) -> str:
        document = json.dumps([self.path, self.size, self.mode, self.blocks]).encode()
        return hashlib.sha256(document).hexdigest()[:40]

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


class AssemblyStore:
    """The uploads to one tree. `directory` must lie on the same file system as the tree."""

    def __init__(self, directory: Path, tree: FileTree) -> None:
        self._directory = directory
        self._tree = tree
        self._lock = threading.Lock()  # between putting a block in its place and moving the file away
        self._published: OrderedDict[str, _Identity | None] = OrderedDict()

    def prepare(self, plan: FilePlan) -> list[int]:
        """Starts or continues an upload; returns the indices of the blocks that are missing. Blocks the thread."""
        key = plan.key()
        with self._lock, disk_errors():
            if self._in_place(key, plan):
                return []
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            data, seen = self._files(key)
            if not data.exists():
                temporary = data.with_suffix(".new")
                with temporary.open("wb") as file:
                    file.truncate(plan.size)
                seen.write_bytes(bytes(digest == ZEROS for digest in plan.blocks))
                temporary.rename(data)
            for path in (data, seen):
                os.utime(path)  # an upload that goes on is not abandoned
            return [index for index, there in enumerate(seen.read_bytes()) if not there]

    def publish(self, plan: FilePlan, *, overwrite: bool) -> None:
        """Moves a complete file to its place in the tree. Raises what `FileTree.publish` raises. Blocks the thread."""
        key, parts = plan.key(), parts_of(plan.path)
        with self._lock:
            if self._in_place(key, plan):
                return
            data, seen = self._files(key)
            data.chmod(plan.mode)
            os.utime(data)
            self._tree.publish(data, parts, overwrite=overwrite)
            seen.unlink(missing_ok=True)
            self._published[key] = _Identity.of(self._tree.stat(parts))
            if len(self._published) > _REMEMBERED:
                self._published.popitem(last=False)

    async def receive(self, digest: str, chunks: AsyncIterator[bytes], key: str, index: int) -> None:
        """Takes one block as a stream, without its trailing zeros. Raises InvalidArgument, FailedPrecondition, ResourceExhausted."""
        data, _ = self._files(key)
        try:
            room = min(BLOCK_BYTES, data.stat().st_size - index * BLOCK_BYTES)
        except FileNotFoundError:
            raise FailedPrecondition("This upload is over or was given up. Start it again.") from None
        if room < 0:
            raise InvalidArgument(f"The file has no block {index}.")
        with Incoming(self._directory, limit=room, algorithm="sha256") as incoming:
            await incoming.fill(chunks)
            if incoming.hexdigest() != digest:
                raise InvalidArgument(
                    f"The block has SHA-256 {incoming.hexdigest()}, not {digest} as announced; the file may have changed "
                    "while it was uploaded. Try again."
                )
            await asyncio.to_thread(self._put, incoming, key, index)

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

    def _put(self, incoming: Incoming, key: str, index: int) -> None:
        data, seen = self._files(key)
        with self._lock:
            try:
                target = os.open(data, os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return  # someone who uploads the same file has just finished it
            try:
                copy_range(incoming.fileno(), target, incoming.size, target_offset=index * BLOCK_BYTES)
            finally:
                os.close(target)
            marks = os.open(seen, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(marks, b"\1", index)
            finally:
                os.close(marks)

    def _in_place(self, key: str, plan: FilePlan) -> bool:
        """Whether this very upload was finished before and nobody has touched the file since."""
        known = self._published.get(key)
        return known is not None and known == _Identity.of(self._tree.stat(parts_of(plan.path)))

    def _files(self, key: str) -> tuple[Path, Path]:
        return self._directory / f"{key}.data", self._directory / f"{key}.seen"

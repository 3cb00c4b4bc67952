"""The files of volumes: listed, uploaded, downloaded, removed and copied by clients."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from stoker.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, StokerError
from stoker.integrity.blocks import TrimmedSums
from stoker.services.files.block_places import BlockPlaces
from stoker.services.files.transfer import PREFIX
from stoker.services.files.volume_sums import FileSums
from stoker.services.files.volumes import Volumes
from stoker.store.assembly import BLOCK_BYTES, FilePlan
from stoker.store.contents import Contents
from stoker.store.filetree import Entry, parts_of
from stoker.store.incoming import Incoming
from stoker.store.treecopy import TreeCopy

__all__ = ["BlockReader", "Download", "Entry", "FilePlan", "MissingBlock", "VolumeFiles"]

_BATCH = 500
_CHUNK = 1 << 20  # a client reads as many blocks at once as it has processors
_AT_ONCE = 256 << 10  # so much is read as the file is opened, so that a small file costs one turn of a thread
_VAIN_TRIES = 4  # blocks of a file that are looked for elsewhere before it counts as new


@dataclass(frozen=True)
class MissingBlock:
    """A block to be uploaded: its place in the request, and the path to sign for a PUT."""

    file_index: int
    block_index: int
    put_path: str


@dataclass(frozen=True)
class Download:
    """`length` bytes from `start` of a file of `size` bytes; one path to sign (GET) per aligned 8 MiB block touched."""

    size: int
    start: int
    length: int
    get_paths: tuple[str, ...]


class BlockReader:
    """The bytes [start, end) of an open file. `content` has them all when they are few; the file is closed then."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        """Blocks the thread. Takes the file over. Raises FailedPrecondition when it has become shorter."""
        self._file = file
        self._start = start
        self._end = end
        self.length = end - start
        self.content: bytes | None = None
        if self.length <= _AT_ONCE:
            with file:
                self.content = b"".join(self._pieces())

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes that are not in `content`, in chunks of up to 1 MiB. Raises FailedPrecondition when the file shrinks meanwhile."""
        with self._file:
            pieces = self._pieces()
            while piece := await asyncio.to_thread(next, pieces, b""):
                yield piece

    def _pieces(self) -> Iterator[bytes]:
        offset = self._start
        while offset < self._end:
            piece = os.pread(self._file.fileno(), min(_CHUNK, self._end - offset), offset)
            if not piece:
                raise FailedPrecondition("The file became shorter while it was read. Read it again.")
            offset += len(piece)
            yield piece


class VolumeFiles:
    """What clients do with files of volumes. Made by the composition root; asked by the RPCs of volumes and by the routes of signed URLs."""

    def __init__(self, *, volumes: Volumes, contents: Contents) -> None:
        """contents: where `MountPutFile` keeps files, of which version 1 of the protocol makes its uploads."""
        self._volumes = volumes
        self._contents = contents
        self._places = BlockPlaces()

    async def list(
        self, volume_id: str, path: str, *, recursive: bool, limit: int = 0
    ) -> AsyncIterator[Sequence[Entry]]:
        """Batches of entries (at most `limit` in all when it is not 0); a file lists itself. Raises NotFound."""
        entries = self._volumes.tree(volume_id).walk(parts_of(path), recursive=recursive)
        chosen = itertools.islice(entries, limit) if limit else entries
        while batch := await asyncio.to_thread(_take, chosen):
            yield batch

    async def put(
        self, volume_id: str, plans: Sequence[FilePlan], *, overwrite: bool, sent: bool = False
    ) -> Sequence[MissingBlock]:
        """Puts files in place when all their blocks are there; else says which are missing, and changes nothing.

        sent: the client has sent what was missing, and asks no second time.

        Raises NotFound, InvalidArgument, AlreadyExists, FailedPrecondition, ResourceExhausted.
        """
        tree, assembly = self._volumes.tree(volume_id), self._volumes.assembly(volume_id)

        def prepare() -> Sequence[Sequence[int]]:
            for plan in plans:
                plan.check()
                tree.check_target(parts_of(plan.path), overwrite=overwrite)
            return [assembly.prepare(plan) for plan in plans]

        def publish() -> list[FileSums]:
            published = []
            for plan in plans:
                status = assembly.publish(plan, overwrite=overwrite)
                self._places.learn(volume_id, plan)
                if status is not None:
                    sums = bytes.fromhex("".join(plan.blocks))
                    published.append(FileSums.of(volume_id, plan.path, status, sums))
            return published

        missing = []
        for number, indices in enumerate(await asyncio.to_thread(prepare)):
            if indices:
                plan, key = plans[number], plans[number].key()
                base = f"{PREFIX}/volumes/{volume_id}/uploads/{key}"
                for index in await self._not_here(volume_id, plan, key, indices):
                    missing.append(MissingBlock(number, index, f"{base}/{index}/{plan.blocks[index]}"))
        if not missing:
            await self._volumes.sums.put(volume_id, [plan.path for plan in plans], publish)
            return []
        needed = sum(min(BLOCK_BYTES, plans[m.file_index].size - m.block_index * BLOCK_BYTES) for m in missing)
        free = shutil.disk_usage(self._volumes.scratch()).free
        if needed > free or sent:
            raise ResourceExhausted(
                f"The server's disk is full: {needed >> 20} MiB are still to be stored, and {free >> 20} MiB are free. Free some "
                "space, then repeat what you did; what has arrived is kept for two days.",
                retry_after=0,
            )
        return missing

    async def _not_here(self, volume_id: str, plan: FilePlan, key: str, indices: Sequence[int]) -> Sequence[int]:
        """Takes blocks from files that have them already; returns which ones no file has."""
        assembly = self._volumes.assembly(volume_id)
        missing, tried = [], 0
        for index in indices:
            for place in self._places.candidates(volume_id, plan, index) if tried < _VAIN_TRIES else ():
                with contextlib.suppress(StokerError), await self._open(place.volume_id, place.path) as file:
                    if await assembly.adopt(plan.blocks[index], file, place.offset, key, index):
                        tried = 0
                        break
                    tried += 1
            else:
                missing.append(index)
        return missing

    async def _open(self, volume_id: str, path: str) -> BinaryIO:
        tree = self._volumes.tree(volume_id)
        return await asyncio.to_thread(lambda: os.fdopen(tree.open_file(parts_of(path)), "rb"))

    async def store_block(
        self, volume_id: str, key: str, index: int, digest: str, chunks: AsyncIterator[bytes]
    ) -> None:
        """Takes one block, without its trailing zeros, as a stream. Raises NotFound, InvalidArgument, FailedPrecondition.

        Says nothing of a full disk, because clients repeat a refused block for a quarter of an hour: `put` tells them."""
        try:
            await self._volumes.assembly(volume_id).receive(digest, chunks, key, index)
        except ResourceExhausted:
            async for _ in chunks:
                pass

    async def put_contents(self, volume_id: str, files: Sequence[tuple[str, str, int]], *, overwrite: bool) -> None:
        """Puts files whose content was stored before: (path, SHA-256, mode). Raises NotFound, InvalidArgument, AlreadyExists."""
        tree = self._volumes.tree(volume_id)

        def check() -> None:
            for path, sha256, _ in files:
                self._contents.path(sha256)
                tree.check_target(parts_of(path), overwrite=overwrite)

        def publish() -> list[FileSums]:
            published = []
            for path, sha256, mode in files:
                sums = TrimmedSums(BLOCK_BYTES)
                with Incoming(self._volumes.scratch(), limit=0, algorithm="md5", mode=mode) as new:
                    self._contents.copy_to(sha256, new.fileno(), sums)
                    if self._volumes.sync:
                        os.fsync(new.fileno())
                    tree.publish(new.path, parts_of(path), overwrite=overwrite, sync=self._volumes.sync)
                    published.append(FileSums.of(volume_id, path, os.fstat(new.fileno()), sums.digests()))
            return published

        await asyncio.to_thread(check)
        await self._volumes.sums.put(volume_id, [path for path, _, _ in files], publish)

    async def locate(self, volume_id: str, path: str, start: int, length: int, *, may_trim: bool) -> Download:
        """Where to read a part of a file. length: 0 for all to the end. may_trim: the reader restores trailing zeros of a block.

        Raises NotFound, InvalidArgument, FailedPrecondition, or Damaged when the disk has cut the file.
        """
        tree = self._volumes.tree(volume_id)

        def look() -> os.stat_result:
            with tree.file(parts_of(path)) as descriptor:
                self._volumes.sums.check(volume_id, path, descriptor)
                return os.fstat(descriptor)

        status = await asyncio.to_thread(look)
        if start > status.st_size:
            raise InvalidArgument(f"The file {path!r} has {status.st_size} bytes, so nothing starts at {start}.")
        end = min(status.st_size, start + length) if length else status.st_size
        name = base64.urlsafe_b64encode(os.fsencode(path)).decode()
        how = "trim" if may_trim else "full"
        base = f"{PREFIX}/volumes/{volume_id}/files/{status.st_ino}"
        edges = [start, *range((start // BLOCK_BYTES + 1) * BLOCK_BYTES, end, BLOCK_BYTES), end]
        ranges = itertools.pairwise(edges) if end > start else ()
        paths = tuple(f"{base}/{first}-{last}/{how}/{name}" for first, last in ranges)
        return Download(status.st_size, start, end - start, paths)

    async def open_block(
        self, volume_id: str, inode: int, start: int, end: int, name: str, *, may_trim: bool
    ) -> BlockReader:
        """Opens what `locate` named. Raises NotFound, FailedPrecondition when the file was replaced or cut since, or Damaged when the disk has
        changed it."""
        tree = self._volumes.tree(volume_id)
        try:
            path = os.fsdecode(base64.urlsafe_b64decode(name))
        except (binascii.Error, ValueError):
            raise InvalidArgument("This is not the URL of a block.") from None

        def work() -> BlockReader:
            file = os.fdopen(tree.open_file(parts_of(path)), "rb", buffering=0)
            status = os.fstat(file.fileno())
            if status.st_ino != inode or status.st_size < end:
                file.close()
                raise FailedPrecondition(f"The file {path!r} was replaced while it was read. Read it again.")
            try:
                self._volumes.sums.check(volume_id, path, file.fileno(), start, end)
            except BaseException:
                file.close()
                raise
            return BlockReader(file, start, _end_of_data(file.fileno(), start, end) if may_trim else end)

        return await asyncio.to_thread(work)

    async def sweep(self) -> None:
        """Forgets the digests of files that are gone or were touched. To be called now and then."""

        def status_of(volume_id: str, path: str) -> os.stat_result | None:
            try:
                return self._volumes.tree(volume_id).stat(parts_of(path))
            except StokerError:
                return None

        await self._volumes.sums.sweep(status_of)

    async def remove(self, volume_id: str, path: str, *, recursive: bool) -> None:
        """Removes a file, or with `recursive` a directory. Raises NotFound, InvalidArgument, FailedPrecondition."""
        tree, doomed = self._volumes.tree(volume_id), self._volumes.trash_path()
        await asyncio.to_thread(lambda: tree.check_removal(parts_of(path), recursive=recursive))
        await self._volumes.sums.remove(volume_id, path)
        await asyncio.to_thread(lambda: tree.take_out(parts_of(path), doomed, recursive=recursive))
        await self._volumes.empty(doomed)

    async def copy(self, volume_id: str, sources: Sequence[str], target: str, *, recursive: bool) -> None:
        """Copies as `cp` does. Raises NotFound, InvalidArgument, AlreadyExists, FailedPrecondition."""
        self._volumes.sums.may_be_written(volume_id)  # copies have no digests
        copy = TreeCopy(self._volumes.tree(volume_id), self._volumes.scratch())
        await asyncio.to_thread(lambda: copy.copy(sources, target, recursive=recursive))


def _take(entries: Iterator[Entry]) -> Sequence[Entry]:
    return [*itertools.islice(entries, _BATCH)]


def _end_of_data(descriptor: int, start: int, end: int) -> int:
    """Where the last data before `end` ends; what follows up to `end` is a hole, which reads as zeros."""
    if not hasattr(os, "SEEK_DATA"):
        return end
    last = position = start
    while position < end:
        try:
            data = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: no data from here on
            break
        if data >= end:
            break
        last = position = min(end, os.lseek(descriptor, data, os.SEEK_HOLE))
    return last

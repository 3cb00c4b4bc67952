"""Network file systems, the predecessor of volumes: named directories on the volumes' own store, with changes seen at once by everyone."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import sqlalchemy as sa

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.ids import is_id
from stoker.integrity.blocks import TrimmedSums
from stoker.services.environments.environments import Environments
from stoker.services.environments.named import NamedObjects
from stoker.services.files.blobs import Blobs
from stoker.services.files.transfer import PREFIX
from stoker.services.files.volume_files import BlockReader, Entry
from stoker.services.files.volume_sums import FileSums
from stoker.services.files.volumes import Volumes
from stoker.store import tables
from stoker.store.assembly import BLOCK_BYTES
from stoker.store.database import Database
from stoker.store.duties import Duty
from stoker.store.filetree import FileTree, Parts, parts_of
from stoker.store.incoming import Incoming

INLINE_BYTES = 4 << 20  # a larger file travels over HTTP
_MODE = 0o644
_DIGEST = "sha256"


class NetworkFiles:
    """All network file systems and their files."""

    def __init__(
        self, *, database: Database, environments: Environments, volumes: Volumes, blobs: Blobs, directory: Path
    ) -> None:
        """directory: that of the volumes, so that files move into place from where volumes make theirs."""
        self._volumes = volumes
        self._blobs = blobs
        self._directory = directory
        self._removal = Duty(database, "remove the files of", self._remove_files)
        self.objects = NamedObjects(
            database=database,
            environments=environments,
            table=tables.shared_volumes,
            prefix="sv",
            noun="nfs",
            forget=self._note_removal,
            on_deleted=self._removal.begin,
        )

    def directory(self, nfs_id: str) -> Path:
        """Where the files are, to be mounted read-write. Raises NotFound."""
        path = self._files(nfs_id)
        self._volumes.sums.may_be_written(nfs_id)
        return path

    async def list(self, nfs_id: str, path: str) -> Sequence[Entry]:
        """A file itself, what is in a directory (with paths relative to it), or the files that a pattern with `*` or `**` names (with
        paths from the root). Raises NotFound, InvalidArgument."""
        tree, parts = self._tree(nfs_id), parts_of(path)
        return await asyncio.to_thread(lambda: list(_matches(tree, parts) if "*" in path else _children(tree, parts)))

    async def write(self, nfs_id: str, path: str, data: bytes) -> None:
        """Puts a file in place in one step, with the directories it needs. Raises NotFound, InvalidArgument, AlreadyExists."""

        async def one_chunk() -> AsyncIterator[bytes]:
            yield data

        await self._put(nfs_id, path, one_chunk(), len(data), "")

    async def write_blob(self, nfs_id: str, path: str, blob_id: str, sha256: str) -> None:
        """The same with the content of a blob, which is used up. Raises NotFound, InvalidArgument, AlreadyExists."""
        size = await self._blobs.size(blob_id)
        await self._put(nfs_id, path, self._blobs.stream(blob_id), size, sha256)
        self._blobs.delete_soon(blob_id)

    async def read(self, nfs_id: str, path: str) -> bytes | str:
        """The content of a small file, or what to give to `download_path` for a large one. Raises NotFound, FailedPrecondition."""
        tree, parts = self._tree(nfs_id), parts_of(path)

        def work() -> bytes | str:
            with tree.file(parts) as descriptor:
                status = os.fstat(descriptor)
                if status.st_size <= INLINE_BYTES:
                    self._volumes.sums.check(nfs_id, path, descriptor, 0, status.st_size)
                    with os.fdopen(os.dup(descriptor), "rb") as file:
                        return file.read()
            name = base64.urlsafe_b64encode(os.fsencode(path)).decode()
            return f"{nfs_id}:{status.st_ino}:{status.st_size}:{name}"

        return await asyncio.to_thread(work)

    def download_path(self, handle: str) -> str:
        """What to sign (GET) for a file that `read` named. Raises InvalidArgument."""
        nfs_id, inode, size, name = self._parsed(handle)
        return f"{PREFIX}/nfs/{nfs_id}/{inode}/{size}/{name}"

    async def open(self, nfs_id: str, inode: int, size: int, name: str) -> BlockReader:
        """Opens what `download_path` named. Raises NotFound, or FailedPrecondition when the file was replaced or cut since."""
        tree = self._tree(nfs_id)
        try:
            path = os.fsdecode(base64.urlsafe_b64decode(name))
            parts = parts_of(path)
        except (binascii.Error, ValueError):
            raise InvalidArgument("This is not the URL of a file.") from None

        def work() -> BlockReader:
            file = os.fdopen(tree.open_file(parts), "rb", buffering=0)
            status = os.fstat(file.fileno())
            if status.st_ino != inode or status.st_size < size:
                file.close()
                raise FailedPrecondition("The file was replaced while it was read. Read it again.")
            try:
                self._volumes.sums.check(nfs_id, path, file.fileno(), 0, size)
            except BaseException:
                file.close()
                raise
            return BlockReader(file, 0, size)

        return await asyncio.to_thread(work)

    async def remove(self, nfs_id: str, path: str, *, recursive: bool) -> None:
        """Removes a file, or with `recursive` a directory. Raises NotFound, InvalidArgument, FailedPrecondition."""
        tree, doomed = self._tree(nfs_id), self._volumes.trash_path()
        await asyncio.to_thread(lambda: tree.check_removal(parts_of(path), recursive=recursive))
        await self._volumes.sums.remove(nfs_id, path)
        await asyncio.to_thread(lambda: tree.take_out(parts_of(path), doomed, recursive=recursive))
        await self._volumes.empty(doomed)

    async def sweep(self) -> None:
        """Deletes what nobody uses any more, and what is left of what was deleted. To be called now and then."""
        await self.objects.sweep()
        await self._removal.catch_up()

    async def close(self) -> None:
        await self._removal.close()

    def _tree(self, nfs_id: str) -> FileTree:
        found = self.objects.get(nfs_id)
        name = f"the network file system {found.name!r}" if found.name else "this network file system"
        return FileTree(self._files(nfs_id), name)

    def _files(self, nfs_id: str) -> Path:
        path = self._directory / self.objects.get(nfs_id).id
        path.mkdir(mode=0o755, exist_ok=True)
        return path

    async def _put(self, nfs_id: str, path: str, chunks: AsyncIterator[bytes], size: int, sha256: str) -> None:
        tree, parts = self._tree(nfs_id), parts_of(path)
        if path.endswith("/"):
            raise InvalidArgument(f"The path {path!r} names a directory; add the name that the file shall have in it.")
        await asyncio.to_thread(lambda: tree.check_target(parts, overwrite=True))
        sums = TrimmedSums(BLOCK_BYTES)
        with Incoming(self._volumes.scratch(), limit=size, algorithm=_DIGEST, mode=_MODE, sums=sums) as new:
            await new.fill(chunks)
            if sha256 and new.hexdigest() != sha256:
                raise InvalidArgument(
                    f"What was uploaded for {path!r} has another SHA-256 than announced. Send it again."
                )

            def publish() -> list[FileSums]:
                if self._volumes.sync:
                    os.fsync(new.fileno())
                tree.publish(new.path, parts, overwrite=True, sync=self._volumes.sync)
                return [FileSums.of(nfs_id, path, os.fstat(new.fileno()), sums.digests())]

            await self._volumes.sums.put(nfs_id, [path], publish)

    def _parsed(self, handle: str) -> tuple[str, str, str, str]:
        nfs_id, inode, size, name = (*handle.split(":"), "", "", "")[:4]
        if not is_id(nfs_id, "sv") or not inode.isdigit() or not size.isdigit():
            raise InvalidArgument(f"{handle[:100]!r} does not name a file of a network file system.")
        return nfs_id, inode, size, name

    def _note_removal(self, connection: sa.Connection, nfs_ids: Sequence[str]) -> None:
        connection.execute(sa.delete(tables.volume_sums).where(tables.volume_sums.c.volume_id.in_(nfs_ids)))
        for nfs_id in nfs_ids:
            self._removal.note(connection, nfs_id)

    async def _remove_files(self, nfs_id: str) -> None:
        """The file system is deleted: containers that have it mounted find it empty."""
        doomed = self._volumes.trash_path()
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._directory / nfs_id, doomed)
        self._volumes.sums.removed_volume(nfs_id)
        await self._volumes.empty(doomed)


def _children(tree: FileTree, parts: Parts) -> Iterator[Entry]:
    """Nothing is taken off the path of a file that is asked for itself."""
    prefix = "/".join(parts) + "/"
    for entry in tree.walk(parts, recursive=False):
        yield replace(entry, path=entry.path.removeprefix(prefix))


def _matches(tree: FileTree, pattern: Parts) -> Iterator[Entry]:
    fixed = next(index for index, part in enumerate(pattern) if "*" in part)
    for entry in tree.walk(pattern[:fixed], recursive=True):
        is_directory = entry.mode & 0o170000 == 0o040000
        if not is_directory and _fits(tuple(entry.path.split("/")), pattern):
            yield entry


def _fits(path: Parts, pattern: Parts) -> bool:
    """`**` stands for any number of components, `*` for a part of one."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return _fits(path, pattern[1:]) or (bool(path) and (_fits(path[1:], pattern) or len(pattern) == 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])

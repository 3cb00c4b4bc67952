"""Blobs: payloads too large for gRPC, uploaded in parts over HTTP and read by id."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stoker.aio.jobs import Jobs
from stoker.batches import batches
from stoker.errors import Damaged, FailedPrecondition, InvalidArgument, NotFound
from stoker.ids import is_id, new_id
from stoker.integrity.blocks import BlockSums, block_bytes, verified
from stoker.services.files.transfer import PREFIX
from stoker.services.telemetry.damages import BLOB, Damages
from stoker.store import tables
from stoker.store.blobs import BlobStore, part_md5s_match
from stoker.store.database import Database

PART_BYTES = 256 << 20
_ONE_PART_UP_TO = 1 << 30
_MAX_BYTES = 1 << 44
_ABANDONED_AFTER = 2 * 86_400.0  # seconds; twice as long as an upload URL is valid
_PATIENCE = 5.0  # seconds for which the end of the server waits for deletions
_MD5 = re.compile(r"^[0-9a-f]{32}$")


@dataclass(frozen=True)
class BlobUpload:
    """Where the parts of a new blob go. All parts but the last have `part_length` bytes; paths are to be signed (PUT, POST).

    whole_path: where it may go in one request instead (PUT), which needs no completion; "" for a blob of several parts."""

    blob_id: str
    part_length: int
    part_paths: tuple[str, ...]
    completion_path: str
    whole_path: str = ""


class Blobs:
    """All blobs: their rows here, their bytes in a `BlobStore`. Asked by the RPCs of blobs and by the routes of signed URLs."""

    def __init__(self, *, database: Database, store: BlobStore, damages: Damages | None = None) -> None:
        self._database = database
        self._store = store
        self._damages = damages if damages is not None else Damages(database)
        self._jobs = Jobs("blobs")

    async def create(self, size: int) -> BlobUpload:
        """Announces a blob of `size` bytes. Raises InvalidArgument."""
        if not 0 <= size <= _MAX_BYTES:
            raise InvalidArgument(f"A blob cannot have {size} bytes; the largest has {_MAX_BYTES}.")
        blob_id = new_id("bl")
        row = {"id": blob_id, "size": size, "complete": False, "created_at": time.time()}
        await self._database.insert(tables.blobs, [row])
        base = f"{PREFIX}/blobs/{blob_id}"
        paths = tuple(f"{base}/parts/{index}" for index in range(_part_count(size)))
        return BlobUpload(blob_id, _part_length(size), paths, f"{base}/complete", base if len(paths) == 1 else "")

    async def store_part(self, blob_id: str, index: int, chunks: AsyncIterator[bytes]) -> str:
        """Takes one part as a stream and returns its MD5 (hexadecimal); may be repeated. Raises NotFound, InvalidArgument, FailedPrecondition."""
        row = self._row(blob_id)
        if row.complete:
            raise FailedPrecondition(f"The blob {blob_id} is complete and cannot be changed.")
        if not 0 <= index < _part_count(row.size):
            raise InvalidArgument(f"The blob {blob_id} has no part {index}.")
        part_length = _part_length(row.size)
        length = min(part_length, row.size - index * part_length)
        return await self._store.receive_part(blob_id, index, length, chunks, block=block_bytes(row.size))

    async def store_whole(self, blob_id: str, chunks: AsyncIterator[bytes], expected: str = "") -> str:
        """Takes a blob of one part as a stream, completes it, and returns its MD5 (hexadecimal). May be repeated.

        expected: the MD5 that the sender says it has. Raises NotFound, InvalidArgument, FailedPrecondition."""
        row = self._row(blob_id)
        if _part_count(row.size) > 1:
            raise InvalidArgument(f"The blob {blob_id} is too large for one request. Send it in parts.")
        md5 = await (_md5(chunks, row.size) if row.complete else self.store_part(blob_id, 0, chunks))
        if expected not in ("", md5):
            self._store.forget_part(blob_id, 0, md5)
            raise InvalidArgument(
                "The Content-MD5 you specified did not match what we received. Send the upload again."
            )
        await self.complete(blob_id, [md5])
        return md5

    async def complete(self, blob_id: str, md5s: Sequence[str]) -> str:
        """Joins the uploaded parts; returns the blob's ETag, "<md5 of the md5s>-<parts>". May be repeated.

        md5s: of the parts, in order. Raises NotFound, InvalidArgument, or FailedPrecondition when a part was not uploaded.
        """
        row = self._row(blob_id)
        if len(md5s) != _part_count(row.size) or not all(map(_MD5.match, md5s)):
            raise InvalidArgument(f"The completion of {blob_id} must list the MD5 of each of its parts.")
        if row.complete:
            path = self._store.path(blob_id)
            if path is not None and not await asyncio.to_thread(part_md5s_match, path, md5s, _part_length(row.size)):
                raise FailedPrecondition(f"The blob {blob_id} is complete and has another content.")
        else:
            sums = await self._store.sums(blob_id, md5s, block_bytes(row.size))
            if not await self._store.complete(blob_id, md5s, row.size) and not await self._store.has(blob_id):
                raise FailedPrecondition(f"A part of the blob {blob_id} was not uploaded, or its content differs.")
            if sums is None:  # an earlier request has put it together, and could not note that
                sums = await self._sums(blob_id, row.size)
            statement = sa.update(tables.blobs).where(tables.blobs.c.id == blob_id).values(complete=True, sums=sums)
            await self._database.write(lambda connection: connection.execute(statement))
        digest = hashlib.md5(b"".join(map(bytes.fromhex, md5s)), usedforsecurity=False).hexdigest()
        return f"{digest}-{len(md5s)}"

    async def size(self, blob_id: str) -> int:
        """Bytes of a complete blob. Raises NotFound, or Damaged for one that was found so."""
        size: int = self._complete_row(blob_id).size
        return size

    def download_path(self, blob_id: str) -> str:
        """What to sign for a GET. Raises NotFound for a blob that is missing or incomplete, and Damaged for one that was found so."""
        self._complete_row(blob_id)
        return f"{PREFIX}/blobs/{blob_id}"

    async def stream(self, blob_id: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes [start, end) of a complete blob in chunks of up to 1 MiB, each of a block whose digest was found right, or of a blob that
        has no digests. Raises NotFound, or Damaged when the content is gone or changed: then also in the middle."""
        row = self._complete_row(blob_id)
        size: int = row.size
        end = size if end is None else min(end, size)
        if row.sums is None:
            async for chunk in self._unverified(blob_id, start, end, size):
                yield chunk
            return
        block = block_bytes(size)
        first, last = start // block * block, min(size, -(-end // block) * block)
        pieces = self._unverified(blob_id, first, last, size)
        position = first

        def damaged(what: str) -> Damaged:
            return self._found_damaged(blob_id, what)

        if end > start:
            async for chunk in verified(pieces, row.sums, size=size, start=first, end=last, damaged=damaged):
                wanted = chunk[max(0, start - position) : max(0, end - position)]
                position += len(chunk)
                if wanted:
                    yield wanted

    async def read(self, blob_id: str) -> bytes:
        """A whole blob in memory. Raises NotFound."""
        return b"".join([chunk async for chunk in self.stream(blob_id)])

    def path(self, blob_id: str) -> Path | None:
        """The read-only file that holds a complete blob; None when blobs are not kept on this machine. Raises NotFound."""
        self._complete_row(blob_id)
        return self._store.path(blob_id)

    async def delete(self, blob_ids: Sequence[str]) -> None:
        """Forgets blobs; no error for those that are gone. What cannot be removed now is left to `sweep`."""
        for batch in batches(blob_ids):
            await self._delete(batch)

    def delete_soon(self, blob_id: str) -> None:
        """Deletes a blob that was used up, beside the caller."""
        self._jobs.insist(f"delete {blob_id}", partial(self.delete, [blob_id]))

    async def close(self) -> None:
        await self._jobs.close(patience=_PATIENCE)

    async def sweep(self) -> None:
        """Removes uploads that were abandoned, and what a deletion left. To be called now and then."""
        await asyncio.to_thread(self._store.sweep, _ABANDONED_AFTER)
        blobs, oldest = tables.blobs, time.time() - _ABANDONED_AFTER
        query = sa.select(blobs.c.id).where(blobs.c.complete.is_(False), blobs.c.created_at < oldest)
        with self._database.read() as connection:
            abandoned = connection.execute(query).scalars().all()
        await self.delete(abandoned)

    async def _unverified(self, blob_id: str, start: int, end: int, size: int) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._store.read(blob_id, start, end, size=size):
                yield chunk
        except NotFound:
            raise self._found_damaged(blob_id, "its file is gone") from None
        except Damaged as error:
            raise self._found_damaged(blob_id, str(error)) from None

    def _found_damaged(self, blob_id: str, what: str) -> Damaged:
        return self._damages.found(
            BLOB,
            blob_id,
            f"The blob {blob_id}, which holds a large argument or result, is damaged on the server's disk: {what}. Call the "
            "function again, or restore the blob from a backup. `stoker fsck` on the server's machine shows what else is damaged.",
        )

    async def _sums(self, blob_id: str, size: int) -> bytes:
        sums = BlockSums(block_bytes(size))
        async for chunk in self._store.read(blob_id, 0, size, size=size):
            sums.update(chunk)
        return sums.digests()

    async def _delete(self, blob_ids: Sequence[str]) -> None:
        chosen = tables.blobs.c.id.in_(list(blob_ids))
        # A row goes after its content: without it nobody would know what a failure or a kill in between has left.
        await self._database.write(lambda connection: connection.execute(give_up(blob_ids)))
        for blob_id in blob_ids:
            await self._store.delete(blob_id)
            self._damages.whole(BLOB, blob_id)
        forget = sa.delete(tables.blobs).where(chosen)
        await self._database.write(lambda connection: connection.execute(forget))

    def _complete_row(self, blob_id: str) -> Any:
        row = self._row(blob_id)
        if not row.complete:
            raise NotFound(f"The blob {blob_id} was not uploaded completely.")
        self._damages.check(BLOB, blob_id)
        return row

    def _row(self, blob_id: str) -> Any:
        row = None
        if is_id(blob_id, "bl"):
            with self._database.read() as connection:
                row = connection.execute(sa.select(tables.blobs).where(tables.blobs.c.id == blob_id)).first()
        if row is None:
            raise NotFound(f"There is no blob {blob_id!r} on this server; it may have been removed.")
        return row


def give_up(blob_ids: Sequence[str]) -> sa.Update:
    """Marks blobs as garbage: `Blobs.sweep` removes them, if nobody does before."""
    return sa.update(tables.blobs).where(tables.blobs.c.id.in_(blob_ids)).values(complete=False, created_at=0.0)


async def _md5(chunks: AsyncIterator[bytes], limit: int) -> str:
    digest, size = hashlib.md5(usedforsecurity=False), 0
    async for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if size > limit:
            raise InvalidArgument(f"The upload has more than the {limit} bytes that were announced.")
    return digest.hexdigest()


def _part_length(size: int) -> int:
    return PART_BYTES if size > _ONE_PART_UP_TO else max(size, 1)


def _part_count(size: int) -> int:
    """At least one: an empty blob is one empty part."""
    return max(1, -(-size // _part_length(size)))

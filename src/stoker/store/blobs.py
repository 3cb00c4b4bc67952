"""Blob contents in an object store (a local directory, S3 or the like), and the parts of uploads on their way there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from stoker.errors import Damaged, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from stoker.integrity.blocks import BlockSums
from stoker.store.incoming import Incoming, copy_range, file_digest, move

_CHUNK = 256 << 10
_REMEMBERED_PARTS = 10_000


class BlobStore:
    """Contents by key. Uploads are staged as local files, one per part, and become visible in one step."""

    def __init__(self, store: Any, *, staging: Path, sync: bool = False) -> None:
        """store: any obstore store. staging: a local directory, of the same file system as a local store. sync: contents are on the disk
        before they count as complete, so that they survive a power cut."""
        self._store = store
        self._staging = staging
        self._sync = sync
        self._sums: OrderedDict[Path, bytes] = OrderedDict()  # of parts that this server received
        self._root = Path(store.prefix) if isinstance(store, LocalStore) and store.prefix else None
        staging.mkdir(mode=0o700, parents=True, exist_ok=True)

    @classmethod
    def open(cls, url: str, directory: Path, *, sync: bool = False) -> BlobStore:
        """The store at `url` ("s3://bucket/prefix" and what else obstore knows; its settings come from the environment, such as
        AWS_ACCESS_KEY_ID), with uploads staged in `directory`; empty for the directory itself. Raises InvalidArgument."""
        if not url:
            return cls.local(directory, sync=sync)
        try:
            store = from_url(url, retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=30)})
        except (BaseError, ValueError) as error:
            raise InvalidArgument(
                f"The setting blob_store is {url!r}, which cannot be used: {_first_line(error)}"
            ) from None
        return cls(store, staging=directory / ".staging")

    @classmethod
    def local(cls, directory: Path, *, sync: bool = False) -> BlobStore:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(LocalStore(directory, mkdir=True), staging=directory / ".staging", sync=sync)

    async def check(self) -> None:
        """Raises FailedPrecondition when the store cannot be reached or refuses us."""
        try:
            async for _ in obstore.list(self._store, chunk_size=1):
                break
        except (FileNotFoundError, BaseError) as error:
            raise FailedPrecondition(
                f"The store of blobs (setting blob_store) cannot be used: {_first_line(error)} Check the bucket's name, the "
                "credentials (AWS_ACCESS_KEY_ID...), the region and AWS_ENDPOINT_URL."
            ) from None

    async def receive_part(
        self, key: str, index: int, length: int, chunks: AsyncIterator[bytes], *, block: int = 1 << 20
    ) -> str:
        """Takes one part of an upload, exactly `length` bytes, and returns its MD5 (hexadecimal). Raises InvalidArgument.

        block: length of the blocks whose digests `sums` gives later. The MD5 is part of the file's name, so that completion needs no other
        record and survives a restart of the server.
        """
        sums = BlockSums(block)
        with Incoming(self._staging, limit=length, algorithm="md5", sums=sums, sync=self._sync) as incoming:
            await incoming.fill(chunks)
            if incoming.size != length:
                raise InvalidArgument(f"The upload has {incoming.size} bytes, but {length} were announced.")
            md5 = incoming.hexdigest()
            part = self._part(key, index, md5)
            await incoming.settle(part)
        self._sums[part] = sums.digests()
        if len(self._sums) > _REMEMBERED_PARTS:
            self._sums.popitem(last=False)
        return md5

    def forget_part(self, key: str, index: int, md5: str) -> None:
        """Removes a part that was received; no error when it is not there."""
        part = self._part(key, index, md5)
        self._sums.pop(part, None)
        part.unlink(missing_ok=True)

    async def sums(self, key: str, md5s: Sequence[str], block: int) -> bytes | None:
        """The digests of the blocks of what `complete` will make of these parts; None when one of them is not there. Every part but the last
        must consist of whole blocks."""
        found = []
        for index, md5 in enumerate(md5s):
            part = self._part(key, index, md5)
            known = self._sums.get(part)
            if known is None:  # an earlier server received it
                known = await asyncio.to_thread(_sums_of, part, md5, block)
            if known is None:
                return None
            found.append(known)
        return b"".join(found)

    async def complete(self, key: str, md5s: Sequence[str], size: int) -> bool:
        """Joins the parts with these MD5s (hexadecimal, in order) to a blob of `size` bytes; False when one of them is not there."""
        parts = [self._part(key, index, md5) for index, md5 in enumerate(md5s)]
        if not await asyncio.to_thread(_sizes_match, parts, size):
            return False
        whole = parts[0] if len(parts) == 1 else await asyncio.to_thread(_join, parts, sync=self._sync)
        if self._root is not None:
            await asyncio.to_thread(move, whole, self._root / key, sync=self._sync)
        else:
            try:
                with _store_errors():
                    await obstore.put_async(self._store, key, whole)
            finally:
                if whole not in parts:  # the parts themselves are still there for another try
                    whole.unlink()
        for part in parts:
            part.unlink(missing_ok=True)
            self._sums.pop(part, None)
        return True

    async def has(self, key: str) -> bool:
        try:
            await obstore.head_async(self._store, key)
        except (FileNotFoundError, BaseError):
            return False
        return True

    async def read(
        self, key: str, start: int = 0, end: int | None = None, *, size: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes [start, end) in chunks of about 256 KiB. size: that of the whole, when it is known. Raises NotFound, or Damaged for a
        content of another size."""
        if end is not None and end <= start:
            return
        options: Any = {"range": (start, end) if end is not None else {"offset": start}}
        with _store_errors():
            try:
                result = await obstore.get_async(self._store, key, options=options)
                _check_size(key, result.meta["size"], size)
            except FileNotFoundError:
                raise NotFound(f"The content of the blob {key!r} is gone.") from None
            except BaseError:
                # Such as a range that begins after the end of a content that was cut.
                _check_size(key, (await obstore.head_async(self._store, key))["size"], size)
                raise
            async for chunk in result.stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)

    def path(self, key: str) -> Path | None:
        """The file that holds the content, None when the store is not a local directory."""
        return None if self._root is None else self._root / key

    async def delete(self, key: str) -> None:
        """No error when it is not there."""
        with contextlib.suppress(FileNotFoundError), _store_errors():
            await obstore.delete_async(self._store, key)

    def sweep(self, older_than_seconds: float) -> None:
        """Removes what uploads left that never came to their end."""
        oldest = time.time() - older_than_seconds
        with os.scandir(self._staging) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # an upload has come to its end meanwhile
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.path)

    def _part(self, key: str, index: int, md5: str) -> Path:
        return self._staging / f"{key}.{index}.{md5}"


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    """What a store elsewhere fails with after some tries is worth trying later."""
    try:
        yield
    except (FileNotFoundError, NotFound, Damaged):
        raise
    except BaseError as error:
        raise Unavailable(f"The store of blobs does not answer as it should: {_first_line(error)} Try again.") from None


def _check_size(key: str, found: int, size: int | None) -> None:
    if size is not None and found != size:
        raise Damaged(f"The content of the blob {key!r} has {found} bytes and not {size}.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."


def part_md5s_match(path: Path, md5s: Sequence[str], part_length: int) -> bool:
    """Whether a file consists of parts with these MD5s."""
    return all(file_digest(path, "md5", i * part_length, part_length) == md5 for i, md5 in enumerate(md5s))


def _sizes_match(parts: Sequence[Path], size: int) -> bool:
    try:
        return sum(path.stat().st_size for path in parts) == size
    except FileNotFoundError:
        return False


def _sums_of(part: Path, md5: str, block: int) -> bytes | None:
    """Of a part that is still what was received."""
    sums, digest = BlockSums(block), hashlib.md5(usedforsecurity=False)
    try:
        with part.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                sums.update(chunk)
                digest.update(chunk)
    except FileNotFoundError:
        return None
    if digest.hexdigest() != md5:
        part.unlink(missing_ok=True)  # damaged since: to be sent once more
        return None
    return sums.digests()


def _join(parts: Sequence[Path], *, sync: bool) -> Path:
    whole = parts[0].with_name(f"{parts[0].name}.{secrets.token_hex(8)}")
    offset = 0
    try:
        with whole.open("wb") as target:
            for part in parts:
                with part.open("rb") as source:
                    length = os.fstat(source.fileno()).st_size
                    copy_range(source.fileno(), target.fileno(), length, target_offset=offset)
                    offset += length
            if sync:
                os.fsync(target.fileno())
    except BaseException:
        whole.unlink(missing_ok=True)
        raise
    return whole

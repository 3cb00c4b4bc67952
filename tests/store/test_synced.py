"""What survives a power cut: a file is on the disk before it has its name, and its name before anybody hears that it is stored."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stoker.store.blobs import BlobStore
from stoker.store.contents import Contents


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The inodes of what was written to the disk so far."""
    found, fsync = set[int](), os.fsync

    def noting(descriptor: int) -> None:
        found.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    return found


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _blob(directory: Path, sync: bool, parts: int) -> Path:
    store = BlobStore.local(directory, sync=sync)
    data = os.urandom(1 << 20)
    md5s = [await store.receive_part("bl-1", index, len(data), once(data)) for index in range(parts)]
    assert await store.complete("bl-1", md5s, parts * len(data))
    return directory / "bl-1"


async def _content(directory: Path, sync: bool) -> Path:
    digest = hashlib.sha256(b"content").hexdigest()
    await Contents(directory, sync=sync).add(digest, once(b"content"), 7)
    return directory / digest[:2] / digest


@pytest.mark.parametrize("sync", [False, True])
def test_files_are_on_the_disk_before_they_count(tmp_path: Path, synced: set[int], sync: bool) -> None:
    for number, stored in enumerate(
        (_blob(tmp_path / "one", sync, 1), _blob(tmp_path / "three", sync, 3), _content(tmp_path / "files", sync))
    ):
        path = asyncio.run(stored)
        there = {path.stat().st_ino, path.parent.stat().st_ino} & synced
        assert len(there) == (2 if sync else 0), number

"""Blobs that the disk has changed: never wrong bytes, and an answer that says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from modal.exception import DataLossError, ExecutionError

from stoker.errors import Damaged
from stoker.integrity import blocks
from stoker.integrity.blocks import BlockSums, block_bytes, verified
from stoker.services.files import blobs as blobs_module
from stoker.services.files.blobs import Blobs
from stoker.services.telemetry.damages import BLOB, Damages
from stoker.store import tables
from stoker.store.blobs import BlobStore
from stoker.store.database import Database
from tests.state.conftest import StateServer
from tests.state.test_blobs import download, fetch, stub, upload, url

__all__ = ["stub"]
MIB = 1 << 20
DATA = random.Random(1).randbytes(5 * MIB + 12_345)


@pytest.fixture
def blob(state: StateServer, stub: Any) -> str:
    blob_id: str = upload(DATA, stub)
    return blob_id


def file_of(state: StateServer, blob_id: str) -> Path:
    path = state.blobs.path(blob_id)
    assert path is not None
    return path


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "first byte": lambda path: flip(path, 0),
    "in the middle": lambda path: flip(path, 3 * MIB + 5),
    "last byte": lambda path: flip(path, len(DATA) - 1),
    "cut": lambda path: truncate(path, len(DATA) - 1),
    "cut at a block": lambda path: truncate(path, 2 * MIB),
    "empty": lambda path: truncate(path, 0),
    "longer": lambda path: truncate(path, len(DATA) + 1),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_blob_is_told_as_such(state: StateServer, stub: Any, blob: str, damage: str) -> None:
    """At once where that can be known, else with the next try: the client's retries and whoever asks later get the sentence."""
    address = url(state, "GET", state.blobs.download_path(blob))
    DAMAGES[damage](file_of(state, blob))
    got = bytearray()
    with pytest.raises(aiohttp.ClientPayloadError) if damage in ("in the middle", "last byte") else _refused():
        state.run(_read(address, got))
    assert DATA.startswith(got) and len(got) < len(DATA), "what came is what was stored"
    status, body, _ = fetch(state, "GET", address)
    assert status == 410 and b"is damaged on the server's disk" in body and b"stoker fsck" in body
    with pytest.raises(DataLossError, match="damaged"):
        download(blob, stub)
    assert [d.name for d in Damages(state.database).all()] == [blob], "known after a restart, too"
    state.run(state.blobs.delete([blob]))
    assert not state.blobs._damages.all()


def test_the_client_s_own_retries_end_with_the_sentence(state: StateServer, stub: Any, blob: str) -> None:
    flip(file_of(state, blob), 3 * MIB)
    with pytest.raises((ExecutionError, aiohttp.ClientPayloadError)):
        download(blob, stub)
    with pytest.raises(DataLossError, match="Call the function again"):
        download(blob, stub)
    state.run(state.blobs.delete([blob]))


@pytest.mark.parametrize("start", [0, 1, MIB - 1, MIB, 2 * MIB + 7, len(DATA) - 1])
@pytest.mark.parametrize("length", [1, 1000, MIB, 3 * MIB])
def test_ranges_are_verified_too(state: StateServer, blob: str, start: int, length: int) -> None:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in state.blobs.stream(blob, start, start + length)])

    end = min(len(DATA), start + length)
    assert state.run(read()) == DATA[start:end]
    block = start // MIB
    flip(file_of(state, blob), block * MIB)  # which may lie before the range
    with pytest.raises(Damaged):
        state.run(read())
    state.run(state.blobs.delete([blob]))


def test_a_blob_of_an_earlier_version_is_served_as_it_is(state: StateServer, stub: Any, blob: str) -> None:
    """It has no digests, so only its size can be checked."""
    forget = sa.update(tables.blobs).where(tables.blobs.c.id == blob).values(sums=None)
    state.run(state.database.write(lambda connection: connection.execute(forget)))
    assert download(blob, stub) == DATA
    flip(file_of(state, blob), 0)
    assert download(blob, stub) == bytes([DATA[0] ^ 1]) + DATA[1:]
    truncate(file_of(state, blob), 100)
    with pytest.raises((ExecutionError, DataLossError), match="has 100 bytes"):
        download(blob, stub)
    state.run(state.blobs.delete([blob]))


def test_digests_are_those_of_what_was_sent_also_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts lie on the disk until the upload is complete: what is damaged there is to be sent again."""
    monkeypatch.setattr(blobs_module, "_ONE_PART_UP_TO", MIB)
    monkeypatch.setattr(blobs_module, "PART_BYTES", 2 * MIB)

    async def chunks(index: int) -> AsyncIterator[bytes]:
        yield DATA[2 * MIB * index : 2 * MIB * (index + 1)]

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")

        def server() -> Blobs:
            return Blobs(database=database, store=BlobStore.local(tmp_path / "blobs", sync=True))

        for restart, damaged in ((False, False), (True, False), (True, True)):
            blobs = server()
            plan = await blobs.create(len(DATA))
            md5s = [await blobs.store_part(plan.blob_id, index, chunks(index)) for index in range(3)]
            blobs = server() if restart else blobs
            if damaged:
                flip(next((tmp_path / "blobs" / ".staging").glob(f"{plan.blob_id}.1.*")), 5)
                with pytest.raises(Exception, match="was not uploaded"):
                    await blobs.complete(plan.blob_id, md5s)
                await blobs.store_part(plan.blob_id, 1, chunks(1))
            await blobs.complete(plan.blob_id, md5s)
            await blobs.complete(plan.blob_id, md5s)
            with database.read() as connection:
                sums = connection.execute(sa.select(tables.blobs.c.sums).where(tables.blobs.c.id == plan.blob_id))
                assert sums.scalar() == _sums(DATA)
            assert await blobs.read(plan.blob_id) == DATA
        await database.close()

    asyncio.run(scenario())


def test_large_blocks_end_with_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a blob beyond 4 GiB a block is too large to be kept back: its last MiB is, so that the transfer is never complete."""
    monkeypatch.setattr(blocks, "_MOST_BLOCKS", 2)
    size = 7 * MIB + 3
    data = random.Random(2).randbytes(size)
    assert block_bytes(size) == 4 * MIB

    async def pieces(content: bytes, step: int) -> AsyncIterator[bytes]:
        for start in range(0, len(content), step):
            yield content[start : start + step]

    async def read(content: bytes, step: int) -> bytes:
        got = bytearray()
        with contextlib.suppress(Damaged):
            async for chunk in verified(
                pieces(content, step), _sums(data), size=size, start=0, end=size, damaged=Damaged
            ):
                got += chunk
        return bytes(got)

    for step in (1000, 256 << 10, MIB, 5 * MIB):
        assert asyncio.run(read(data, step)) == data
        for position in (0, 4 * MIB - 1, 4 * MIB, size - 1):
            wrong = bytearray(data)
            wrong[position] ^= 1
            got = asyncio.run(read(bytes(wrong), step))
            block_end = min(size, (position // (4 * MIB) + 1) * 4 * MIB)
            assert len(got) <= block_end - min(MIB, block_end), "the end of the block is kept back"
        assert len(asyncio.run(read(data + b"x", step))) <= size
        assert len(asyncio.run(read(data[:-1], step))) < size


def _sums(data: bytes) -> bytes:
    sums = BlockSums(block_bytes(len(data)))
    sums.update(data)
    return sums.digests()


async def _read(address: str, got: bytearray) -> None:
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        if response.status != 200:
            raise LookupError(response.status)
        async for chunk in response.content.iter_any():
            got += chunk


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    with pytest.raises(LookupError, match="410"):
        yield


def test_each_damage_is_told_once_in_the_log(tmp_path: Path) -> None:
    from structlog.testing import capture_logs

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        damages = Damages(database)
        with capture_logs() as said:
            for _ in range(3):
                damages.found(BLOB, "bl-1", "It is damaged.")
        assert [line["log_level"] for line in said] == ["error"] and len(damages) == 1
        await damages.close()
        again = Damages(database)
        with pytest.raises(Damaged, match="It is damaged"):
            again.check(BLOB, "bl-1")
        again.whole(BLOB, "bl-1")
        await again.close()
        assert len(Damages(database)) == 0
        await database.close()

    asyncio.run(scenario())

"""Files that are being uploaded, when things end in the middle."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import Unavailable
from stoker.store.assembly import BLOCK_BYTES, AssemblyStore, FilePlan
from stoker.store.filetree import FileTree

BLOCKS = (b"a" * BLOCK_BYTES, b"end")


@pytest.fixture
def uploads(tmp_path: Path) -> AssemblyStore:
    (tmp_path / "root").mkdir()
    return opened(tmp_path)


def opened(tmp_path: Path) -> AssemblyStore:
    """As a server does that starts."""
    return AssemblyStore(tmp_path / "staging", FileTree(tmp_path / "root", "the volume 'v'"))


def plan_of(*blocks: bytes) -> FilePlan:
    return FilePlan("f", sum(map(len, blocks)), 0o644, tuple(hashlib.sha256(b).hexdigest() for b in blocks))


async def send(uploads: AssemblyStore, plan: FilePlan, *blocks: bytes) -> None:
    for index, block in enumerate(blocks):
        await uploads.receive(plan.blocks[index], pieces(block), plan.key(), index)


async def pieces(block: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(block), 1 << 20):
        yield block[start : start + (1 << 20)]


def test_no_file_is_closed_under_the_thread_that_writes_to_it(
    uploads: AssemblyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a closed file belongs to the next that is opened, which the thread would go on to write to."""
    plan = plan_of(*BLOCKS)
    writing, go_on = threading.Event(), threading.Event()
    pwrite = os.pwrite

    def slow(descriptor: int, data: Any, offset: int) -> int:
        if len(data) > 1:  # not a mark
            writing.set()
            go_on.wait(20)
        return pwrite(descriptor, data, offset)

    async def scenario() -> None:
        uploads.prepare(plan)
        monkeypatch.setattr(os, "pwrite", slow)
        sending = asyncio.ensure_future(send(uploads, plan, *BLOCKS))
        await asyncio.to_thread(writing.wait, 20)
        sending.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        closed = sending.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not closed

    asyncio.run(scenario())


@pytest.mark.parametrize("blocks", [BLOCKS, BLOCKS[1:]], ids=["two blocks", "one block"])
def test_a_file_that_is_in_its_place_under_two_names_is_uploaded_anew(
    uploads: AssemblyStore, tmp_path: Path, blocks: tuple[bytes, ...]
) -> None:
    """As a kill leaves it in the middle of `publish`. Who changes the file in its place changes what lies here too."""
    plan, place = plan_of(*blocks), tmp_path / "root" / "f"

    async def scenario() -> None:
        uploads.prepare(plan)
        await send(uploads, plan, *blocks)
        [data] = (tmp_path / "staging").glob("*.data")
        os.link(data, place)
        place.write_bytes(b"changed by a container")
        again = opened(tmp_path)
        assert again.prepare(plan) == [*range(len(blocks))]
        await send(again, plan, *blocks)
        again.publish(plan, overwrite=True)

    asyncio.run(scenario())
    assert place.read_bytes() == b"".join(blocks)
    assert not list((tmp_path / "staging").iterdir())


def test_a_file_that_lost_its_marks_is_uploaded_anew(uploads: AssemblyStore, tmp_path: Path) -> None:
    plan = plan_of(*BLOCKS)
    uploads.prepare(plan)
    [marks] = (tmp_path / "staging").glob("*.seen")
    marks.unlink()
    assert uploads.prepare(plan) == [0, 1]


@pytest.mark.parametrize("blocks", [BLOCKS, BLOCKS[1:]], ids=["two blocks", "one block"])
def test_only_whole_files_get_to_their_place(uploads: AssemblyStore, tmp_path: Path, blocks: tuple[bytes, ...]) -> None:
    """Between the look at what is missing and the move to its place another client may have begun the same upload anew."""
    plan = plan_of(*blocks)
    uploads.prepare(plan)
    with pytest.raises(Unavailable, match="Send it again"):
        uploads.publish(plan, overwrite=True)
    assert not (tmp_path / "root" / "f").exists()

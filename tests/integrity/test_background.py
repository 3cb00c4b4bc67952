"""Reading beside the work of a server."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import psutil
import pytest

from stoker.integrity import trees
from stoker.integrity.background import BackgroundReader
from stoker.integrity.reading import CalledOff, Pace


def test_one_thing_is_read_after_the_other_and_what_fails_holds_up_none() -> None:
    order: list[str] = []

    def work(name: str, seconds: float) -> str:
        order.append(f"{name} begins")
        time.sleep(seconds)
        order.append(f"{name} ends")
        if name == "wrong":
            raise ValueError(name)
        return name

    async def scenario() -> None:
        reader = BackgroundReader(1e12)
        results = await asyncio.gather(
            reader.read(lambda pace: work("wrong", 0.05), direct=False),
            reader.read(lambda pace: work("right", 0.0), direct=True),
            return_exceptions=True,
        )
        reader.stop()
        assert isinstance(results[0], ValueError) and results[1] == "right"
        assert order == ["wrong begins", "wrong ends", "right begins", "right ends"]

    asyncio.run(scenario())


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux has such priorities")
def test_disks_attend_to_it_last_and_to_the_server_as_before() -> None:
    def priority(pace: Pace) -> object:
        return psutil.Process(threading.get_native_id()).ionice().ioclass

    async def scenario() -> None:
        reader = BackgroundReader(1e12)
        assert await reader.read(priority, direct=False) == psutil.IOPRIO_CLASS_IDLE
        assert await asyncio.to_thread(priority, Pace()) != psutil.IOPRIO_CLASS_IDLE
        reader.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("files", [0, 3], ids=["directories", "files"])
def test_it_ends_when_it_is_stopped_whatever_it_reads(tmp_path: Path, files: int) -> None:
    """Also in a tree without content, of which each entry has its time."""
    tree = tmp_path / "tree"
    for number in range(500):
        (tree / str(number)).mkdir(parents=True)
    for number in range(files):
        (tree / f"file {number}").write_bytes(b"x" * 3_000_000)
    trees.write(tree, tmp_path / "sums", Pace())

    async def scenario() -> None:
        reader = BackgroundReader(1 << 20)
        entered = threading.Event()

        def work(pace: Pace) -> list[str]:
            entered.set()
            return list(trees.check(tree, tmp_path / "sums", pace))

        waiting = [asyncio.ensure_future(reader.read(work, direct=False)) for _ in range(3)]
        await asyncio.to_thread(entered.wait)
        reader.stop()
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10.0)
        assert all(isinstance(result, CalledOff) for result in results)
        with pytest.raises(CalledOff):
            await reader.read(work, direct=False)

    asyncio.run(scenario())

"""How the server's event loop starts programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from stoker.aio.event_loop import EventLoop, new_event_loop
from stoker.aio.processes import capture

PIPE = asyncio.subprocess.PIPE


def run(work: Coroutine[Any, Any, None]) -> None:
    async def checked() -> None:
        assert isinstance(asyncio.get_running_loop(), EventLoop)
        first = await asyncio.create_subprocess_exec("true", stdout=PIPE)  # uvloop opens a file for the first pipe
        await first.communicate()
        files, others = psutil.Process().num_fds(), set(psutil.Process().children())
        await work
        await asyncio.sleep(0.05)
        assert psutil.Process().num_fds() <= files
        assert set(psutil.Process().children()) <= others  # also no zombies

    uvloop.run(checked(), loop_factory=new_event_loop)


def test_output_and_exit_code_come_back() -> None:
    async def work() -> None:
        program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"out\n", b"err\n")
        assert process.returncode == 7

    run(work())


def test_input_is_passed_on_also_to_a_program_that_does_not_want_it() -> None:
    async def work() -> None:
        reader = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert (await reader.communicate(b"x" * 1_000_000))[0] == b"x" * 1_000_000
        # From a file: uvloop raises when the program has ended before a pipe is written to, so nobody here does that.
        assert (await capture(("true",), env={}, stdin="x" * 1_000_000)).code == 0

    run(work())


def test_a_killed_program_tells_the_signal() -> None:
    async def work() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "100")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == -signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            process.kill()

    run(work())


def test_many_end_at_once() -> None:
    async def work() -> None:
        processes = await asyncio.gather(*(asyncio.create_subprocess_exec("sh", "-c", f"exit {i}") for i in range(40)))
        assert [await process.wait() for process in processes] == list(range(40))

    run(work())


def test_a_program_that_is_not_there_is_an_error() -> None:
    async def work() -> None:
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("no-such-program", stdout=PIPE)
        with pytest.raises(NotADirectoryError):
            await asyncio.create_subprocess_exec("true", cwd=Path(__file__))

    run(work())


def test_a_start_that_is_called_off_leaves_nothing() -> None:
    async def work() -> None:
        before = set(psutil.Process().children())
        for turns in range(4):
            start = asyncio.ensure_future(asyncio.create_subprocess_exec("sleep", "100", stdout=PIPE, stderr=PIPE))
            for _ in range(turns):
                await asyncio.sleep(0)
            start.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await start).kill()
        until = time.monotonic() + 5
        while set(psutil.Process().children()) - before and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    run(work())


def test_no_file_descriptor_left_is_an_error_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        def none_left(pid: int, flags: int = 0) -> int:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(os, "pidfd_open", none_left)
        with pytest.raises(OSError, match="Too many"):
            await asyncio.create_subprocess_exec("sleep", "100", stdout=PIPE)
        monkeypatch.undo()

    run(work())


def test_an_old_kernel_has_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(pid: int, flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", unknown)
    loop = new_event_loop()
    loop.close()
    assert type(loop) is uvloop.Loop


def test_the_end_of_a_program_closes_no_file_of_another_thread() -> None:
    over = threading.Event()

    def read() -> int:
        times = 0
        while not over.is_set():
            Path("/proc/self/mounts").read_bytes()
            times += 1
        return times

    async def work() -> None:
        readers = [asyncio.create_task(asyncio.to_thread(read)) for _ in range(4)]
        try:
            for _ in range(10):
                await asyncio.gather(*(_say_and_end() for _ in range(10)))
        finally:
            over.set()
        assert all(await asyncio.gather(*readers))

    run(work())


async def _say_and_end() -> None:
    process = await asyncio.create_subprocess_exec("echo", "x", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert await process.communicate() == (b"x\n", b"")

"""What does not answer any more is noticed, and nothing waits for it without an end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from stoker.errors import FailedPrecondition
from stoker.nodes.endings import ExitKind
from stoker.runtime import checkpoint, sandbox
from stoker.runtime.base import Container, ContainerSpec
from stoker.runtime.cgroups import Cgroup
from stoker.runtime.commands import ask
from stoker.runtime.process import ProcessRuntime
from tests.runtime.conftest import PYTHON, Bench

pytestmark = pytest.mark.anyio

BUSY = "print('up', flush=True)\nwhile True: pass"
PARTS = {"gVisor's kernel": "runsc-sandbox", "the gofer": "runsc-gofer", "the launcher": "runsc"}


def part_of(container: Container, name: str) -> psutil.Process:
    directory = str(container._directory)  # type: ignore[attr-defined]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if words and os.path.basename(words[0]) == name and directory in " ".join(words):
                return process
    raise AssertionError(f"{container.id} has no {name}")


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        yield
    finally:
        if process.is_running():
            process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_is_stopped_is_named_and_can_be_killed(sandboxes: Bench, part: str) -> None:
    container, output = await sandboxes.start(PYTHON, "-c", BUSY)
    await output.first()
    assert await container.stuck(10) == ""
    with stopped(part_of(container, PARTS[part])):
        assert "is stopped" in await container.stuck(0.5)
        await asyncio.wait_for(container.kill(), 20)
        assert (await asyncio.wait_for(container.wait(), 60)).kind is ExitKind.KILLED
    assert await container.stuck(1) == ""


async def test_a_sandbox_that_does_not_answer_is_stuck(sandboxes: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "stopped_among", lambda pids: "")  # as when it hangs in the kernel, say
    container, output = await sandboxes.start(PYTHON, "-c", BUSY)
    await output.first()
    with stopped(part_of(container, "runsc-sandbox")):
        assert "does not answer" in await container.stuck(0.5)
        await container.signal(signal.SIGTERM)  # comes back, though nobody takes it
    await container.kill()
    await container.wait()


async def test_saving_what_does_not_answer_ends(
    sandboxes: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_PATIENCE", 0.5)
    container, output = await sandboxes.start(PYTHON, "-c", BUSY)
    await output.first()
    with stopped(part_of(container, "runsc-sandbox")), pytest.raises(FailedPrecondition, match="nothing came of it"):
        await asyncio.wait_for(container.checkpoint(tmp_path / "snapshot"), 60)
    await container.kill()
    await container.wait()


async def test_what_cannot_be_killed_does_not_keep_the_container(
    sandboxes: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As processes that hang in the kernel; here they are not killed at all at first."""
    monkeypatch.setattr(sandbox, "_DYING", 0.5)
    kill = Cgroup.kill
    monkeypatch.setattr(Cgroup, "kill_now", lambda group: [])
    monkeypatch.setattr(Cgroup, "kill", lambda group, seconds=0.0: False)
    container, output = await sandboxes.start(PYTHON, "-c", BUSY)
    await output.first()
    await container.kill()
    assert (await asyncio.wait_for(container.wait(), 60)).kind is ExitKind.KILLED
    assert "cannot be killed" in caplog.text
    kill(sandboxes.runtime._cgroups.group(container.id))  # type: ignore[attr-defined]
    sandboxes.runtime._cgroups.group(container.id).remove()  # type: ignore[attr-defined]


async def test_a_command_that_takes_too_long_is_killed() -> None:
    answer = await ask(("sh", "-c", "echo trouble >&2; exit 3"), 30)
    assert (answer.code, answer.errors, answer.late) == (3, "trouble", False)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    assert (await ask(("sleep", "1000"), 0.2)).late
    job = asyncio.ensure_future(ask(("sleep", "1000"), 1000))
    await asyncio.sleep(0.2)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    after = {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}
    assert after <= before


async def test_processes_without_a_sandbox(tmp_path: Path) -> None:
    runtime = ProcessRuntime(tmp_path)
    await runtime.open()
    container = await runtime.start(
        ContainerSpec("ta-1", (), (sys.executable, "-c", "import time; time.sleep(1000)"), {}, "/"), lambda *_: None
    )
    process = container._process
    assert await container.stuck(10) == ""
    process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(lambda: os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT))
    assert "is stopped" in await container.stuck(10)
    await container.kill()
    assert (await container.wait()).kind is ExitKind.KILLED
    assert await container.stuck(10) == ""
    await runtime.close()

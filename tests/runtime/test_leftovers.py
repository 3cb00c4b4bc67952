"""After a container, a server or a crash, the machine is as it was."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest

from stoker.errors import FailedPrecondition
from stoker.runtime.base import ExitKind
from tests.runtime.conftest import Bench, HostState, host_root, runsc_runtime

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("needs_root")]

OWNER = """
import asyncio, sys
from pathlib import Path
from tests.runtime.conftest import Bench, host_root, runsc_runtime

async def main(directory):
    layers, mounts = host_root(directory)
    runtime = runsc_runtime(directory / "state")
    await runtime.open()
    bench = Bench(runtime, layers, mounts)
    for _ in range(2):
        _, output = await bench.start("/bin/sh", "-c", "echo up; sleep 1000")
        await output.first()
    print("up", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(Path(sys.argv[1])))
"""


def tag_of(state: Path) -> str:
    return hashlib.sha256(os.fsencode(state)).hexdigest()[:6]


def processes_mentioning(text: str) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        try:
            if text.encode() in (path / "cmdline").read_bytes() and int(path.name) != os.getpid():
                found.append(int(path.name))
        except (OSError, ValueError):
            continue
    return found


async def test_many_starts_leave_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    layers, mounts = host_root(tmp_path)
    runtime = runsc_runtime(state)
    assert HostState.of(tag_of(state), state).empty
    await runtime.open()
    bench = Bench(runtime, layers, mounts)
    try:
        opened = HostState.of(tag_of(state), state)
        assert (
            opened.groups
            and opened.tables
            and opened.links
            and not opened.mounts - {f"/run/netns/{name}" for name in opened.namespaces}
        )
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            end, output = await bench.run("/bin/echo", "hello")
            assert end.kind is ExitKind.EXITED and output.text == "hello\n"
            # As soon as `wait` returns, not a moment later.
            now = HostState.of(tag_of(state), state)
            assert now.groups == opened.groups and not any(str(state) in mount for mount in now.mounts)
            assert not list((state / "containers").iterdir())
        ends = await asyncio.gather(*(bench.run("/bin/echo", "hello") for _ in range(5)))
        assert [output.text for _, output in ends] == ["hello\n"] * 5
        assert len(os.listdir("/proc/self/fd")) == descriptors
    finally:
        await runtime.close()
    assert HostState.of(tag_of(state), state).empty
    assert not processes_mentioning(str(state))


async def test_close_ends_running_containers(tmp_path: Path) -> None:
    state = tmp_path / "state"
    layers, mounts = host_root(tmp_path)
    runtime = runsc_runtime(state)
    await runtime.open()
    container, output = await Bench(runtime, layers, mounts).start("/bin/sh", "-c", "echo up; sleep 1000")
    await output.first()
    await runtime.close()
    assert (await container.wait()).kind is ExitKind.KILLED
    assert HostState.of(tag_of(state), state).empty


async def test_next_server_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    runtime = runsc_runtime(state)
    with pytest.raises(FailedPrecondition, match="Another Stoker server"):
        await runtime.open()
    process.send_signal(signal.SIGKILL)
    await process.wait()
    left = HostState.of(tag_of(state), state)
    assert left.mounts and left.namespaces and left.links and left.groups and left.tables
    assert processes_mentioning(str(state))
    await runtime.open()
    try:
        assert not processes_mentioning(str(state / "containers"))
        assert not list((state / "containers").iterdir())
    finally:
        await runtime.close()
    assert HostState.of(tag_of(state), state).empty


async def test_failed_start_leaves_nothing(sandboxes: Bench) -> None:
    # One layer inside of another is refused by the kernel only when it is mounted.
    layer = sandboxes.layers[0]
    with pytest.raises(FailedPrecondition, match="could not be mounted"):
        await sandboxes.run("/bin/true", layers=(*sandboxes.layers, layer / "etc"))
    end, _ = await sandboxes.run("/bin/true")
    assert end.code == 0
    state = layer.parent / "state"
    assert not list((state / "containers").iterdir())

"""After a container, a server or a crash, the machine is as it was."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stoker.errors import FailedPrecondition
from stoker.nodes.endings import ExitKind, Limits
from stoker.runtime import overlay
from stoker.runtime.cgroups import Cgroup
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


class Gate:
    """Holds the next start up where its root is mounted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on, self.mounted = threading.Event(), threading.Event(), threading.Event()
        mount = overlay.Overlay.mount

        def slow(root: overlay.Overlay, layers: Sequence[Path], files: Mapping[str, str]) -> None:
            self.entered.set()
            self.go_on.wait(30)
            try:
                mount(root, layers, files)
            finally:
                self.mounted.set()

        monkeypatch.setattr(overlay.Overlay, "mount", slow)


class Returned:
    """The namespaces that a runtime's network gets back, and what else containers have on the machine."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.state = bench.layers[0].parent / "state"
        network = bench.runtime._network  # type: ignore[attr-defined]
        give_back = network.give_back
        self.before = self.now

        async def record(namespace: Any) -> None:
            await give_back(namespace)
            self.names.append(namespace.name)

        monkeypatch.setattr(network, "give_back", record)

    @property
    def now(self) -> tuple[list[Path], frozenset[str], list[str]]:
        host = HostState.of(tag_of(self.state), self.state)
        return list((self.state / "containers").iterdir()), host.groups, [m for m in host.mounts if "netns" not in m]

    def check(self) -> None:
        assert len(self.names) == 1 and self.now == self.before
        assert not processes_mentioning(str(self.state / "containers"))


async def test_a_start_that_is_called_off_while_it_is_prepared_leaves_nothing(
    sandboxes: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = Returned(sandboxes, monkeypatch)
    gate = Gate(monkeypatch)
    starting = asyncio.ensure_future(sandboxes.start("/bin/sleep", "1000"))
    await asyncio.to_thread(gate.entered.wait, 30)
    for _ in range(2):  # as when its app is stopped, and then the server
        starting.cancel()
        await asyncio.wait([starting], timeout=0.1)
    gate.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await asyncio.to_thread(gate.mounted.wait, 30)
    returned.check()


async def test_a_runtime_that_closes_waits_for_starts_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    layers, mounts = host_root(tmp_path)
    runtime = runsc_runtime(state)
    await runtime.open()
    gate = Gate(monkeypatch)
    starting = asyncio.ensure_future(Bench(runtime, layers, mounts).start("/bin/sleep", "1000"))
    await asyncio.to_thread(gate.entered.wait, 30)
    closing = asyncio.ensure_future(runtime.close())
    await asyncio.wait([closing], timeout=0.3)
    gate.go_on.set()
    await closing
    await asyncio.to_thread(gate.mounted.wait, 30)
    await asyncio.wait([starting])
    assert HostState.of(tag_of(state), state).empty
    assert not processes_mentioning(str(state))


@pytest.mark.parametrize("part", ["limit", "watch_oom"])
async def test_a_start_that_fails_for_lack_of_something_gives_back_what_it_had(
    sandboxes: Bench, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    returned = Returned(sandboxes, monkeypatch)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Cgroup, part, fail)
    with pytest.raises(OSError, match="Too many open files"):
        await sandboxes.start("/bin/sleep", "1000")
    returned.check()


async def test_files_that_cannot_be_removed_are_no_failure_of_the_container(
    sandboxes: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = Returned(sandboxes, monkeypatch)
    discard = overlay.discard

    def fail(directory: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(overlay, "discard", fail)
    container, _ = await sandboxes.start("/bin/true")
    assert (await container.wait()).kind is ExitKind.EXITED
    assert len(returned.names) == 1 and returned.now[1] == returned.before[1]
    discard(returned.state / "containers" / container.id)
    returned.check()


def test_a_directory_goes_also_while_a_last_command_writes_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "container"
    directory.mkdir()
    errors = [errno.ENOTEMPTY, errno.ENOENT]

    def disturbed(path: Path) -> None:
        if errors:
            raise OSError(errors.pop(), "disturbed")
        shutil.rmtree(path)

    monkeypatch.setattr(overlay, "shutil", SimpleNamespace(rmtree=disturbed))
    overlay.discard(directory)
    assert not directory.exists()


async def test_a_limit_below_what_the_kernel_takes_is_the_least_one(sandboxes: Bench) -> None:
    group = sandboxes.runtime._cgroups.group("least")  # type: ignore[attr-defined]
    group.create(Limits(cpu_milli=1))
    group.remove()

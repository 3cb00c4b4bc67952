"""Containers cannot take the memory of the machine: all together have a part of it, and the one that wants too much goes, alone."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stoker import oom
from stoker.nodes.endings import MOST_PROCESSES, ExitKind, Limits
from stoker.runtime import cgroups
from stoker.runtime.base import Container
from stoker.runtime.cgroups import CgroupTree, Hierarchy
from stoker.runtime.memory import MemoryEvents, ceiling
from stoker.runtime.runsc import RunscRuntime
from stoker.runtime.runsc_binary import find_runsc
from tests.runtime.conftest import GATEWAY_PORT, PYTHON, Bench, Output, host_root

pytestmark = pytest.mark.anyio

MEMORY = 600 << 20
HONEST = """
import sys, time
keep = bytearray(b'x' * (200 << 20))
print('full', flush=True)
while True:
    time.sleep(0.1)
    print('alive', flush=True)
"""
GREEDY = {
    "array": "keep = []\nwhile True: keep.append(bytearray(b'x' * (8 << 20)))",
    "shared memory": "f = open('/dev/shm/x', 'wb')\nwhile True: f.write(b'x' * (8 << 20))",
    "pipes": (
        "import os\nends = []\nwhile True:\n r, w = os.pipe(); os.set_blocking(w, False); ends.append((r, w))\n"
        " try: os.write(w, b'x' * 65536)\n except OSError: pass"
    ),
    "many processes": (
        "import os, time\nwhile True:\n if os.fork() == 0:\n  keep = bytearray(b'x' * (50 << 20)); time.sleep(1000)"
    ),
}


@pytest.fixture(scope="module")
async def small(needs_root: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """A runtime that gives its containers 600 MiB together."""
    directory = tmp_path_factory.mktemp("small")
    layers, mounts = host_root(directory)
    runtime = RunscRuntime(
        directory / "state", runsc=find_runsc(), gateway_port=GATEWAY_PORT + 1, memory=MEMORY, pool_size=2
    )
    await runtime.open()
    yield Bench(runtime, layers, mounts)
    await runtime.close()


@pytest.fixture(scope="module")
async def honest(small: Bench) -> AsyncIterator[tuple[Container, Output]]:
    """A container that has what it asked for, and more than its greedy neighbours when they begin."""
    container, output = await small.start(PYTHON, "-c", HONEST, limits=Limits(memory_request=250 << 20))
    while b"full" not in output.stdout:
        output.came.clear()
        await output.first()
    yield container, output
    await container.kill()
    await container.wait()


@pytest.mark.parametrize("what", GREEDY)
async def test_the_greedy_one_goes_and_the_others_live(
    small: Bench, honest: tuple[Container, Output], what: str
) -> None:
    end, _ = await small.python(GREEDY[what], limits=Limits(memory_request=64 << 20))
    assert (end.kind, end.code) == (ExitKind.OOM, 137)
    assert "the machine's memory for containers was used up" in end.detail and "it had asked for 64 MiB" in end.detail
    container, output = honest
    output.came.clear()
    await output.first()
    assert await container.usage() is not None


async def test_files_that_are_read_and_written_are_no_memory(small: Bench, honest: tuple[Container, Output]) -> None:
    code = "f = open('/root/x', 'wb')\nfor _ in range(100): f.write(b'x' * (8 << 20))\nprint('written')"
    end, output = await small.python(code)
    assert (end.code, output.text) == (0, "written\n")


async def test_a_limit_of_its_own_is_named(small: Bench, honest: tuple[Container, Output]) -> None:
    end, _ = await small.python(GREEDY["array"], limits=Limits(memory_bytes=128 << 20))
    assert end.kind is ExitKind.OOM and "its limit of 128 MiB" in end.detail


async def test_the_kernel_would_end_the_server_last(small: Bench, honest: tuple[Container, Output]) -> None:
    group = Path("/sys/fs/cgroup").glob(f"**/{honest[0].id}/cgroup.procs")
    pids = {int(pid) for path in group for pid in path.read_text().split()}
    scores = {int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in pids}
    assert scores == {oom.container_score(250 << 20, MEMORY)}
    everybody = [
        oom.SERVER,
        0,
        oom.HELPERS,
        oom.container_score(MEMORY, MEMORY),
        oom.container_score(0, MEMORY),
        oom.BUILDS,
    ]
    assert everybody == sorted(everybody) and everybody[-2:] == [1000, 1000]


async def test_a_fork_bomb_ends_with_a_sentence(sandboxes: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "MOST_PROCESSES", 40)
    monkeypatch.setattr(cgroups, "_HOST_TASKS", 60)
    code = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    end, _ = await sandboxes.python(code)
    assert end.kind is ExitKind.LIMIT and "processes" in end.detail


async def test_too_many_threads_are_an_error_that_a_program_can_handle(sandboxes: Bench) -> None:
    code = """
import threading, time
threads = []
try:
    while len(threads) < 1000:
        threads.append(threading.Thread(target=time.sleep, args=(1000,), daemon=True)); threads[-1].start()
except RuntimeError as error:
    print(error, flush=True)
"""
    end, output = await sandboxes.python(code, limits=Limits(tasks=100))
    assert (end.code, output.text) == (0, "can't start new thread\n")


def test_the_ceiling_leaves_the_system_its_part() -> None:
    gib = 1 << 30
    assert [ceiling(machine=size * gib) for size in (1, 4, 20, 1000)] == [gib // 2, 3 * gib, 18 * gib, 992 * gib]
    assert ceiling(4 * gib, machine=24 * gib) == 20 * gib
    assert ceiling(99 * gib, machine=20 * gib) == 2 * gib, "a reserve of more than there is"


class TestVersion2:
    """As far as files can stand for the kernel; tried in a virtual machine besides."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> CgroupTree:
        tree = CgroupTree.__new__(CgroupTree)
        tree.name = "stoker-test"
        tree.hierarchy = Hierarchy(2, dict.fromkeys(("cpu", "cpuacct", "memory", "pids"), tmp_path))
        tree.directories = (tmp_path / tree.name,)
        tree.open()
        for name in ("memory.swap.max", "memory.oom.group"):
            (tmp_path / tree.name / name).touch()
        return tree

    def test_the_tree_is_slowed_down_before_it_is_full(self, tree: CgroupTree) -> None:
        directory = tree.directories[0]
        tree.limit(32 << 30)
        assert [(directory / f"memory.{name}").read_text() for name in ("max", "high", "swap.max")] == [
            str(32 << 30),
            str((31 << 30) + (1 << 29)),
            "0",
        ]
        assert 0 < int((directory / "pids.max").read_text()) < int(Path("/proc/sys/kernel/pid_max").read_text())

    @pytest.mark.parametrize(("cache", "full"), [(0, True), (200, False)])
    def test_cache_does_not_make_it_full(self, tree: CgroupTree, cache: int, full: bool) -> None:
        directory = tree.directories[0]
        tree.limit(3200 << 20)
        (directory / "memory.current").write_text(str(2950 << 20))
        (directory / "memory.stat").write_text(f"anon 1\nactive_file {cache << 19}\ninactive_file {cache << 19}\n")
        assert tree.is_full() is full

    async def test_its_events_are_heard(self, tree: CgroupTree) -> None:
        directory = tree.directories[0]
        (directory / "memory.events").write_text("high 0\n")
        came = asyncio.Event()
        events = MemoryEvents(directory, 2)
        events.open(came.set)
        (directory / "memory.events").write_text("high 1\n")
        await asyncio.wait_for(came.wait(), 10)
        events.close()
        events.close()

    def test_whose_limit_it_was(self, tree: CgroupTree) -> None:
        group = tree.group("one")
        group.create(Limits(memory_bytes=1 << 30, tasks=10_000))
        directory = tree.directories[0] / "one"
        assert int((directory / "pids.max").read_text()) < MOST_PROCESSES + 1000
        (directory / "memory.events").write_text("oom 0\noom_kill 3\n")
        assert group.ran_out_of_memory() and not group.hit_its_limit()
        (directory / "memory.events").write_text("oom 1\noom_kill 3\n")
        assert group.hit_its_limit()


def test_a_command_gets_its_score_from_the_start() -> None:
    if not oom.scored(oom.BUILDS):
        pytest.skip("no choom here")
    command = [*oom.scored(oom.BUILDS), "sh", "-c", "cat /proc/self/oom_score_adj"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{oom.BUILDS}\n"

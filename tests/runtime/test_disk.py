"""Containers cannot fill the disk of the server: each may write so much as its own, and who writes when little is left goes."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stoker.nodes.endings import ExitKind, Limits
from stoker.runtime.base import BindMount
from stoker.runtime.runsc import RunscRuntime
from stoker.runtime.runsc_binary import find_runsc
from stoker.runtime.written import BYTES_A_FILE, measure
from tests.runtime.conftest import GATEWAY_PORT, PYTHON, Bench, host_root

pytestmark = pytest.mark.anyio

DISK, OWN, RESERVE = 400 << 20, 64 << 20, 120 << 20
WAIT = "\nprint('written', flush=True)\nimport time; time.sleep(100)"
WRITERS = {
    "one file": "f = open('/root/x', 'wb')\nfor _ in range(10): f.write(b'x' * (8 << 20))" + WAIT,
    "a file in /tmp": "f = open('/tmp/x', 'wb')\nfor _ in range(10): f.write(b'x' * (8 << 20))" + WAIT,
    "a removed file": (
        "import os\nf = open('/root/x', 'wb')\nos.unlink('/root/x')\nfor _ in range(10): f.write(b'x' * (8 << 20))"
        + WAIT
    ),
    "allocated": "import os\nos.posix_fallocate(os.open('/root/x', os.O_CREAT | os.O_RDWR), 0, 80 << 20)" + WAIT,
    "mapped": (
        "import mmap\nf = open('/root/x', 'w+b'); f.truncate(80 << 20)\nm = mmap.mmap(f.fileno(), 0)\n"
        "for i in range(0, len(m), 4096): m[i] = 1" + WAIT
    ),
    "small files": (
        "import os\nfor i in range(6_000):\n if i % 1_000 == 0: os.mkdir(f'/root/{i}')\n"
        " open(f'/root/{i - i % 1_000}/{i}', 'w').close()" + WAIT
    ),
    "its own mount": "f = open('/own/x', 'wb')\nfor _ in range(10): f.write(b'x' * (8 << 20))" + WAIT,
}


@pytest.fixture(scope="module")
def disk(needs_root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small one."""
    directory = tmp_path_factory.mktemp("disk")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},nr_inodes={DISK // 4096}", "none", str(directory)], check=True
    )
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture(scope="module")
async def small(disk: Path) -> AsyncIterator[Bench]:
    layers, mounts = host_root(disk)
    runtime = RunscRuntime(
        disk / "state",
        runsc=find_runsc(),
        gateway_port=GATEWAY_PORT + 2,
        pool_size=2,
        disk=OWN,
        disk_reserve=RESERVE,
    )
    await runtime.open()
    yield Bench(runtime, layers, mounts)
    await runtime.close()


@pytest.mark.parametrize("how", WRITERS)
async def test_who_writes_more_than_it_may_ends(small: Bench, disk: Path, how: str) -> None:
    own = disk / "own"
    own.mkdir(exist_ok=True)
    mounts = [BindMount(own, "/own", read_only=False)]
    end, _ = await small.python(WRITERS[how], mounts=mounts, own=(own,))
    assert end.kind is ExitKind.LIMIT and "than the 64 MiB that it may" in end.detail, end
    for path in own.iterdir():
        path.unlink()


async def test_what_an_app_asks_for_counts(small: Bench) -> None:
    code = WRITERS["one file"].replace("time.sleep(100)", "time.sleep(3)")
    end, output = await small.python(code, limits=Limits(disk_bytes=200 << 20))
    assert (end.code, output.text) == (0, "written\n"), end


async def test_sparse_files_and_reading_cost_nothing(small: Bench) -> None:
    code = "f = open('/root/x', 'wb'); f.truncate(10 << 30)\nfor _ in range(3): open('/usr/bin/python3', 'rb').read()\nimport time; time.sleep(3)"
    end, _ = await small.python(code)
    assert end.code == 0, end


async def test_who_fills_the_disk_through_a_volume_ends_and_the_others_live(small: Bench, disk: Path) -> None:
    volume = disk / "volume"
    volume.mkdir()
    large = "f = open('/root/x', 'wb'); f.write(b'x' * (48 << 20)); f.close()" + WAIT
    idle, output = await small.start(PYTHON, "-c", large)
    await output.first()
    flood = "f = open('/volume/x', 'wb')\nwhile True:\n try: f.write(b'x' * (4 << 20))\n except OSError: pass"
    end, _ = await small.python(flood, mounts=[BindMount(volume, "/volume", read_only=False)])
    assert end.kind is ExitKind.LIMIT and "less than are kept for the server" in end.detail, end
    assert (volume / "x").stat().st_size > 0, "the user's data"
    await asyncio.sleep(1.5)
    assert await idle.usage() is not None, "it did nothing meanwhile"
    (volume / "x").unlink()
    await idle.kill()
    await idle.wait()


def test_what_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10_000)
    with (tmp_path / "b").open("wb") as file:
        file.write(b"x" * 1_000_000)
        file.flush()
        (tmp_path / "b").unlink()
        found = measure([tmp_path, tmp_path / "none"], [os.getpid(), 1 << 30])
    assert 1_010_000 <= found.size < 3_000_000 and found.files >= 3
    assert measure([tmp_path], []).burden == 2 * BYTES_A_FILE

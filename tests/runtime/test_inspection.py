"""What is found open in a real sandbox, and what is made of what a container says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stoker.runtime import inspection
from stoker.runtime.base import BindMount
from tests.runtime.conftest import PYTHON, Bench

pytestmark = pytest.mark.anyio
PATH = f"{os.path.dirname(PYTHON)}:/usr/bin:/bin"

PROGRAM = """
import mmap, os, socket, time
me = open("/etc/hosts").read().split()[-2]
server = socket.create_server(("0.0.0.0", 9000)); mine = socket.create_connection((me, 9000))
near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); near.connect(("127.0.0.1", 8125))
far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); far.connect(("203.0.113.9", 8125))
read = open("/vol/read"); mapped = mmap.mmap(read.fileno(), 0, prot=mmap.PROT_READ)
written = open("/vol/written", "a"); os.chdir("/vol/sub")
gone = open("/vol/gone"); os.unlink("/vol/gone")
own = open("/root/own", "w"); os.unlink("/root/own")
shared = open("/dev/shm/shared", "w"); os.unlink("/dev/shm/shared")
memory = os.memfd_create("memory"); anonymous = mmap.mmap(-1, 4096); os.write(memory, b"x"); in_memory = mmap.mmap(memory, 1)
mine2 = open("/vol/renamed"); open("/vol/new", "w").close(); os.rename("/vol/new", "/vol/renamed")
theirs = open("/vol/replaced")
print("ready", flush=True); time.sleep(600)
"""


async def test_sockets_and_files_are_found(sandboxes: Bench, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("read", "written", "gone", "renamed", "replaced"):
        (tmp_path / name).write_text("text")
    volume = BindMount(tmp_path, "/vol", read_only=False)
    container, output = await sandboxes.start(PYTHON, "-c", PROGRAM, mounts=[volume], env={"PATH": PATH})
    await output.first()
    assert output.text == "ready\n", output.stderr.decode()
    (tmp_path / "new").write_text("another")
    (tmp_path / "new").rename(tmp_path / "replaced")
    found = await container.inspect(["/vol"])
    named = await container.open_files(["/vol/sub", "/vol/w", "/vol/read"])
    await container.kill()
    await container.wait()
    assert await container.inspect(["/vol"]) is None

    assert found is not None
    pairs = {(s.protocol, str(s.local.host), str(s.remote)) for s in found.sockets if s.remote.port}
    assert container.address is not None
    assert ("tcp", container.address, f"{container.address}:9000") in pairs
    assert {("udp", "127.0.0.1", "127.0.0.1:8125"), ("udp", container.address, "203.0.113.9:8125")} <= pairs
    assert all("(process 2)" in s.holder for s in found.sockets if s.protocol != "tcp")
    files = {(f.path, f.mapped): f for f in found.files}
    assert set(files) == {
        ("/vol/sub", False),
        ("/vol/read", False),
        ("/vol/read", True),
        ("/vol/written", False),
        ("/vol/gone", False),
        ("/vol/renamed", False),
        ("/vol/replaced", False),
        ("/root/own", False),
    }
    assert {path for (path, _), f in files.items() if f.deleted} == {"/vol/gone", "/vol/renamed", "/root/own"}
    assert {path for (path, _), f in files.items() if f.replaced} == {"/vol/replaced"}
    assert {path for (path, _), f in files.items() if f.writable} == {"/vol/written", "/root/own"}
    assert files["/vol/sub", False].directory
    assert named == ["/vol/read", "/vol/sub"]


@pytest.mark.parametrize(
    "program",
    ["echo hello", "exit 1", "echo '{}'", 'echo \'{"sockets": [[1]], "files": [], "processes": {}}\'', "exec yes"],
)
async def test_another_program_by_the_name_of_python_says_nothing(tmp_path: Path, program: str) -> None:
    """The container is not trusted: whatever it says, and however much."""
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    assert await inspection.inspect(["/usr/bin/env", f"PATH={tmp_path}:/usr/bin:/bin"], ["/vol"]) is None

"""Checkpoint and restore of real sandboxes: what survives, what is new, and what happens when saving is impossible."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.nodes.endings import ExitKind
from stoker.runtime import checkpoint, gpu_snapshot
from stoker.runtime.base import BindMount, Container, ContainerSpec
from tests.peer import peer
from tests.runtime.conftest import PYTHON, Bench, Output, new_id

pytestmark = pytest.mark.anyio

# A program with everything that must survive: memory, an open file, a deleted file, a tree of processes with pipes, a listening socket.
# It says one line, then waits until the mounted directory tells it to go on.
PROGRAM = """
import os, socket, subprocess, sys, time
memory = os.urandom(1 << 20)
log = open("/root/log", "w"); log.write("before\\n"); log.flush()
os.remove("/etc/profile") if os.path.exists("/etc/profile") else None
child = subprocess.Popen(["/bin/sh", "-c", "while read line; do echo child of $line; done"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
server = socket.create_server(("0.0.0.0", 8188))
print("ready", hash(memory), flush=True)
while not os.path.exists("/task/go"): time.sleep(0.01)
child.stdin.write("mine\\n"); child.stdin.flush()
log.write("after\\n"); log.flush()
print(open("/task/go").read(), hash(memory), open("/root/log").read().split(), child.stdout.readline().strip(), flush=True)
print(open("/etc/hosts").read().split()[-2], file=sys.stderr, flush=True)
connection, _ = server.accept()
connection.sendall(connection.recv(100).upper())
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Any:
    """Makes a directory of its own for every container."""

    def make(name: str, go: str = "") -> BindMount:
        directory = tmp_path / name
        directory.mkdir()
        if go:
            (directory / "go").write_text(go)
        return BindMount(directory, "/task", read_only=False)

    return make


async def restore(bench: Bench, snapshot: Path, mount: BindMount) -> tuple[Container, Output]:
    output = Output()
    return await bench.runtime.restore(spec_of(bench, mount), snapshot, output), output


def spec_of(bench: Bench, mount: BindMount) -> ContainerSpec:
    return ContainerSpec(
        id=new_id(),
        layers=bench.layers,
        argv=(PYTHON, "-c", PROGRAM),
        env={},
        workdir="/",
        mounts=(*bench.mounts, mount),
    )


async def line(output: Output, number: int = 1) -> str:
    while output.stdout.count(b"\n") < number:
        output.came.clear()
        await output.first()
    return output.text.splitlines()[-1]


async def test_restored_containers_go_on_each_for_itself(sandboxes: Bench, tasks: Any, tmp_path: Path) -> None:
    source, source_output = await sandboxes.start(PYTHON, "-c", PROGRAM, mounts=[tasks("source")])
    ready = await line(source_output)
    memory = ready.split()[1]
    snapshot = tmp_path / "snapshot"
    await source.checkpoint(snapshot)

    copies = [await restore(sandboxes, snapshot, tasks(f"copy{n}", f"copy{n}")) for n in range(3)]
    for n, (copy, output) in enumerate(copies):
        assert await line(output) == f"copy{n} {memory} ['before', 'after'] child of mine"
        assert copy.address is not None

        def talk(address: str = copy.address) -> bytes:
            with socket.create_connection((address, 8188), timeout=10) as connection:
                connection.sendall(b"hello")
                return connection.recv(100)

        assert await asyncio.to_thread(talk) == b"HELLO"
        end = await copy.wait()
        assert (end.kind, end.code) == (ExitKind.EXITED, 0)
        assert output.stderr.decode().strip() == copy.address
    assert len({copy.address for copy, _ in copies}) == 3

    # The saved container itself has gone on as well, and saw nothing of its copies.
    Path(tmp_path / "source" / "go").write_text("source")
    while source_output.text.count("\n") < 2:
        source_output.came.clear()
        await source_output.first()
    assert source_output.text.splitlines()[1] == f"source {memory} ['before', 'after'] child of mine"
    await source.kill()
    assert (await source.wait()).kind is ExitKind.KILLED


async def test_a_container_with_an_open_socket_to_the_host_goes_on_unsaved(
    sandboxes: Bench, scratch: Path, tmp_path: Path
) -> None:
    server = await asyncio.start_unix_server(lambda reader, writer: None, scratch / "host.sock")
    code = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect('/host/host.sock'); print('up', flush=True)\n"
        "for _ in range(1000): time.sleep(0.02); print('on', flush=True)"
    )
    container, output = await sandboxes.start(PYTHON, "-c", code, mounts=[BindMount(scratch, "/host")])
    await output.first()
    with pytest.raises(FailedPrecondition, match="cannot be saved"):
        await container.checkpoint(tmp_path / "snapshot")
    said = len(output.stdout)
    while len(output.stdout) == said:
        output.came.clear()
        await output.first()
    await container.kill()
    await container.wait()
    server.close()


# Says "ready", waits, and says whether its connection and a new one work.
CALLER = """
import os, socket, sys, time
deleted = open("/root/deleted", "w")
if sys.argv[2:]: os.unlink("/root/deleted")
def ask(connection):
    connection.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n"); return connection.recv(1000)[:8].decode()
connection = socket.create_connection((sys.argv[1], 8080), timeout=20)
print("ready", ask(connection), flush=True)
while not os.path.exists("/task/go"): time.sleep(0.01)
try: ask(connection); print("alive", end=" ")
except ConnectionAbortedError: print("cut", end=" ")
print(ask(socket.create_connection((sys.argv[1], 8080), timeout=20)), flush=True)
time.sleep(600)
"""


async def test_connections_to_other_machines_are_cut_at_once_and_can_be_made_anew(
    sandboxes: Bench, tasks: Any, tmp_path: Path
) -> None:
    with peer() as address:
        mount, command = tasks("source"), (PYTHON, "-c", CALLER, address)
        source, said = await sandboxes.start(*command, mounts=[mount])
        assert await line(said) == "ready HTTP/1.1", said.stderr.decode()
        await source.checkpoint(tmp_path / "snapshot")
        (mount.source / "go").write_text("")
        copied = Output()
        spec = replace(spec_of(sandboxes, tasks("copy", "copy")), argv=command)
        copy = await sandboxes.runtime.restore(spec, tmp_path / "snapshot", copied)
        assert await line(copied) == "cut HTTP/1.1", copied.stderr.decode()
        assert await line(said, 2) == "cut HTTP/1.1", said.stderr.decode()
        for container in (source, copy):
            await container.kill()
            await container.wait()


async def test_a_save_that_fails_leaves_a_network_that_works(sandboxes: Bench, tasks: Any, tmp_path: Path) -> None:
    with peer() as address:
        mount = tasks("source")
        source, said = await sandboxes.start(PYTHON, "-c", CALLER, address, "delete", mounts=[mount])
        assert await line(said) == "ready HTTP/1.1", said.stderr.decode()
        with pytest.raises(FailedPrecondition) as failure:
            await source.checkpoint(tmp_path / "snapshot")
        assert "root/deleted is open and was deleted" in str(failure.value) and "\n" not in str(failure.value)
        (mount.source / "go").write_text("")
        assert await line(said, 2) == "cut HTTP/1.1", said.stderr.decode()
        await source.kill()
        await source.wait()


async def test_a_disk_that_is_too_small_is_noticed_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="MiB free"):
        await checkpoint.save(["/bin/false"], (), "ta-1", tmp_path, tmp_path / "snapshot", 1 << 60)
    assert not (tmp_path / "snapshot").exists()


async def test_a_damaged_snapshot_ends_the_container_as_failed(sandboxes: Bench, tasks: Any, tmp_path: Path) -> None:
    source, output = await sandboxes.start(PYTHON, "-c", PROGRAM, mounts=[tasks("source")])
    await line(output)
    snapshot = tmp_path / "snapshot"
    await source.checkpoint(snapshot)
    await source.kill()
    await source.wait()
    image = snapshot / "image" / "checkpoint.img"
    image.write_bytes(image.read_bytes()[:1000])
    copy, _ = await restore(sandboxes, snapshot, tasks("copy", "copy"))
    end = await copy.wait()
    assert end.kind is ExitKind.FAILED and end.detail
    shutil.rmtree(snapshot)
    with pytest.raises(InvalidArgument):
        await restore(sandboxes, snapshot, tasks("other", "other"))


def test_gpu_memory_is_saved_only_where_everything_for_it_is_there() -> None:
    old = "  -compression value\n  -direct\n"
    new = old + "  -cuda-checkpoint-path string\n"
    newest = new + "  -cuda-checkpoint-sequential\n"
    assert "newer" in gpu_snapshot.obstacle(old, "/usr/bin/cuda-checkpoint")
    assert gpu_snapshot.obstacle(new, "/usr/bin/cuda-checkpoint") == ""
    assert gpu_snapshot.save_flags(new) == ("--cuda-checkpoint-path=/__modal/.bin/cuda-checkpoint",)
    assert gpu_snapshot.save_flags(newest)[1:] == ("--cuda-checkpoint-sequential",)
    assert gpu_snapshot.global_flags("  -network value\n") == ()
    assert gpu_snapshot.global_flags(newest) == ("--cuda-checkpoint-path=/__modal/.bin/cuda-checkpoint",)
    assert gpu_snapshot.tool_mount("/usr/bin/env").target == "/__modal/.bin/cuda-checkpoint"


async def test_this_machine_says_who_may_restore_its_snapshots(sandboxes: Bench) -> None:
    assert len(sandboxes.runtime.snapshot_build()) == 64
    assert sandboxes.runtime.gpu_snapshot_obstacle()


async def test_sandboxes_are_offered_huge_pages(sandboxes: Bench) -> None:
    offer = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    if not offer.exists():
        pytest.skip("this kernel has none")
    assert "[never]" not in offer.read_text() or not os.access(offer, os.W_OK)


async def test_a_prepared_sandbox_takes_the_snapshot(sandboxes: Bench, tasks: Any, tmp_path: Path) -> None:
    snapshot = await saved(sandboxes, tasks, tmp_path)
    output, spec = Output(), spec_of(sandboxes, tasks("copy", "copy"))
    assert await sandboxes.runtime.prepare(spec, snapshot)
    waiting = processes_of(sandboxes, spec.id)
    assert waiting

    copy = await sandboxes.runtime.restore(replace(spec, env={"OTHER": "1"}), snapshot, output)
    assert (await line(output)).startswith("copy ")
    assert waiting <= processes_of(sandboxes, spec.id)  # the same sandbox, not another one
    address = copy.address
    assert address is not None
    with await asyncio.to_thread(socket.create_connection, (address, 8188), 10):
        pass
    assert (await copy.wait()).kind is ExitKind.EXITED
    assert output.stderr.decode().strip() == address


@pytest.mark.parametrize("change", ["argv", "mount", "replaced", "snapshot", "dead"])
async def test_a_prepared_sandbox_that_does_not_fit_gives_way(
    sandboxes: Bench, tasks: Any, tmp_path: Path, change: str
) -> None:
    snapshot = await saved(sandboxes, tasks, tmp_path)
    output, mount = Output(), tasks("copy", "copy")
    spec = spec_of(sandboxes, mount)
    assert await sandboxes.runtime.prepare(spec, snapshot)
    waiting = processes_of(sandboxes, spec.id)
    if change == "argv":
        spec = replace(spec, argv=(PYTHON, "-c", "pass"))
    elif change == "mount":
        spec = replace(spec, mounts=(*sandboxes.mounts, replace(mount, source=tasks("other", "other").source)))
    elif change == "replaced":
        mount.source.rename(tmp_path / "old")
        shutil.copytree(tmp_path / "old", mount.source)
    elif change == "snapshot":
        snapshot = Path(shutil.copytree(snapshot, tmp_path / "another"))
    else:
        for process in waiting:
            os.kill(process, signal.SIGKILL)
        while processes_of(sandboxes, spec.id):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    copy = await sandboxes.runtime.restore(spec, snapshot, output)
    assert (await line(output)).startswith("other " if change == "mount" else "copy ")
    assert not waiting & processes_of(sandboxes, spec.id)
    await copy.kill()
    await copy.wait()


async def test_a_prepared_sandbox_is_discarded_without_a_trace(sandboxes: Bench, tasks: Any, tmp_path: Path) -> None:
    snapshot = await saved(sandboxes, tasks, tmp_path)
    spec = spec_of(sandboxes, tasks("copy", "copy"))
    assert await sandboxes.runtime.prepare(spec, snapshot)
    with pytest.raises(InvalidArgument, match="running already"):
        await sandboxes.runtime.prepare(spec, snapshot)
    await sandboxes.runtime.discard(spec.id)
    await sandboxes.runtime.discard(spec.id)
    assert not processes_of(sandboxes, spec.id)
    with pytest.raises(FailedPrecondition, match="could not be prepared"):
        nowhere = BindMount(tmp_path / "copy", "/etc/hostname/below-a-file")
        await sandboxes.runtime.prepare(replace(spec, mounts=(*spec.mounts, nowhere)), snapshot)
    assert not await sandboxes.runtime.prepare(replace(spec, gpu_devices=(0,)), snapshot)
    inner = BindMount(tmp_path / "copy", "/v", within=tmp_path)
    assert not await sandboxes.runtime.prepare(replace(spec, mounts=(inner,)), snapshot)


async def saved(bench: Bench, tasks: Any, tmp_path: Path) -> Path:
    """A snapshot of PROGRAM."""
    source, output = await bench.start(PYTHON, "-c", PROGRAM, mounts=[tasks("source")])
    await line(output)
    await source.checkpoint(tmp_path / "snapshot")
    await source.kill()
    await source.wait()
    return tmp_path / "snapshot"


def processes_of(bench: Bench, id: str) -> set[int]:
    """The sandbox and its helpers, by the container's id in their command lines."""
    found = set()
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                command = (directory / "cmdline").read_bytes()
            except OSError:
                continue
            if id.encode() in command and b"runsc-" in command.split(b"\0")[0]:
                found.add(int(directory.name))
    return found

"""A real gVisor runtime, and a root file system that borrows the host's own programs: nothing has to be built or downloaded."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from stoker.nodes.endings import Exit
from stoker.runtime.base import BindMount, Container, ContainerSpec, Runtime
from stoker.runtime.runsc import RunscRuntime
from stoker.runtime.runsc_binary import find_runsc

PYTHON = os.path.realpath(sys.executable)
GATEWAY_PORT = 47691
_numbers = count(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Output:
    """Collects what a container writes."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, descriptor: int, chunk: bytes) -> None:
        (self.stdout if descriptor == 1 else self.stderr).extend(chunk)
        self.came.set()

    async def first(self) -> None:
        """Waits until there is something."""
        await asyncio.wait_for(self.came.wait(), 30)

    @property
    def text(self) -> str:
        return self.stdout.decode()


@dataclass
class Bench:
    """A runtime with what a spec needs to run the host's programs in it."""

    runtime: Runtime
    layers: tuple[Path, ...] = ()
    mounts: tuple[BindMount, ...] = ()

    async def start(self, *argv: str, **changes: Any) -> tuple[Container, Output]:
        output = Output()
        changes = {"env": {"PATH": "/usr/bin:/bin"}, "workdir": "/", "layers": self.layers} | changes
        changes["mounts"] = self.mounts + tuple(changes.get("mounts", ()))
        return await self.runtime.start(ContainerSpec(id=new_id(), argv=argv, **changes), output), output

    async def run(self, *argv: str, **changes: Any) -> tuple[Exit, Output]:
        container, output = await self.start(*argv, **changes)
        return await container.wait(), output

    async def python(self, code: str, *arguments: str, **changes: Any) -> tuple[Exit, Output]:
        return await self.run(PYTHON, "-c", code, *arguments, **changes)


def new_id() -> str:
    return f"ta-{next(_numbers):022d}"


def host_root(directory: Path) -> tuple[tuple[Path, ...], tuple[BindMount, ...]]:
    """A layer with the skeleton of a root file system, and mounts that fill it with the host's programs and libraries."""
    layer = directory / "skeleton"
    for name in ("etc", "root", "tmp", "usr"):
        (layer / name).mkdir(parents=True)
    mounts = [BindMount(Path("/usr"), "/usr")]
    for name in ("bin", "sbin", "lib", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            (layer / name).symlink_to(os.readlink(path))
        elif path.is_dir():
            mounts.append(BindMount(path, str(path)))
    if not sys.base_prefix.startswith("/usr/") or sys.base_prefix.startswith("/usr/local"):
        mounts.append(BindMount(Path(sys.base_prefix), sys.base_prefix))
    return (layer,), tuple(mounts)


def runsc_runtime(state: Path, gateway_port: int = GATEWAY_PORT) -> RunscRuntime:
    return RunscRuntime(state, runsc=find_runsc(), gateway_port=gateway_port, pool_size=3)


@dataclass(frozen=True)
class HostState:
    """What runtimes create on a machine, as far as it carries their names or lies below `directory`."""

    mounts: frozenset[str]
    namespaces: frozenset[str]
    links: frozenset[str]
    groups: frozenset[str]
    tables: frozenset[str]

    @staticmethod
    def of(runtime_tag: str, directory: Path) -> HostState:
        mounts = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
        namespaces = set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()
        groups = {str(path) for path in Path("/sys/fs/cgroup").glob(f"**/stoker-{runtime_tag}*")}
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )
        return HostState(
            mounts=frozenset(mount for mount in mounts if mount.startswith(str(directory)) or runtime_tag in mount),
            namespaces=frozenset(name for name in namespaces if runtime_tag in name),
            links=frozenset(name for name in os.listdir("/sys/class/net") if runtime_tag in name),
            groups=frozenset(groups),
            tables=frozenset(table for table in tables if runtime_tag in table),
        )

    @property
    def empty(self) -> bool:
        return not (self.mounts or self.namespaces or self.links or self.groups or self.tables)


@pytest.fixture(scope="session")
def needs_root() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("gVisor sandboxes need root on Linux")


@pytest.fixture(scope="session")
async def sandboxes(needs_root: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One open gVisor runtime for all tests that do not close it themselves."""
    directory = tmp_path_factory.mktemp("sandboxes")
    layers, mounts = host_root(directory)
    runtime = runsc_runtime(directory / "state")
    await runtime.open()
    yield Bench(runtime, layers, mounts)
    await runtime.close()


@pytest.fixture(scope="session")
def elsewhere(needs_root: None) -> Iterator[tuple[str, str]]:
    """Another machine, so to speak: a namespace that echoes on TCP port 7 at the two addresses given, one of them link-local."""
    name, public, local = "stoker-test-elsewhere", "198.51.100.2", "169.254.77.77"
    for leftover in (["link", "delete", "sk-elsewhere"], ["netns", "delete", name]):
        subprocess.run(["ip", *leftover], capture_output=True)
    host = (
        f"netns add {name}\nlink add sk-elsewhere type veth peer name far netns {name}\naddr add 198.51.100.1/30 dev sk-elsewhere\n"
        f"link set sk-elsewhere up\n"
    )
    inside = f"link set lo up\naddr add {public}/30 dev far\naddr add {local}/32 dev lo\nlink set far up\n"
    subprocess.run(["ip", "-batch", "-"], input=host, text=True, check=True)
    subprocess.run(["ip", "-n", name, "-batch", "-"], input=inside, text=True, check=True)
    subprocess.run(["ip", "route", "add", f"{local}/32", "via", public], check=True)
    code = (
        "import socket; s = socket.create_server(('0.0.0.0', 7)); print('up', flush=True)\n"
        "while True:\n c, _ = s.accept(); c.sendall(c.recv(100)); c.close()"
    )
    server = subprocess.Popen(["ip", "netns", "exec", name, PYTHON, "-c", code], stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"up\n"
    yield public, local
    server.kill()
    server.wait()
    subprocess.run(["ip", "link", "delete", "sk-elsewhere"], check=True)
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory whose path is short enough for a unix socket."""
    path = Path("/tmp") / f"stoker-test-{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)

"""The seam between the node and whatever runs a container: gVisor (`runsc.py`), plain processes (`process.py`), a fake in tests."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

OutputSink = Callable[[int, bytes], None]
"""Called with (file descriptor 1 or 2, a chunk of bytes as it came); the node cuts the chunks into lines."""


@dataclass(frozen=True)
class BindMount:
    """`source` on the host appears at the absolute path `target` in the container. `source` must exist."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Limits:
    """What a container may use. None means the whole machine."""

    cpu_milli: int | None = None
    memory_bytes: int | None = None
    pids: int = 4096


@dataclass(frozen=True)
class ContainerSpec:
    """Everything a runtime needs to start one container; the runtime asks nobody else.

    `layers` are host directories, uppermost first, that together form "/" (read-only; the runtime puts a private writable layer on top).
    The process runtime cannot do that: there the layers only extend PYTHONPATH.
    """

    id: str
    layers: tuple[Path, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    workdir: str
    mounts: tuple[BindMount, ...] = ()
    limits: Limits = field(default_factory=Limits)
    network: bool = True
    gpu_devices: tuple[int, ...] = ()
    """Indices of real GPUs to pass in; empty for none and for declared (fake) ones."""


class ExitKind(str, enum.Enum):
    EXITED = "exited"  # by itself, with an exit code
    OOM = "oom"  # the kernel killed it for memory
    KILLED = "killed"  # we killed it
    FAILED = "failed"  # never started, or the sandbox itself crashed


@dataclass(frozen=True)
class Exit:
    """How a container ended. `code` is the exit code of its first process (128+n for signal n), `detail` a sentence for the user."""

    kind: ExitKind
    code: int
    detail: str = ""


@dataclass(frozen=True)
class Usage:
    """Resources used so far. `cpu_seconds` from the cgroup (never from inside the sandbox), `memory_bytes` now."""

    cpu_seconds: float
    memory_bytes: int


class Container(Protocol):
    """A running container."""

    @property
    def id(self) -> str: ...

    @property
    def address(self) -> str | None:
        """Where the host reaches ports that the container listens on; None for a container without network."""
        ...

    async def wait(self) -> Exit:
        """Waits for the end. By the time it returns all output was delivered and nothing of the container is left on the host
        (no process, mount, cgroup, namespace). May be awaited by several tasks and again after the end."""
        ...

    async def signal(self, number: int) -> None:
        """Sends a signal to the user's process. No error when it has ended."""
        ...

    async def kill(self) -> None:
        """Ends every process of the container at once. No error when it has ended."""
        ...

    async def usage(self) -> Usage | None:
        """What the container uses now, None where the platform cannot tell or it has ended."""
        ...


class Runtime(Protocol):
    """Starts containers. One instance per server."""

    name: str
    isolates: bool
    """False when containers share the host's files (the process runtime): images are then not built."""

    async def open(self) -> None:
        """Prepares the machine and removes what a killed server of the same data directory left behind.

        Raises FailedPrecondition with the sentence for the user when something is missing (not root, no runsc, ...)."""
        ...

    async def close(self) -> None:
        """Kills all containers and leaves nothing behind: no mounts, namespaces, cgroups, firewall rules, processes."""
        ...

    async def start(self, spec: ContainerSpec, output: OutputSink) -> Container:
        """Starts one container; returns when its first process was launched. Raises StokerError when that fails."""
        ...

    def host_address(self) -> str | None:
        """The address at which containers reach the server's own HTTP gateway (172.21.0.1), or None for loopback."""
        ...

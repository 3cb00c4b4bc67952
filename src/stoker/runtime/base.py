"""The seam between the node and whatever runs a container: gVisor (`runsc.py`), plain processes (`process.py`), a fake in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stoker.nodes.endings import Exit, Limits, Usage
from stoker.runtime.inspection import Inspection

OutputSink = Callable[[int, bytes], "asyncio.Future[None] | None"]
"""Called with (file descriptor 1 or 2, a chunk of bytes as it came); the node cuts the chunks into lines. A future says that there is no
room for more until it is done: nothing is read meanwhile, which holds the container's writers up."""


@dataclass(frozen=True)
class BindMount:
    """`source` on the host appears at the absolute path `target` in the container. `source` must exist."""

    source: Path
    target: str
    read_only: bool = True
    direct: bool = False
    """Whether what the container closes is closed on the host at once; else a sandbox may keep it open for a next use."""
    within: Path | None = None
    """A directory above `source` that others write to: no link that they put on the way from here to there may be followed."""


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
    keep: Path | None = None
    """Where what the container wrote to its own files is put at its end, a new directory on the file system of the runtime's; None: nowhere."""
    gpu_snapshot: bool = False
    """Whether memory snapshots of this container include the memory of its GPUs."""
    own: tuple[Path, ...] = ()
    """Directories of the host that hold only what this container writes, so that they count as its own."""


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

    async def stuck(self, timeout: float) -> str:
        """Why its program cannot go on, the last part of a sentence, such as "its sandbox does not answer"; within about `timeout` seconds.
        Empty when it can, though it may be busy, and when it has ended."""
        ...

    async def open_files(self, places: Sequence[str]) -> list[str]:
        """Paths inside the container, at or below `places`, that are open there or the working directory of a process; sorted.
        Empty when it has ended."""
        ...

    async def inspect(self, places: Sequence[str]) -> Inspection | None:
        """What its processes hold open: sockets, the files at or below `places`, deleted files. None when it has ended or cannot be asked."""
        ...

    async def checkpoint(self, directory: Path) -> None:
        """Saves memory, processes and private files into `directory`, which must not exist yet; the container then goes on.

        Its connections to other machines are cut, also when it cannot be saved: its programs see that, and can connect anew. Nobody outside
        may hold a unix socket of the container open. Raises FailedPrecondition when it cannot be saved; it goes on also then, `directory` is
        worthless and the caller's to delete."""
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

    def memory_ceiling(self) -> int | None:
        """Bytes of memory that all containers together may have; None when nothing holds them to it."""
        ...

    def snapshot_build(self) -> str:
        """What must be equal for a snapshot taken here to be restored elsewhere (or later). Empty when snapshots cannot be taken."""
        ...

    def gpu_snapshot_obstacle(self) -> str:
        """Why snapshots cannot include GPU memory here, a sentence; empty when they can."""
        ...

    async def restore(self, spec: ContainerSpec, directory: Path, output: OutputSink) -> Container:
        """Starts a container from what `Container.checkpoint` saved in `directory`, which must stay until the container has ended.

        `spec` is that of the saved container but for its id, the sources of its mounts, and its environment, which running processes keep
        as it was. Returns when the restore was launched; a restore that fails ends the container with ExitKind.FAILED."""
        ...

    async def prepare(self, spec: ContainerSpec, directory: Path) -> bool:
        """Does what `restore(spec, directory)` can do before it reads the snapshot, so that it will take less long; False when that is not
        possible. A start or restore of the same id that turns out to want something else discards it. Raises StokerError."""
        ...

    async def discard(self, id: str) -> None:
        """Removes what `prepare` made for the container `id` and was not used."""
        ...

    def host_address(self) -> str | None:
        """The address at which containers reach the server's own HTTP gateway (172.21.0.1), or None for loopback."""
        ...

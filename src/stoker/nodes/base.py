"""The seam between the control plane and a machine: what may be asked of a node. `agent/` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from stoker.nodes.buckets import BucketMount
from stoker.nodes.endings import Exit, Usage
from stoker.nodes.messages import ContainerRequest, LineSink, VolumeDir


class Container(Protocol):
    """A container that runs on a node. Made by `Node.start`."""

    @property
    def id(self) -> str: ...

    @property
    def address(self) -> str | None:
        """Where the server reaches the ports that it listens on; None for a container without network."""
        ...

    @property
    def went_on(self) -> bool:
        """Whether it was let go after it asked to be saved."""
        ...

    async def wait(self) -> Exit:
        """Waits for its end; nothing of it is left on the node then, and all output has been passed on. May be awaited by several tasks."""
        ...

    async def signal(self, number: int) -> None:
        """Sends a signal to the user's process. No error when it has ended."""
        ...

    async def kill(self) -> None:
        """Ends every process of the container at once. No error when it has ended."""
        ...

    async def usage(self) -> Usage | None:
        """What it uses now; None when that is not known, and when it has ended."""
        ...

    async def stuck(self, timeout: float) -> str:
        """Why its program cannot go on, the last part of a sentence, within about `timeout` seconds. Empty when it can, and when it has ended."""
        ...

    async def open_in(self, volume_id: str) -> list[str]:
        """The paths of its open files in a volume."""
        ...

    async def save(self, directory: Path) -> int:
        """Saves it as a snapshot and lets it go on, also when it could not be saved; returns the bytes on disk. Raises StokerError,
        CannotBeSaved when the next one could not be saved either."""
        ...

    def let_go(self) -> None:
        """It asked to be saved and goes on unsaved. Raises OSError."""
        ...


class Node(Protocol):
    """A machine that runs containers. Who makes it: the composition root. Who asks it: the launcher, and what belongs to it."""

    def start_slots(self) -> int:
        """How many more containers are worth starting at once just now: none while the processors are busy."""
        ...

    def socket_path(self, task_id: str) -> Path:
        """Where the server listens for what the container asks. Raises OSError, as on a full disk."""
        ...

    def discard_task_dir(self, task_id: str) -> None:
        """Removes what is left of a container, if there is anything."""
        ...

    async def start(self, request: ContainerRequest, write: LineSink) -> Container:
        """Starts a container; its output goes line by line to `write(fd, text)`. Those that come from a snapshot take turns. Raises
        StokerError."""
        ...

    def up(self, task_id: str) -> None:
        """The container asks for its first input: it is the next one's turn to be restored."""
        ...

    async def prepare(self, request: ContainerRequest) -> bool:
        """Does ahead of time what `start` need not wait with, for a request that comes from a snapshot; False when it cannot be done. Raises
        StokerError, OSError, Unavailable when the server stops."""
        ...

    async def discard(self, task_id: str) -> None:
        """Removes what `prepare` made for a container that does not run (any more)."""
        ...

    async def make_base(self, request: ContainerRequest, directory: Path) -> int:
        """Saves as `directory` a container like those of `request` that has imported the client and waits to be told whose it is. Returns the
        bytes on disk. Raises StokerError, Unavailable when the server stops meanwhile."""
        ...

    def snapshot_identity(self, gpu: str) -> str:
        """What must be equal for a snapshot to be usable on this node, by a container with such a GPU. Empty: none can be taken."""
        ...

    def gpu_snapshot_obstacle(self) -> str:
        """Why snapshots cannot include GPU memory here, a sentence; empty when they can."""
        ...

    def can_restore(self, snapshot: Path) -> bool:
        """Whether all files that a container from this snapshot needs are there."""
        ...

    async def changed_since(self, snapshot: Path, volumes: Sequence[VolumeDir]) -> str:
        """Says which file of a volume, open when the snapshot was made, is another one now; empty when none is."""
        ...

    async def check_bucket(self, bucket: BucketMount) -> None:
        """Asks a bucket whether it can be read. Raises InvalidArgument, FailedPrecondition, Unavailable when it is not reached."""
        ...

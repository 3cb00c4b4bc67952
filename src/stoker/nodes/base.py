"""The seam between the control plane and a machine: what may be asked of a node, and what it tells. `agent/` implements it.

What is asked and told is plain values, which a wire can carry (`wire.py`); what it is about is named by ids. Nothing here is a path of some
machine. What a node raises is a StokerError. When something else goes wrong in it (a full disk, a fault of its own), a node of this process raises
that as it is, and of one that is far away it comes as a StokerError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from stoker.nodes.buckets import BucketMount
from stoker.nodes.builds import ContextRef, ImageConfig, ImageSpec, Leftover
from stoker.nodes.endings import Exit, Usage
from stoker.nodes.messages import ContainerRequest, Started, VolumeUse

P = TypeVar("P", bound=asyncio.Protocol)


class Node(Protocol):
    """A machine that runs containers. Made by the composition root; asked by the services."""

    @property
    def containers(self) -> Containers: ...

    @property
    def files(self) -> Files: ...

    @property
    def builds(self) -> Builds: ...

    @property
    def ports(self) -> Ports: ...

    def observe(self, observer: Observer) -> None:
        """Who is told what happens on the node; once, before anything is asked."""
        ...

    def start_slots(self) -> int:
        """How many more containers are worth starting at once just now: none while the processors are busy."""
        ...

    def disk_free(self) -> int:
        """Bytes that are free on the disk of its containers."""
        ...

    def snapshot_identity(self, gpu: str) -> str:
        """What must be equal for a snapshot to be usable on this node, by a container with such a GPU. Empty: none can be taken."""
        ...

    def gpu_snapshot_obstacle(self) -> str:
        """Why snapshots cannot include GPU memory here, a sentence; empty when they can."""
        ...


class Observer(Protocol):
    """Is told what happens on a node. Called from the event loop; must not raise."""

    def called(self, task_id: str) -> None:
        """A container has connected to the control plane for the first time."""
        ...

    def output(self, task_id: str, fd: int, text: str) -> asyncio.Future[None] | None:
        """A container has written whole lines to file descriptor 1 or 2. A future says that no more is wanted until it is done."""
        ...

    def ended(self, task_id: str, exit: Exit) -> None:
        """A container that was started has ended. All its output has been told, and nothing of it is left on the node."""
        ...

    def layer_compared(self, name: str, wrong: str) -> None:
        """A layer was compared with its digests. wrong: what is wrong with it, "" for nothing."""
        ...

    def build_output(self, image_id: str, text: str) -> None:
        """A build has written text, line ends included."""
        ...


class Containers(Protocol):
    """The containers of a node, by the ids of their tasks."""

    async def start(self, request: ContainerRequest) -> Started:
        """Starts a container, of whose end the observer is told. Those that come from a snapshot take turns. Raises StokerError; of one that
        was not started nothing is told."""
        ...

    async def up(self, task_id: str) -> None:
        """The container asks for its first input: it is the next one's turn to be restored."""
        ...

    async def signal(self, task_id: str, number: int) -> None:
        """Sends a signal to the user's process. No error when the container has ended."""
        ...

    async def kill(self, task_id: str) -> None:
        """Ends every process of the container at once. No error when it has ended."""
        ...

    async def stuck(self, task_id: str, timeout: float) -> str:
        """Why its program cannot go on, the last part of a sentence, within about `timeout` seconds. Empty when it can, and when it has ended."""
        ...

    async def usage(self, task_id: str) -> Usage | None:
        """What it uses now; None when that is not known, and when it has ended."""
        ...

    async def open_files(self, task_id: str, volume_id: str) -> Sequence[str]:
        """The paths of its open files in a volume; empty when it has ended."""
        ...

    async def save(self, task_id: str, snapshot_id: str) -> int:
        """Saves a container that asked for it, as soon as it has closed its connections, as an unfinished snapshot, and lets it go on, also when
        it could not be saved; one that cannot be let go is ended. Returns the bytes on disk. Raises StokerError, CannotBeSaved when the next
        one could not be saved either."""
        ...

    async def make_base(self, request: ContainerRequest, snapshot_id: str) -> int:
        """Saves as an unfinished snapshot a container like those of `request` that has imported the client and waits to be told whose it is.
        Returns the bytes on disk. Raises StokerError, Unavailable when the node stops meanwhile."""
        ...

    async def can_restore(self, snapshot_id: str) -> bool:
        """Whether all files that a container from this snapshot needs are there."""
        ...

    async def changed_since(self, snapshot_id: str, volumes: Sequence[VolumeUse]) -> str:
        """Says which file of a volume, open when the snapshot was made, is another one now; empty when none is."""
        ...

    async def prepare(self, request: ContainerRequest) -> bool:
        """Does ahead of time what `start` need not wait with, for a request that comes from a snapshot; False when it cannot be done. `start`
        uses it when it is what the request then asks for. Raises StokerError, Unavailable when the node stops."""
        ...

    async def discard(self, task_id: str) -> None:
        """Removes what is left of a container that does not run, or what `prepare` made for it."""
        ...


class Files(Protocol):
    """What containers mount from elsewhere."""

    async def check_bucket(self, bucket: BucketMount) -> None:
        """Asks a bucket whether it can be read. Raises InvalidArgument, FailedPrecondition, Unavailable when it is not reached."""
        ...


class Builds(Protocol):
    """The images of a node. What a build says is told to the observer, all of it before the build returns."""

    async def build(self, image_id: str, spec: ImageSpec, context: ContextRef) -> ImageConfig:
        """Builds one layer. Raises ImageBuildFailed (with the end of the step's own output) or another StokerError."""
        ...

    async def adopt(self, image_id: str, spec: ImageSpec, task_id: str, function_id: str) -> ImageConfig:
        """Makes a layer of what a container wrote that was to be kept. Raises StokerError."""
        ...

    async def drop_kept(self, function_id: str) -> None:
        """Removes what is kept of the containers of a function."""
        ...

    async def has(self, image_id: str) -> bool:
        """Whether an image that was built still has its files."""
        ...

    async def layers(self, image_id: str) -> Sequence[str]:
        """The names of the layers of an image that is in use. Those that were not compared with their digests for a day are, beside, and the
        observer is told. Raises NotFound."""
        ...

    async def has_layer(self, name: str) -> bool:
        """Whether a layer is there."""
        ...

    async def remove(self, image_id: str) -> None:
        """Removes the files of an image that no container runs from; what others are built on stays."""
        ...

    async def leftovers(self, keep: Sequence[str], before: float) -> Sequence[Leftover]:
        """What nobody used since `before` (seconds since the epoch), but for the images `keep`. Raises FailedPrecondition while images are being
        built."""
        ...

    async def free(self, item: Leftover) -> bool:
        """Removes one of them; whether it is gone. Raises FailedPrecondition while images are being built."""
        ...

    async def tidy(self) -> None:
        """Removes what belongs to nothing any more."""
        ...

    async def close(self) -> None:
        """Ends what is left of builds. No image can be used after that."""
        ...


class Ports(Protocol):
    """The ports that containers listen on."""

    async def listening(self, task_id: str, port: int) -> bool:
        """Waits until a port of a container takes connections; False when the container has ended before that, or has no network."""
        ...

    async def connect(self, task_id: str, port: int, make: Callable[[], P]) -> P:
        """A new connection to a port of a container. Raises OSError when nobody listens there."""
        ...

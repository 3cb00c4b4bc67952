"""The machine that the server runs on, as a node: nothing is in between, and nothing is copied."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from stoker.agent import snapshot_files as snapshots
from stoker.agent.bucket_mounts import BucketMounts
from stoker.agent.builds import LocalBuilds
from stoker.agent.containers import LocalContainers
from stoker.agent.layers import LayerReader
from stoker.agent.places import Places
from stoker.agent.ports import LocalPorts
from stoker.agent.processors import Processors
from stoker.agent.sockets import Sockets, Uplink
from stoker.images.base import ImageBuilder
from stoker.nodes.base import Observer
from stoker.nodes.buckets import BucketMount
from stoker.nodes.endings import Exit
from stoker.runtime.base import Runtime

_LONGEST_SOCKET_PATH = 100  # bytes; the kernel allows 107


class LocalNode:
    """Implements `nodes.base.Node` with a runtime and an image builder. Made by the composition root, which opens and closes it."""

    def __init__(
        self,
        runtime: Runtime,
        builder: ImageBuilder,
        places: Places,
        uplink: Uplink,
        directory: Path,
        images: Path,
        local_endpoints: Collection[str] = (),
    ) -> None:
        """directory: for what lives as long as the server; emptied at start and end. images: the images' own directory. local_endpoints: see `BucketMounts`."""
        self._runtime = runtime
        self._directory = directory
        self._observer: Observer
        self._buckets = BucketMounts(directory / "buckets", local_endpoints)
        self._processors = Processors()
        self._kept = directory / "kept"
        self._hook_layer = directory / "snapshot-hook"
        self.containers = LocalContainers(
            runtime=runtime,
            builder=builder,
            places=places,
            buckets=self._buckets,
            sockets=Sockets(uplink, self._called),
            hook_layer=self._hook_layer,
            kept=self._kept,
            restores_at_once=self._processors.count,
            write=self._output,
            on_end=self._ended,
        )
        self.files = self
        self.builds = LocalBuilds(
            builder, places, LayerReader(images, builder, self._layer_compared), self._kept, self._build_output
        )
        self.ports = LocalPorts(self.containers.address)

    async def open(self) -> None:
        """Raises FailedPrecondition when the machine lacks something."""
        tasks = self._directory / "tasks"
        for directory in (tasks, self._kept):
            shutil.rmtree(directory, ignore_errors=True)
        tasks.mkdir(mode=0o700, parents=True)
        longest = tasks / ("x" * 25) / "modal.sock"
        if len(str(longest)) > _LONGEST_SOCKET_PATH:
            # Sockets of a data directory with a long path live in a short one.
            digest = hashlib.sha256(str(tasks).encode()).hexdigest()[:12]
            tasks = Path(tempfile.gettempdir()) / f"stoker-{digest}"
            shutil.rmtree(tasks, ignore_errors=True)
            tasks.mkdir(mode=0o700)
        self.containers.task_dirs = tasks
        await self._runtime.open()
        await self._buckets.open()
        snapshots.make_hook_layer(self._hook_layer)

    async def close(self) -> None:
        """Ends all containers."""
        await self.containers.close(self._runtime.close)
        await self._buckets.close()
        shutil.rmtree(self.containers.task_dirs, ignore_errors=True)

    def observe(self, observer: Observer) -> None:
        self._observer = observer

    def start_slots(self) -> int:
        return self._processors.start_slots()

    def disk_free(self) -> int:
        return shutil.disk_usage(self._directory).free

    def snapshot_identity(self, gpu: str) -> str:
        build = self._runtime.snapshot_build()
        return snapshots.machine_identity(build, gpu) if build else ""

    def gpu_snapshot_obstacle(self) -> str:
        return self._runtime.gpu_snapshot_obstacle()

    async def check_bucket(self, bucket: BucketMount) -> None:
        await self._buckets.check(bucket)

    def _called(self, task_id: str) -> None:
        self._observer.called(task_id)

    def _output(self, task_id: str, fd: int, text: str) -> asyncio.Future[None] | None:
        return self._observer.output(task_id, fd, text)

    def _ended(self, task_id: str, exit: Exit) -> None:
        self._observer.ended(task_id, exit)

    def _layer_compared(self, name: str, wrong: str) -> None:
        self._observer.layer_compared(name, wrong)

    def _build_output(self, image_id: str, text: str) -> None:
        self._observer.build_output(image_id, text)

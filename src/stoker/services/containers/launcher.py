"""Starts the container of a function: finds room, gathers what it needs, and gives everything back at its end."""

from __future__ import annotations

import asyncio
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from stoker.core.pool import PooledInput
from stoker.engine.base import Engine, Granted, Never, NotNow
from stoker.errors import FailedPrecondition, InvalidArgument, NotFound
from stoker.ids import is_id
from stoker.nodes.base import Container, Node
from stoker.nodes.messages import ContainerRequest, VolumeDir
from stoker.services.containers.bases import Bases
from stoker.services.containers.checkpoints import Checkpoints
from stoker.services.containers.identity import ContainerIdentity
from stoker.services.containers.snapshots import Snapshot, Snapshots, SnapshotUse
from stoker.services.containers.spares import Spares
from stoker.services.containers.special_bits import SpecialBits
from stoker.services.containers.surroundings import Surroundings
from stoker.services.containers.task import Task
from stoker.services.containers.task_records import TaskRecords
from stoker.services.files.buckets import Buckets
from stoker.services.files.mounts import Mounts
from stoker.services.files.network_files import NetworkFiles
from stoker.services.files.volumes import Volumes
from stoker.services.functions.spec import Definition, Function
from stoker.services.functions.wire import Wire
from stoker.services.images.images import Images
from stoker.services.images.layer_checks import LayerChecks
from stoker.services.state.secrets import Secrets
from stoker.services.telemetry.logs import INFO, Logs
from stoker.services.telemetry.metrics import Metrics
from stoker.store.database import Database

_MOST_CALLS = 32  # that one piece of output is said to be of; of more it is not known whose it is
_log = structlog.get_logger(__name__)


class Sockets(Protocol):
    """Serves a container through its own socket; implemented by `rpc/transport.py`."""

    async def listen_container(self, container: ContainerIdentity, path: Path) -> None: ...

    async def close_container(self, task_id: str) -> None: ...


class ContainerLauncher:
    def __init__(
        self,
        *,
        database: Database,
        engine: Engine,
        node: Node,
        images: Images,
        layer_checks: LayerChecks,
        mounts: Mounts,
        secrets: Secrets,
        volumes: Volumes,
        network_files: NetworkFiles,
        logs: Logs,
        wire: Wire,
        metrics: Metrics,
        environment_of: Callable[[str], str],
        surroundings: Surroundings,
        snapshots: Snapshots,
        checkpoints: Checkpoints,
        bases: Bases,
        prepared_sandboxes: int,
        snapshot_apps: Callable[[str], bool],
        reseed: bool,
        data_dir: Path,
        min_free_bytes: int,
    ) -> None:
        """prepared_sandboxes: see that setting. snapshot_apps: whether the functions of this app may have memory snapshots. reseed: see the setting snapshot_reseed."""
        self.sockets: Sockets | None = None
        self.printing: Callable[[str], Sequence[PooledInput]] = lambda task_id: ()
        """Gives the inputs that the output of a container may be of."""
        self._engine = engine
        self._node = node
        self._images = images
        self._layer_checks = layer_checks
        self._mounts = mounts
        self._secrets = secrets
        self._volumes = volumes
        self._network_files = network_files
        self._buckets = Buckets(secrets=secrets, node=node)
        self._logs = logs
        self._wire = wire
        self._metrics = metrics
        self._environment_of = environment_of
        self._surroundings = surroundings
        self._snapshots = snapshots
        snapshots.on_trouble = self._tell
        self._checkpoints = checkpoints
        self._bases = bases
        self._spares = Spares(
            snapshots=snapshots, node=node, most=prepared_sandboxes, is_idle=lambda: self.start_slots() > 0
        )
        metrics.watch(
            "stoker_prepared_sandboxes",
            "Sandboxes that were made ahead of time and wait.",
            lambda: self._spares.count,
        )
        self._snapshot_apps = snapshot_apps
        self._reseed = reseed
        self._special_bits = SpecialBits()
        self._data_dir = data_dir
        self._min_free_bytes = min_free_bytes
        self._leases: dict[str, Granted] = {}
        self._containers: dict[str, Container] = {}
        self._records = TaskRecords(database)

    def start_slots(self) -> int:
        return self._node.start_slots()

    def new_task_id(self, function_id: str) -> str:
        return self._spares.task_id(function_id)

    async def launch(self, function: Function, task: Task) -> Container | NotNow | Never:
        """Starts a container for `task`. Raises StokerError when it cannot be started."""
        assert self.sockets is not None
        definition = function.active
        free = shutil.disk_usage(self._data_dir).free
        if free < self._min_free_bytes:
            return NotNow(f"only {free >> 20} MiB of disk are free in the server's data directory")
        try:
            volumes = [
                self._volume(v.volume_id, v.mount_path, v.read_only, v.sub_path) for v in definition.spec.volumes
            ]
        except (NotFound, InvalidArgument, FailedPrecondition) as error:
            return Never(f"{error} Deploy the app again when the volume is there.")
        try:
            buckets = await self._buckets.resolve(definition.spec.buckets)
        except (NotFound, InvalidArgument, FailedPrecondition) as error:
            return Never(str(error))
        lease = await self._engine.reserve(
            task.id, definition.spec.resources, function.id, awaited_by=task.awaited_by, overcommit=task.overcommit
        )
        if not isinstance(lease, Granted):
            return lease
        self._leases[task.id] = lease
        request = await self._request(function, definition, task, lease, volumes)
        request = replace(request, buckets=buckets)
        if task.snapshot is None and not request.keep:
            task.snapshot = self._bases.choose(request)
            request = replace(request, base=task.snapshot.directory if task.snapshot else None)
        await self.sockets.listen_container(_identity(task, definition), self._node.socket_path(task.id))
        self._records.keep(task)
        if task.snapshot is not None and self._snapshot_apps(task.app_id):
            self._spares.starting(request, task.snapshot)
            task.prepared = self._spares.gave(task.id)
        self._special_bits.mounted(task.id, [v.root or v.directory for v in volumes if not v.read_only])
        container = await self._node.start(request, lambda fd, text: self._write(task, fd, text))
        self._containers[task.id] = container
        if task.snapshot is not None and task.snapshot.restores:
            self._checkpoints.watch(task, task.snapshot, container)
        return container

    def withdraw(self, function_id: str) -> None:
        self._engine.withdraw(function_id)

    def forget(self, function_id: str) -> None:
        self.withdraw(function_id)
        self._spares.drop(function_id)

    async def land(self, task: Task) -> None:
        assert self.sockets is not None
        self._containers.pop(task.id, None)
        self._node.up(task.id)
        self._bases.gone(task.id)
        self._special_bits.left(task.id)
        task.called = self._checkpoints.has_called(task)
        try:
            await self.sockets.close_container(task.id)
            await self._checkpoints.settle(task)
            await self._spares.gone(task.id)
            if task.snapshot is not None:
                self._snapshots.left(task.snapshot, task.id)
            self._node.discard_task_dir(task.id)
        except Exception:
            # Such as a full disk. Files may stay; the lease and the inputs must not.
            _log.exception("something of a container could not be removed", task=task.id)
        if self._leases.pop(task.id, None) is not None:
            self._records.keep(task, time.time())
            await self._engine.release(task.id)

    def ready(self, task: Task) -> None:
        self._node.up(task.id)
        self._bases.up(task.id)
        self._spares.up(task.id)
        use, seconds = task.snapshot, time.time() - task.enqueued_at
        restored = use is not None and use.restores
        self._metrics.container_ready(seconds, restored=restored)
        if use is not None and restored:
            self._snapshots.started(use, seconds)

    def delivered(self, waited: float) -> None:
        self._metrics.input_waited(waited)

    def blames_snapshot(self, task: Task, reason: str) -> bool:
        use = task.snapshot
        # What comes from a base and connects has been restored, and runs the user's code like any other.
        if use is None or (use.base and task.called):
            return False
        if use.restores:
            if task.container is None and self._node.can_restore(use.directory):
                return False  # it was not even tried: the machine lacked something
            if task.prepared:
                self._spares.distrust(use.snapshot_id)
            else:
                self._snapshots.not_started(use, reason)
            self.say(task, "It came from a memory snapshot; its inputs are run by another container.\n")
            return True
        return self._snapshots.broke(use)

    def say(self, task: Task, text: str) -> None:
        self._logs.write(task.app_id, INFO, text, function_id=task.function_id, task_id=task.id)

    def last_words(self, task: Task) -> str:
        return self._logs.tail(task.app_id, task.id)

    async def open_files(self, task_id: str, volume_id: str) -> list[str]:
        """The files of a volume that a container holds open, as paths in there."""
        container = self._containers.get(task_id)
        return await container.open_in(volume_id) if container is not None else []

    async def close(self) -> None:
        await self._spares.close()
        await self._special_bits.close()
        await self._records.close()

    async def _request(
        self, function: Function, definition: Definition, task: Task, lease: Granted, volumes: Sequence[VolumeDir]
    ) -> ContainerRequest:
        spec = definition.spec
        image = self._images.config(spec.image_id)
        layers = await self._layer_checks.use(spec.image_id)
        trees = []
        client_version = definition.client_version
        for mount_id in spec.mount_ids:
            named = self._mounts.client_version(mount_id)
            if named is not None:
                client_version = named
            else:
                trees.append(await self._mounts.tree(mount_id))
        environment = self._environment_of(task.app_id)
        gpu = "" if lease.gpu_declared else lease.gpu_model
        saves_gpu = bool(gpu) and spec.gpu_snapshot and not self._node.gpu_snapshot_obstacle()
        circumstances = client_version, environment, gpu, str(saves_gpu), "\0".join(layers)
        task.snapshot = await self._snapshot(function, definition, task, volumes, circumstances)
        checkpoint_id = task.snapshot.snapshot_id if task.snapshot else ""
        return ContainerRequest(
            task_id=task.id,
            image_id=spec.image_id,
            image=image,
            client_version=client_version,
            arguments=self._wire.container_arguments(
                function, task.id, environment, checkpoint_id, gpu_snapshot=saves_gpu
            ),
            environment=environment,
            mount_trees=tuple(trees),
            env=(
                _thread_settings(spec.resources.cpu_milli)
                | await self._secrets.values(list(spec.secret_ids))
                | self._surroundings.variables(function, task.id)
            ),
            volumes=tuple(volumes),
            limits=spec.limits,
            network=spec.network,
            gpu_devices=() if lease.gpu_declared else lease.gpu_devices,
            function_id=function.id,
            snapshots=task.snapshot is not None,
            restore_from=task.snapshot.directory if task.snapshot and task.snapshot.restores else None,
            gpu_snapshot=task.snapshot is not None and saves_gpu,
            reseed=self._reseed,
            layers=layers,
            keep=spec.builds_image,
        )

    async def _snapshot(
        self,
        function: Function,
        definition: Definition,
        task: Task,
        volumes: Sequence[VolumeDir],
        circumstances: tuple[str, str, str, str, str],
    ) -> SnapshotUse | None:
        """The snapshot for a new container. circumstances: client version, environment, GPU model, whether GPU memory is saved, layers."""
        if not definition.spec.memory_snapshot or not self._snapshot_apps(task.app_id):
            return None
        client_version, environment, gpu, saves_gpu, layers = circumstances
        machine = self._node.snapshot_identity(gpu)
        if not machine:
            return None
        # Everything the container is told but its own id: definition with image, mounts and volumes, parameters, layout of the app.
        told = self._wire.container_arguments(function, "", environment)
        # The layers, too: of an image that was built again since one was damaged, what was saved before is as damaged.
        parts = (machine.encode(), client_version.encode(), saves_gpu.encode(), layers.encode(), told)
        key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        ready = self._snapshots.ready(key) if volumes else None
        changed = await self._node.changed_since(ready.directory, volumes) if ready is not None else ""
        if ready is not None and changed:
            self._snapshots.outdated(ready, changed)
        return self._snapshots.choose(key, task.app_id, function.id, definition.id, task.id)

    def _volume(self, volume_id: str, mount_path: str, read_only: bool, sub_path: str) -> VolumeDir:
        if is_id(volume_id, "sv"):
            return VolumeDir(volume_id, self._network_files.directory(volume_id), mount_path, read_only)
        if not is_id(volume_id, "vo"):
            raise FailedPrecondition(f"The volume {volume_id!r} mounted at {mount_path} does not exist.")
        root = self._volumes.directory(volume_id)
        if not sub_path:
            return VolumeDir(volume_id, root, mount_path, read_only)
        return VolumeDir(volume_id, self._volumes.sub_directory(volume_id, sub_path), mount_path, read_only, root=root)

    def _write(self, task: Task, fd: int, text: str) -> asyncio.Future[None] | None:
        inputs = [item for item in self.printing(task.id) if item.call_id]
        calls = tuple(dict.fromkeys(item.call_id for item in inputs))
        self._logs.write(
            task.app_id,
            fd,
            text,
            function_id=task.function_id,
            task_id=task.id,
            input_id=inputs[0].id if len(inputs) == 1 else "",
            call_ids=calls if len(calls) <= _MOST_CALLS else (),
        )
        return self._logs.room()

    def _tell(self, snapshot: Snapshot, text: str) -> None:
        if snapshot.app_id:
            self._logs.write(snapshot.app_id, INFO, f"{text}\n", function_id=snapshot.function_id)


def _identity(task: Task, definition: Definition) -> ContainerIdentity:
    spec = definition.spec
    volume_ids = frozenset(volume.volume_id for volume in spec.volumes)
    return ContainerIdentity(task.id, task.function_id, task.app_id, spec.restricted, volume_ids)


def _thread_settings(cpu_milli: int) -> dict[str, str]:
    """Numeric libraries start a thread per core of the machine; a container that asked for cores gets as many threads."""
    if cpu_milli < 1000:
        return {}
    threads = str(math.ceil(cpu_milli / 1000))
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), threads)

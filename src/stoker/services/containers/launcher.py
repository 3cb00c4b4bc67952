"""Starts the container of a function: finds room, gathers what it needs, and gives everything back at its end."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from stoker.aio.jobs import Jobs
from stoker.core.books import PooledInput
from stoker.engine.base import Engine, Granted, Never, NotNow
from stoker.errors import FailedPrecondition, InvalidArgument, NotFound
from stoker.nodes.base import Node
from stoker.nodes.endings import Exit
from stoker.nodes.messages import ContainerRequest
from stoker.services.containers.bases import Bases
from stoker.services.containers.checkpoints import Checkpoints
from stoker.services.containers.identity import ContainerIdentity
from stoker.services.containers.materials import Materials
from stoker.services.containers.recipe import Recipe, recipe_of
from stoker.services.containers.snapshots import Snapshot, Snapshots, SnapshotUse
from stoker.services.containers.spares import Spares
from stoker.services.containers.surroundings import Surroundings
from stoker.services.containers.task import Task
from stoker.services.containers.task_records import TaskRecords
from stoker.services.functions.spec import Function
from stoker.services.functions.wire import Wire
from stoker.services.telemetry.logs import INFO
from stoker.services.telemetry.telemetry import Telemetry
from stoker.store.database import Database

_LAST_WORDS = 5.0  # seconds for what is still to be said to the node when the server stops
_MOST_CALLS = 32  # that one piece of output is said to be of; of more it is not known whose it is
_log = structlog.get_logger(__name__)


class Doors(Protocol):
    """Lets containers call the server; implemented by `rpc/transport.py`."""

    def expect(self, container: ContainerIdentity) -> None:
        """From now on a container may call."""
        ...

    def forget(self, task_id: str) -> None:
        """A container has ended, or was not started."""
        ...


@dataclass(frozen=True)
class Starts:
    """How containers may start other than from nothing."""

    snapshots: Snapshots
    checkpoints: Checkpoints
    bases: Bases
    spares: Spares
    snapshot_apps: Callable[[str], bool]
    """Whether the functions of this app may have memory snapshots."""
    reseed: bool = True
    """See the setting snapshot_reseed."""


class ContainerLauncher:
    """Made by the composition root; asked by the runners. `doors` and `printing` are set by the composition root."""

    def __init__(
        self,
        *,
        database: Database,
        engine: Engine,
        node: Node,
        materials: Materials,
        starts: Starts,
        surroundings: Surroundings,
        wire: Wire,
        telemetry: Telemetry,
        min_free_bytes: int,
    ) -> None:
        """min_free_bytes: of the node's disk; with less no container is started."""
        self.doors: Doors | None = None
        self.printing: Callable[[str], Sequence[PooledInput]] = lambda task_id: ()
        """Gives the inputs that the output of a container may be of."""
        self._engine = engine
        self._node = node
        self._materials = materials
        self._snapshots = starts.snapshots
        self._snapshots.on_trouble = self._tell
        self._checkpoints = starts.checkpoints
        self._bases = starts.bases
        self._spares = starts.spares
        self._snapshot_apps = starts.snapshot_apps
        self._reseed = starts.reseed
        self._surroundings = surroundings
        self._wire = wire
        self._logs = telemetry.logs
        self._metrics = telemetry.metrics
        self._metrics.watch(
            "stoker_prepared_sandboxes",
            "Sandboxes that were made ahead of time and wait.",
            lambda: self._spares.count,
        )
        self._min_free_bytes = min_free_bytes
        self._leases: dict[str, Granted] = {}
        self._tasks: dict[str, Task] = {}  # those whose containers run or are being started
        self._records = TaskRecords(database)
        self._jobs = Jobs("launcher")

    def start_slots(self) -> int:
        return self._node.start_slots()

    def new_task_id(self, function_id: str) -> str:
        return self._spares.task_id(function_id)

    async def launch(self, function: Function, task: Task) -> NotNow | Never | None:
        assert self.doors is not None
        recipe = recipe_of(function.active)
        free = self._node.disk_free()
        if free < self._min_free_bytes:
            return NotNow(f"only {free >> 20} MiB of disk are free in the server's data directory")
        try:
            self._materials.check_volumes(recipe)
        except (NotFound, InvalidArgument, FailedPrecondition) as error:
            return Never(f"{error} Deploy the app again when the volume is there.")
        try:
            buckets = await self._materials.buckets(recipe)
        except (NotFound, InvalidArgument, FailedPrecondition) as error:
            return Never(str(error))
        lease = await self._engine.reserve(
            task.id, recipe.resources, function.id, awaited_by=task.awaited_by, overcommit=task.overcommit
        )
        if not isinstance(lease, Granted):
            return lease
        self._leases[task.id] = lease
        request = replace(await self._request(function, recipe, task, lease), buckets=buckets)
        if task.snapshot is None and not request.keep:
            task.snapshot = self._bases.choose(request)
            request = replace(request, base=task.snapshot.snapshot_id if task.snapshot else "")
        self.doors.expect(_identity(task, recipe))
        self._records.keep(task)
        if task.snapshot is not None and self._snapshot_apps(task.app_id):
            self._spares.starting(request, task.snapshot)
            task.prepared = self._spares.was_offered(task.id)
        await self._start(request, task)
        return None

    async def end_of(self, task: Task) -> Exit:
        assert task.exit is not None
        return await task.exit

    # What the node tells

    def called(self, task_id: str) -> None:
        """Event: a container has connected to the server for the first time."""
        task = self._tasks.get(task_id)
        if task is not None:
            task.called = True

    def output(self, task_id: str, fd: int, text: str) -> asyncio.Future[None] | None:
        """Event: a container has written lines. A future says that no more is wanted until it is done."""
        task = self._tasks.get(task_id)
        return self._write(task, fd, text) if task is not None else None

    def ended(self, task_id: str, exit: Exit) -> None:
        """Event: a container has ended."""
        task = self._tasks.get(task_id)
        if task is not None and task.exit is not None and not task.exit.done():
            task.exit.set_result(exit)

    # What belongs to starts and ends

    def withdraw(self, function_id: str) -> None:
        self._engine.withdraw(function_id)

    def forget(self, function_id: str) -> None:
        self.withdraw(function_id)
        self._spares.drop(function_id)

    async def clean_up(self, task: Task) -> None:
        assert self.doors is not None
        self._tasks.pop(task.id, None)
        self._bases.gone(task.id)
        try:
            self.doors.forget(task.id)
            await self._checkpoints.settle(task)
            await self._spares.gone(task.id)
            if task.snapshot is not None:
                self._snapshots.release(task.snapshot, task.id)
        except Exception:
            # Such as a full disk. Files may stay; the lease and the inputs must not.
            _log.exception("something of a container could not be removed", task=task.id)
        if self._leases.pop(task.id, None) is not None:
            self._records.keep(task, time.time())
            await self._engine.release(task.id)

    def ready(self, task: Task) -> None:
        self._jobs.start(f"say that {task.id} is up", self._node.containers.up(task.id))
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
            if not task.is_launched and not task.lacks_snapshot:
                return False  # it was not even tried: the machine lacked something
            if task.prepared:
                self._spares.distrust(use.snapshot_id)
            else:
                self._snapshots.not_started(use, reason)
            self.say(task, "It came from a memory snapshot; its inputs are run by another container.\n")
            return True
        return self._snapshots.saving_failed(use)

    def say(self, task: Task, text: str) -> None:
        self._logs.write(task.app_id, INFO, text, function_id=task.function_id, task_id=task.id)

    def last_words(self, task: Task) -> str:
        return self._logs.tail(task.app_id, task.id)

    async def open_files(self, task_id: str, volume_id: str) -> Sequence[str]:
        """The files of a volume that a container holds open, as paths in there."""
        return await self._node.containers.open_files(task_id, volume_id)

    async def close(self) -> None:
        await self._spares.close()
        await self._records.close()
        await self._jobs.close(patience=_LAST_WORDS)

    async def _start(self, request: ContainerRequest, task: Task) -> None:
        task.exit = asyncio.get_running_loop().create_future()
        self._tasks[task.id] = task
        try:
            started = await self._node.containers.start(request)
        except Exception:
            if request.snapshot:
                task.lacks_snapshot = not await self._node.containers.can_restore(request.snapshot)
            raise
        task.node, task.address = self._node, started.address
        if task.snapshot is not None and task.snapshot.restores:
            self._checkpoints.watch(task, task.snapshot)

    async def _request(self, function: Function, recipe: Recipe, task: Task, lease: Granted) -> ContainerRequest:
        image, layers = self._materials.image(recipe), await self._materials.layers(recipe)
        mounts, client_version = self._materials.mounts(recipe)
        environment = self._surroundings.environment_of(task.app_id)
        gpu = "" if lease.gpu_declared else lease.gpu_model
        saves_gpu = bool(gpu) and recipe.gpu_snapshot and not self._node.gpu_snapshot_obstacle()
        circumstances = client_version, environment, gpu, str(saves_gpu), "\0".join(layers)
        task.snapshot = await self._snapshot(function, recipe, task, circumstances)
        checkpoint_id = task.snapshot.snapshot_id if task.snapshot else ""
        return ContainerRequest(
            task_id=task.id,
            image_id=recipe.image_id,
            image=image,
            client_version=client_version,
            arguments=self._wire.container_arguments(
                function, task.id, environment, checkpoint_id, gpu_snapshot=saves_gpu
            ),
            environment=environment,
            mounts=mounts,
            env={**await self._materials.environment(recipe), **self._surroundings.variables(function, task.id)},
            volumes=recipe.volumes,
            limits=recipe.limits,
            network=recipe.network,
            gpu_devices=() if lease.gpu_declared else lease.gpu_devices,
            function_id=function.id,
            snapshots=task.snapshot is not None,
            restore_from=task.snapshot.snapshot_id if task.snapshot and task.snapshot.restores else "",
            gpu_snapshot=task.snapshot is not None and saves_gpu,
            reseed=self._reseed,
            layers=layers,
            keep=recipe.keep,
        )

    async def _snapshot(
        self,
        function: Function,
        recipe: Recipe,
        task: Task,
        circumstances: tuple[str, str, str, str, str],
    ) -> SnapshotUse | None:
        """The snapshot for a new container. circumstances: client version, environment, GPU model, whether GPU memory is saved, layers."""
        if not recipe.memory_snapshot or not self._snapshot_apps(task.app_id):
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
        ready = self._snapshots.ready(key) if recipe.volumes else None
        changed = (
            await self._node.containers.changed_since(ready.snapshot_id, recipe.volumes) if ready is not None else ""
        )
        if ready is not None and changed:
            self._snapshots.outdated(ready, changed)
        return self._snapshots.choose(key, task.app_id, function.id, task.definition_id, task.id)

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


def _identity(task: Task, recipe: Recipe) -> ContainerIdentity:
    volume_ids = frozenset(volume.volume_id for volume in recipe.volumes)
    return ContainerIdentity(task.id, task.function_id, task.app_id, recipe.restricted, volume_ids)

"""The containers of one machine: turns what the services ask for into containers of the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import structlog

from stoker.agent import held_files
from stoker.agent import snapshot_files as snapshots
from stoker.agent.bucket_mounts import BucketMounts, cache_of
from stoker.agent.lines import LineSplitter
from stoker.agent.places import Places, VolumePlace
from stoker.agent.restore_turns import RestoreTurns
from stoker.agent.sockets import Sockets
from stoker.agent.special_bits import SpecialBits
from stoker.aio.cancelling import finished
from stoker.aio.jobs import Jobs
from stoker.disk import size_of
from stoker.errors import CannotBeSaved, FailedPrecondition, InvalidArgument, Unavailable
from stoker.images.base import ImageBuilder
from stoker.nodes.endings import Exit, ExitKind, Usage
from stoker.nodes.messages import ContainerRequest, Started, VolumeUse
from stoker.runtime import gpu
from stoker.runtime.base import BindMount, Container, ContainerSpec, Runtime
from stoker.runtime.checkpoint import layers_of
from stoker.runtime.inspection import Inspection
from stoker.runtime.obstacles import obstacles

TASK_DIR = "/__modal/task"  # inside the container: its socket and its arguments
_DISCONNECT = 10.0  # seconds a container that is to be saved may take to close its connections
_LAST_ENDS = 30.0  # seconds that clearing up may take when the server stops
_CONNECTED = (
    "A connection to the server stayed open, though the function itself had closed its own. A process that it started calls the server too, or has "
    "inherited the connection. Start that process in @modal.enter(), after the snapshot."
)
_BASE_LIMIT = 120.0  # seconds for importing the client
_SANDBOX_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
_ENTRYPOINT = ("python", "-m", "modal._container_entrypoint")
_log = structlog.get_logger(__name__)


class LocalContainers:
    """Implements `nodes.base.Containers`. Made by the node."""

    task_dirs: Path
    """For the directories of containers, by task. Set when the node opens."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        builder: ImageBuilder,
        places: Places,
        buckets: BucketMounts,
        sockets: Sockets,
        hook_layer: Path,
        kept: Path,
        restores_at_once: int,
        write: Callable[[str, int, str], asyncio.Future[None] | None],
        on_end: Callable[[str, Exit], None],
    ) -> None:
        """hook_layer: the layer that snapshots need. kept: where what containers wrote is kept, of those whose files are. write: takes the
        lines of a container, with its id and a file descriptor. on_end: is told how one ended."""
        self._runtime = runtime
        self._builder = builder
        self._places = places
        self._buckets = buckets
        self._sockets = sockets
        self._hook_layer = hook_layer
        self._kept = kept
        self._write = write
        self._on_end = on_end
        self._restore_turns = RestoreTurns(restores_at_once)
        self._special_bits = SpecialBits()
        self._running: dict[str, RunningContainer] = {}
        self._jobs = Jobs("containers")
        self._closing = False

    async def close(self, end_all: Callable[[], Awaitable[None]]) -> None:
        """end_all: ends all containers, and returns when they have ended."""
        self._closing = True
        await end_all()
        await self._jobs.close(patience=_LAST_ENDS)
        await self._special_bits.close()

    def address(self, task_id: str) -> str:
        """Where the server reaches the ports of a container; "" for one without network, and for one that has ended."""
        running = self._running.get(task_id)
        return (running.container.address or "") if running is not None else ""

    async def start(self, request: ContainerRequest) -> Started:
        task_id = request.task_id
        write = partial(self._write, task_id)

        def complain(line: str) -> None:
            write(2, line)

        if request.snapshot:
            await self._restore_turns.begin(task_id)
        try:
            volumes = tuple(map(self._places.volume, request.volumes))
            self._special_bits.mounted(task_id, [v.root or v.directory for v in volumes if not v.use.read_only])
            places = await self._buckets.mount(task_id, request.buckets, complain)
            await self._sockets.listen(task_id, self._task_dir(task_id) / "modal.sock")
            running = await self._start(request, volumes, places, write)
        except BaseException:
            await finished(self._clear(task_id))
            raise
        self._running[task_id] = running
        self._jobs.start(f"wait for {task_id}", self._wait(running))
        return Started(task_id, running.container.address or "")

    async def up(self, task_id: str) -> None:
        self._restore_turns.end(task_id)

    async def signal(self, task_id: str, number: int) -> None:
        running = self._running.get(task_id)
        if running is not None:
            await running.container.signal(number)

    async def kill(self, task_id: str) -> None:
        running = self._running.get(task_id)
        if running is not None:
            await running.container.kill()

    async def stuck(self, task_id: str, timeout: float) -> str:
        running = self._running.get(task_id)
        return await running.container.stuck(timeout) if running is not None else ""

    async def usage(self, task_id: str) -> Usage | None:
        running = self._running.get(task_id)
        return await running.container.usage() if running is not None else None

    async def open_files(self, task_id: str, volume_id: str) -> Sequence[str]:
        running = self._running.get(task_id)
        return await running.open_in(volume_id) if running is not None else ()

    async def save(self, task_id: str, snapshot_id: str) -> int:
        running = self._running.get(task_id)
        if running is None:
            raise FailedPrecondition("It ended before it was saved.")
        try:
            # The answer to ContainerCheckpoint is still on its way; the client closes its connections when it has it.
            if not await self._sockets.quiet(task_id, _DISCONNECT):
                running.let_go()
                raise FailedPrecondition(_CONNECTED)
            return await running.save(self._places.unfinished_snapshot(snapshot_id))
        except BaseException:
            if not running.went_on:  # the disk is full, say, and it would wait for the file until its time is over
                self._jobs.insist(f"kill {task_id}", running.container.kill)
            raise

    async def can_restore(self, snapshot_id: str) -> bool:
        return all(layer.is_dir() for layer in layers_of(self._places.snapshot(snapshot_id)))

    async def changed_since(self, snapshot_id: str, volumes: Sequence[VolumeUse]) -> str:
        places = held_places(tuple(map(self._places.volume, volumes)))
        return await asyncio.to_thread(held_files.changed, self._places.snapshot(snapshot_id), places)

    async def prepare(self, request: ContainerRequest) -> bool:
        if not request.snapshot or request.buckets:
            return False
        spec = await self._spec(request, tuple(map(self._places.volume, request.volumes)))
        if self._closing:
            raise Unavailable("The server stops.")
        return await self._runtime.prepare(spec, self._places.snapshot(request.snapshot))

    async def discard(self, task_id: str) -> None:
        await self._runtime.discard(task_id)
        self._sockets.close(task_id)
        snapshots.discard(self.task_dirs / task_id)

    async def make_base(self, request: ContainerRequest, snapshot_id: str) -> int:
        try:
            return await self._make_base(request, self._places.unfinished_snapshot(snapshot_id))
        except Exception as error:
            if self._closing:
                raise Unavailable("The server stops.") from error
            raise
        finally:
            snapshots.discard(self.task_dirs / request.task_id)

    async def _start(
        self,
        request: ContainerRequest,
        volumes: Sequence[VolumePlace],
        buckets: Sequence[Path],
        write: Callable[[int, str], asyncio.Future[None] | None],
    ) -> RunningContainer:
        """buckets: where those of the request are mounted on the host."""
        spec = await self._spec(request, volumes, buckets)
        splitters = {fd: LineSplitter(partial(write, fd)) for fd in (1, 2)}
        task_dir = self._task_dir(request.task_id)

        def sink(fd: int, chunk: bytes) -> asyncio.Future[None] | None:
            return splitters[fd].feed(chunk)

        if request.snapshots:
            snapshots.write_before(task_dir, spec.env, reseed=request.reseed)
        if request.restore_from:
            snapshots.prepare_to_let_go(task_dir, request.task_id, request.function_id, spec.env)
            snapshots.let_go(task_dir)
            container = await self._runtime.restore(spec, self._places.snapshot(request.restore_from), sink)
        elif request.base:
            snapshots.tell_base(task_dir, spec.env, spec.workdir)
            container = await self._runtime.restore(spec, self._places.snapshot(request.base), sink)
        else:
            container = await self._runtime.start(spec, sink)
        return RunningContainer(container, splitters, task_dir, spec.env, request.function_id, volumes)

    async def _wait(self, running: RunningContainer) -> None:
        task_id = running.container.id
        try:
            ended = await running.container.wait()
            running.close_output()
        except Exception as error:  # a defect; whoever waits for the end must hear of it all the same
            _log.exception("the end of a container was not seen", task=task_id)
            ended = Exit(ExitKind.FAILED, 1, f"{type(error).__name__}: {error}")
        del self._running[task_id]
        await self._clear(task_id)
        self._on_end(task_id, ended)

    async def _clear(self, task_id: str) -> None:
        """Gives back what a container had, which has ended or was not started."""
        self._restore_turns.end(task_id)
        self._special_bits.left(task_id)
        try:
            self._sockets.close(task_id)
            await self._buckets.unmount(task_id)
            snapshots.discard(self.task_dirs / task_id)
        except Exception:  # such as a full disk; files may stay
            _log.exception("something of a container could not be removed", task=task_id)

    async def _make_base(self, request: ContainerRequest, directory: Path) -> int:
        output = bytearray()
        said = asyncio.Event()

        def sink(fd: int, chunk: bytes) -> None:
            output.extend(chunk)
            if snapshots.BASE_READY in output:
                said.set()

        volumes = tuple(map(self._places.volume, request.volumes))
        spec = await self._spec(replace(request, arguments=b"", env={}, mounts=(), base="new"), volumes)
        env = _outer_environment(request, isolates=True) | {
            "PYTHONPATH": _python_path(request, "/pkg"),
            "MODAL_IS_REMOTE": "1",
        }
        spec = replace(spec, argv=("python", snapshots.BASE_PROGRAM), env=env, workdir="/")
        container = await self._runtime.start(spec, sink)
        waiting = asyncio.ensure_future(said.wait())
        ended = asyncio.ensure_future(container.wait())
        try:
            await asyncio.wait([waiting, ended], timeout=_BASE_LIMIT, return_when=asyncio.FIRST_COMPLETED)
            if not said.is_set():
                words = output.decode(errors="replace").strip().splitlines()
                raise FailedPrecondition(
                    f"The client could not be imported: {words[-1] if words else 'it said nothing'}"
                )
            await container.checkpoint(directory)
        finally:
            waiting.cancel()
            ended.cancel()
            await finished(_end(container))
        return await asyncio.to_thread(size_of, directory)

    async def _spec(
        self, request: ContainerRequest, volumes: Sequence[VolumePlace], buckets: Sequence[Path] = ()
    ) -> ContainerSpec:
        image_layers, client_layers, trees = await asyncio.gather(
            self._builder.layers(request.image_id),
            self._builder.client_layers(request.client_version, request.image_id, request.image),
            asyncio.gather(*map(self._places.mount, request.mounts)),
        )
        task_dir = self._task_dir(request.task_id)
        (task_dir / "args.bin").write_bytes(request.arguments)
        inside = TASK_DIR if self._runtime.isolates else str(task_dir)
        mounts = [BindMount(task_dir, TASK_DIR, read_only=False)] if self._runtime.isolates else []
        for volume in volumes:
            use, target = volume.use, _mount_path(volume.use.mount_path)
            if self._runtime.isolates:
                mounts.append(BindMount(volume.directory, _inner_path(use), use.read_only, within=volume.root))
            mounts.append(BindMount(volume.directory, target, use.read_only, within=volume.root))
        for bucket, place in zip(request.buckets, buckets, strict=True):
            # A file that is written is in the bucket when the host closes it, so the host must close it when the container does.
            target = _mount_path(bucket.mount_path)
            mounts.append(BindMount(place, target, bucket.read_only, direct=not bucket.read_only))
        return ContainerSpec(
            id=request.task_id,
            layers=(
                *((self._hook_layer,) if request.snapshots or request.base else ()),
                *reversed(trees),
                *client_layers,
                *image_layers,
            ),
            argv=(*request.image.entrypoint, *_ENTRYPOINT),
            env=_environment(request, inside, isolates=self._runtime.isolates),
            workdir=request.image.workdir or "/root",
            mounts=tuple(mounts),
            limits=request.limits,
            network=request.network,
            gpu_devices=request.gpu_devices,
            gpu_snapshot=request.gpu_snapshot,
            keep=self._kept / request.function_id / request.task_id if request.keep else None,
            own=(task_dir, *map(cache_of, buckets)),
        )

    def _task_dir(self, task_id: str) -> Path:
        """The directory of a container on the host; made on first use. Raises OSError, as on a full disk."""
        directory = self.task_dirs / task_id
        directory.mkdir(mode=0o755, exist_ok=True)
        return directory


class RunningContainer:
    """A container of the runtime with what belongs to it on the host."""

    def __init__(
        self,
        container: Container,
        splitters: Mapping[int, LineSplitter],
        task_dir: Path,
        env: Mapping[str, str],
        function_id: str,
        volumes: Sequence[VolumePlace],
    ) -> None:
        self.container = container
        self.went_on = False  # after it asked to be saved
        self._splitters = splitters
        self._task_dir = task_dir
        self._env = env
        self._function_id = function_id
        self._volumes = volumes

    def close_output(self) -> None:
        """Passes its last, unfinished lines on."""
        for splitter in self._splitters.values():
            splitter.close()

    async def open_in(self, volume_id: str) -> list[str]:
        """The paths of the container's open files in a volume."""
        places = held_places([volume for volume in self._volumes if volume.use.volume_id == volume_id])
        return await self.container.open_files(list(places)) if places else []

    async def save(self, directory: Path) -> int:
        """Saves the container and lets it go on, also when it could not be saved; returns the bytes on disk. Raises StokerError, CannotBeSaved
        when the next one could not be saved either."""
        self._prepare_to_let_go()
        try:
            places = held_places(self._volumes)
            found = await self._inspected(list(places))
            held = await asyncio.to_thread(held_files.note, [f for f in found.files if f.is_below(places)], places)
            await self.container.checkpoint(directory)
            held_files.write(directory, held)
        finally:
            self._let_go()
        return await asyncio.to_thread(size_of, directory)

    def let_go(self) -> None:
        """A container that asked to be saved goes on unsaved. Raises OSError."""
        self._prepare_to_let_go()
        self._let_go()

    async def _inspected(self, volumes: Sequence[str]) -> Inspection:
        """What it holds open, none of which prevents a snapshot. Raises StokerError."""
        found = await self.container.inspect(volumes)
        if found is None:
            raise FailedPrecondition("It did not say within a while what it holds open.")
        in_the_way = obstacles(found, volumes)
        lasting = [obstacle.reason for obstacle in in_the_way if obstacle.lasting]
        if lasting:
            raise CannotBeSaved(" ".join(lasting))
        if in_the_way:
            raise FailedPrecondition(" ".join(obstacle.reason for obstacle in in_the_way))
        return found

    def _prepare_to_let_go(self) -> None:
        if self._task_dir.is_dir():
            snapshots.prepare_to_let_go(self._task_dir, self.container.id, self._function_id, self._env)

    def _let_go(self) -> None:
        if self._task_dir.is_dir():
            snapshots.let_go(self._task_dir)
        self.went_on = True


def held_places(volumes: Sequence[VolumePlace]) -> dict[str, Path]:
    """The directories of volumes, by where they are in a container."""
    places = {_mount_path(volume.use.mount_path): volume.directory for volume in volumes}
    return places | {_inner_path(volume.use): volume.directory for volume in volumes}


async def _end(container: Container) -> None:
    await container.kill()
    await container.wait()


def _environment(request: ContainerRequest, task_dir: str, *, isolates: bool) -> dict[str, str]:
    first = snapshots.HOOK_DIR if request.snapshots else ""
    gpus = gpu.environment(request.image.env | dict(request.env)) if isolates and request.gpu_devices else {}
    return {
        **_outer_environment(request, isolates=isolates),
        **request.env,
        **gpus,
        "PYTHONPATH": _python_path(request, first, "/root", "/pkg"),
        "MODAL_SERVER_URL": f"unix://{task_dir}/modal.sock",
        "MODAL_CONTAINER_ARGUMENTS_PATH": f"{task_dir}/args.bin",
        "MODAL_RESTORE_STATE_PATH": f"{task_dir}/restore-state.json",
        "MODAL_TASK_ID": request.task_id,
        "MODAL_IMAGE_ID": request.image_id,
        "MODAL_ENVIRONMENT": request.environment,
        "MODAL_IS_REMOTE": "1",
        **({"MODAL_ENABLE_SNAP_RESTORE": "1"} if request.snapshots else {}),
    }


def _outer_environment(request: ContainerRequest, *, isolates: bool) -> dict[str, str]:
    """What all containers on an image have."""
    return {
        **(_SANDBOX_ENV if isolates else {}),
        "PYTHONUNBUFFERED": "1",  # prints are seen when they happen
        **request.image.env,
    }


def _python_path(request: ContainerRequest, *ours: str) -> str:
    return ":".join(filter(None, (*ours, request.image.env.get("PYTHONPATH", ""))))


def _inner_path(volume: VolumeUse) -> str:
    return f"/__modal/volumes/{volume.volume_id}"


def _mount_path(path: str) -> str:
    """The place of a volume: absolute, not the root, without tricks. Raises InvalidArgument."""
    pure = PurePosixPath(path)
    if (
        not pure.is_absolute()
        or ".." in pure.parts
        or str(pure) == "/"
        or pure.parts[1] in ("proc", "sys", "dev", "__modal")
    ):
        raise InvalidArgument(
            f"A volume cannot be mounted at {path!r}: give an absolute path of its own, such as '/models'."
        )
    return str(pure)

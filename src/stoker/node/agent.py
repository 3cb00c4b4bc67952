"""The agent of one machine: turns "run this function" into a container of the runtime."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from stoker.cancelling import finished
from stoker.disk import size_of
from stoker.errors import CannotBeSaved, FailedPrecondition, InvalidArgument, Unavailable
from stoker.images.base import ImageBuilder, ImageConfig
from stoker.node import held_files, snapshots
from stoker.node.bucket import BucketMount
from stoker.node.bucket_mounts import BucketMounts, cache_of
from stoker.node.lines import LineSplitter
from stoker.runtime import gpu
from stoker.runtime.base import BindMount, Container, ContainerSpec, Exit, Limits, Runtime
from stoker.runtime.inspection import Inspection
from stoker.runtime.obstacles import obstacles

TASK_DIR = "/__modal/task"  # inside the container: its socket and its arguments
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel allows 107
_BASE_LIMIT = 120.0  # seconds for importing the client
_SANDBOX_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
LineSink = Callable[[int, str], "asyncio.Future[None] | None"]
"""Takes whole lines of file descriptor 1 or 2. A future says that no more is wanted until it is done."""
_ENTRYPOINT = ("python", "-m", "modal._container_entrypoint")


@dataclass(frozen=True)
class VolumeDir:
    """A volume's directory on this machine and where it appears."""

    volume_id: str
    directory: Path
    mount_path: str
    read_only: bool = False
    root: Path | None = None  # the volume's own directory, when `directory` is one inside


@dataclass(frozen=True)
class ContainerRequest:
    """A container as the services ask for it."""

    task_id: str
    image_id: str
    image: ImageConfig
    client_version: str
    arguments: bytes
    environment: str
    mount_trees: tuple[Path, ...] = ()  # in the order of the function; later ones win
    env: Mapping[str, str] = field(default_factory=dict)  # secrets and settings, over the image's own
    volumes: tuple[VolumeDir, ...] = ()
    buckets: tuple[BucketMount, ...] = ()
    limits: Limits = field(default_factory=Limits)
    network: bool = True
    gpu_devices: tuple[int, ...] = ()
    function_id: str = ""
    snapshots: bool = False  # the container may be saved, or comes from a snapshot
    restore_from: Path | None = None  # the snapshot it comes from
    gpu_snapshot: bool = False
    reseed: bool = True
    base: Path | None = None  # the snapshot with nothing but the client that it comes from
    layers: tuple[str, ...] = ()  # the names of the image's, which are others when it was built again
    keep: bool = False  # what it wrote is kept after its end, in `Node.kept`


class Node:
    def __init__(
        self, runtime: Runtime, builder: ImageBuilder, run_dir: Path, local_endpoints: Collection[str] = ()
    ) -> None:
        """local_endpoints: see `BucketMounts`."""
        self._runtime = runtime
        self._builder = builder
        self._run_dir = run_dir
        self._buckets = BucketMounts(run_dir.parent / "buckets", local_endpoints)
        self.check_bucket = self._buckets.check
        self._hook_layer = run_dir.parent / "snapshot-hook"
        self.kept = run_dir.parent / "kept"
        self._closing = False

    async def open(self) -> None:
        for directory in (self._run_dir, self.kept):
            shutil.rmtree(directory, ignore_errors=True)
        self._run_dir.mkdir(mode=0o700, parents=True)
        longest = self._run_dir / ("x" * 25) / "modal.sock"
        if len(str(longest)) > _LONGEST_SOCKET_PATH:
            # Sockets of a data directory with a long path live in a short one.
            digest = hashlib.sha256(str(self._run_dir).encode()).hexdigest()[:12]
            self._run_dir = Path(tempfile.gettempdir()) / f"stoker-{digest}"
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._run_dir.mkdir(mode=0o700)
        await self._runtime.open()
        await self._buckets.open()
        snapshots.make_hook_layer(self._hook_layer)

    async def close(self) -> None:
        self._closing = True
        await self._runtime.close()
        await self._buckets.close()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def task_dir(self, task_id: str) -> Path:
        """The directory of a container on the host; made on first use. Raises OSError, as on a full disk."""
        directory = self._run_dir / task_id
        directory.mkdir(mode=0o755, exist_ok=True)
        return directory

    def discard_task_dir(self, task_id: str) -> None:
        """Removes the directory of a container, if there is one."""
        snapshots.discard(self._run_dir / task_id)

    def socket_path(self, task_id: str) -> Path:
        return self.task_dir(task_id) / "modal.sock"

    def snapshot_identity(self, gpu: str) -> str:
        """What must be equal for a snapshot to be usable on this machine, by a container with such a GPU. Empty: none can be taken."""
        build = self._runtime.snapshot_build()
        return snapshots.machine_identity(build, gpu) if build else ""

    async def changed_since(self, snapshot: Path, volumes: Sequence[VolumeDir]) -> str:
        """Says which file of a volume, open when the snapshot was made, is another one now; empty when none is."""
        return await asyncio.to_thread(held_files.changed, snapshot, held_places(volumes))

    def gpu_snapshot_obstacle(self) -> str:
        return self._runtime.gpu_snapshot_obstacle()

    async def start(self, request: ContainerRequest, write: LineSink) -> NodeContainer:
        """Starts a container; its output goes line by line to `write(fd, text)`. Raises StokerError."""

        def complain(line: str) -> None:
            write(2, line)

        places = await self._buckets.mount(request.task_id, request.buckets, complain)
        try:
            return await self._start(request, places, write)
        except BaseException:
            await finished(self._buckets.unmount(request.task_id))
            raise

    async def _start(self, request: ContainerRequest, buckets: Sequence[Path], write: LineSink) -> NodeContainer:
        """buckets: where those of the request are mounted on the host."""
        spec = await self._spec(request, buckets)
        splitters = {fd: LineSplitter(partial(write, fd)) for fd in (1, 2)}
        task_dir = self.task_dir(request.task_id)

        def sink(fd: int, chunk: bytes) -> asyncio.Future[None] | None:
            return splitters[fd].feed(chunk)

        if request.snapshots:
            snapshots.write_before(task_dir, spec.env, reseed=request.reseed)
        if request.restore_from is not None:
            snapshots.prepare_to_let_go(task_dir, request.task_id, request.function_id, spec.env)
            snapshots.let_go(task_dir)
            container = await self._runtime.restore(spec, request.restore_from, sink)
        elif request.base is not None:
            snapshots.tell_base(task_dir, spec.env, spec.workdir)
            container = await self._runtime.restore(spec, request.base, sink)
        else:
            container = await self._runtime.start(spec, sink)
        return NodeContainer(
            container, splitters, task_dir, spec.env, request.function_id, request.volumes, self._buckets.unmount
        )

    async def prepare(self, request: ContainerRequest) -> bool:
        """Does ahead of time what `start` need not wait with, for a request that comes from a snapshot; False when it cannot be done.
        `start` uses it when it is what the request then asks for. Raises StokerError, OSError, Unavailable when the server stops."""
        snapshot = request.restore_from or request.base
        if snapshot is None or request.buckets:
            return False
        spec = await self._spec(request)
        if self._closing:
            raise Unavailable("The server stops.")
        return await self._runtime.prepare(spec, snapshot)

    async def discard(self, task_id: str) -> None:
        """Removes what `prepare` made for a container that does not run (any more)."""
        await self._runtime.discard(task_id)
        self.discard_task_dir(task_id)

    async def make_base(self, request: ContainerRequest, directory: Path) -> int:
        """Saves as `directory` a container like those of `request`, on the image and with its mounts, that has imported the client and
        waits to be told whose it is. Returns the bytes on disk. Raises StokerError, Unavailable when the server stops meanwhile."""
        try:
            return await self._make_base(request, directory)
        except Exception as error:
            if self._closing:
                raise Unavailable("The server stops.") from error
            raise
        finally:
            self.discard_task_dir(request.task_id)

    async def _make_base(self, request: ContainerRequest, directory: Path) -> int:
        output = bytearray()
        said = asyncio.Event()

        def sink(fd: int, chunk: bytes) -> None:
            output.extend(chunk)
            if snapshots.BASE_READY in output:
                said.set()

        spec = await self._spec(replace(request, arguments=b"", env={}, mount_trees=(), base=directory))
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

    async def _spec(self, request: ContainerRequest, buckets: Sequence[Path] = ()) -> ContainerSpec:
        image_layers, client_layers = await asyncio.gather(
            self._builder.layers(request.image_id),
            self._builder.client_layers(request.client_version, request.image_id, request.image),
        )
        task_dir = self.task_dir(request.task_id)
        (task_dir / "args.bin").write_bytes(request.arguments)
        inside = TASK_DIR if self._runtime.isolates else str(task_dir)
        mounts = [BindMount(task_dir, TASK_DIR, read_only=False)] if self._runtime.isolates else []
        for volume in request.volumes:
            target = _mount_path(volume.mount_path)
            if self._runtime.isolates:
                mounts.append(BindMount(volume.directory, _inner_path(volume), volume.read_only, within=volume.root))
            mounts.append(BindMount(volume.directory, target, volume.read_only, within=volume.root))
        for bucket, place in zip(request.buckets, buckets, strict=True):
            # A file that is written is in the bucket when the host closes it, so the host must close it when the container does.
            target = _mount_path(bucket.mount_path)
            mounts.append(BindMount(place, target, bucket.read_only, direct=not bucket.read_only))
        return ContainerSpec(
            id=request.task_id,
            layers=(
                *((self._hook_layer,) if request.snapshots or request.base else ()),
                *reversed(request.mount_trees),
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
            keep=self.kept / request.function_id / request.task_id if request.keep else None,
            own=(task_dir, *map(cache_of, buckets)),
        )


class NodeContainer:
    """A container whose last unfinished line is passed on, and whose directory is removed, at its end."""

    def __init__(
        self,
        container: Container,
        splitters: Mapping[int, LineSplitter],
        task_dir: Path,
        env: Mapping[str, str],
        function_id: str,
        volumes: Sequence[VolumeDir],
        on_end: Callable[[str], Awaitable[None]],
    ) -> None:
        """on_end: called with the container's id after its end, before `wait` returns."""
        self._container = container
        self._splitters = splitters
        self._task_dir = task_dir
        self._env = env
        self._function_id = function_id
        self._volumes = volumes
        self._on_end = on_end
        self.went_on = False  # after it asked to be saved
        self.id = container.id
        self.address = container.address
        self.signal = container.signal
        self.kill = container.kill
        self.usage = container.usage
        self.stuck = container.stuck
        self.checkpoint = container.checkpoint
        self.open_files = container.open_files
        self.inspect = container.inspect

    async def open_in(self, volume_id: str) -> list[str]:
        """The paths of the container's open files in a volume."""
        places = held_places([volume for volume in self._volumes if volume.volume_id == volume_id])
        return await self.open_files(list(places)) if places else []

    async def save(self, directory: Path) -> int:
        """Saves the container and lets it go on, also when it could not be saved; returns the bytes on disk. Raises StokerError, CannotBeSaved
        when the next one could not be saved either."""
        self._prepare_to_let_go()
        try:
            places = held_places(self._volumes)
            found = await self._inspected(list(places))
            held = await asyncio.to_thread(held_files.note, [f for f in found.files if f.is_below(places)], places)
            await self._container.checkpoint(directory)
            held_files.write(directory, held)
        finally:
            self._let_go()
        return await asyncio.to_thread(size_of, directory)

    def let_go(self) -> None:
        """A container that asked to be saved goes on unsaved. Raises OSError."""
        self._prepare_to_let_go()
        self._let_go()

    async def wait(self) -> Exit:
        ended = await self._container.wait()
        await self._on_end(self.id)
        for splitter in self._splitters.values():
            splitter.close()
        snapshots.discard(self._task_dir)
        return ended

    async def _inspected(self, volumes: Sequence[str]) -> Inspection:
        """What it holds open, none of which prevents a snapshot. Raises StokerError."""
        found = await self._container.inspect(volumes)
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
            snapshots.prepare_to_let_go(self._task_dir, self.id, self._function_id, self._env)

    def _let_go(self) -> None:
        if self._task_dir.is_dir():
            snapshots.let_go(self._task_dir)
        self.went_on = True


def held_places(volumes: Sequence[VolumeDir]) -> dict[str, Path]:
    """The directories of volumes, by where they are in a container."""
    places = {_mount_path(volume.mount_path): volume.directory for volume in volumes}
    return places | {_inner_path(volume): volume.directory for volume in volumes}


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


def _inner_path(volume: VolumeDir) -> str:
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

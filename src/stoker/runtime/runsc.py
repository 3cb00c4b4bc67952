"""The default runtime: every container is a gVisor sandbox (`runsc`) of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from stoker import oom
from stoker.aio.cancelling import finished, within
from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.runtime import checkpoint, gpu, gpu_snapshot, init, overlay
from stoker.runtime.addresses import GATEWAY
from stoker.runtime.base import BindMount, ContainerSpec, OutputSink
from stoker.runtime.bundle import make_bundle, system_files
from stoker.runtime.cgroups import CgroupTree
from stoker.runtime.checkpoint import Abilities
from stoker.runtime.kernel import KernelSettings
from stoker.runtime.launch import launching
from stoker.runtime.memory import ceiling
from stoker.runtime.memory_guard import MemoryGuard, Users
from stoker.runtime.network import Network
from stoker.runtime.output import OutputPipes
from stoker.runtime.patrol import Patrol
from stoker.runtime.pins import Pins
from stoker.runtime.prepared import Prepared, SandboxResources, can_be_prepared
from stoker.runtime.runsc_binary import known_good
from stoker.runtime.sandbox import Sandbox, errors_of
from stoker.runtime.steps import Isolation, StepRunner

_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
_HOSTNAME = "modal"
_NOTHING = asyncio.subprocess.DEVNULL
_CREATION = 60.0  # seconds
_log = logging.getLogger(__name__)


class RunscRuntime:
    """Keeps everything in `state_dir`, one directory per container. One instance per `state_dir` at a time.

    `start` returns as soon as the sandbox was launched (about 10 ms); when gVisor itself then fails to come up, `wait` tells so with
    ExitKind.FAILED and gVisor's own sentence."""

    name = "runsc"
    isolates = True

    def __init__(
        self,
        state_dir: Path,
        *,
        runsc: Path,
        gateway_port: int,
        redirects: Mapping[int, int] | None = None,
        memory: int | None = None,
        disk: int | None = None,
        disk_reserve: int = 0,
        pool_size: int = 8,
        huge_pages: bool = True,
        hurry: bool = True,
        build_isolation: Isolation = "auto",
    ) -> None:
        """gateway_port, redirects: see `firewall.table`. memory: bytes that all containers together may have; None for what `ceiling` says of this
        machine. disk: bytes that a container may write as its own unless its limits say otherwise; None for a quarter of the disk. disk_reserve: bytes
        that stay free there. huge_pages, hurry: whether the kernel may be told so, see `KernelSettings`. build_isolation: see `StepRunner`."""
        self._state = state_dir.absolute()
        self._containers = self._state / "containers"
        self._runsc = runsc
        self._memory = ceiling() if memory is None else memory
        self._running: dict[str, Sandbox] = {}
        self._disk = disk
        self._patrol = Patrol(self._state, disk_reserve, lambda: [*self._running.values(), *self.steps.running])
        self._memory_guard = MemoryGuard(self._memory_users)
        self._init = self._state / "init"
        self._huge_pages = huge_pages
        self._hurry = hurry
        self._kernel = KernelSettings()
        tag = hashlib.sha256(os.fsencode(self._state)).hexdigest()[:6]
        self._network = Network(tag, gateway_port, pool_size, redirects=redirects)
        self._cgroup_name = f"stoker-{tag}"
        self._cgroups: CgroupTree | None = None
        self._abilities = Abilities()
        self._pins = Pins(self._state / "pins")
        self._prepared: dict[str, Prepared] = {}
        self._starting: set[asyncio.Future[None]] = set()
        self._closing = False
        self._lock = -1
        self.steps = StepRunner(
            self._state,
            runsc=runsc,
            first=self._init,
            network=self._network,
            groups=self._groups,
            began=self._patrol.come,
            isolation=build_isolation,
        )

    async def open(self) -> None:
        if sys.platform != "linux":
            raise FailedPrecondition(
                'gVisor sandboxes need Linux. Set runtime = "process" to run containers as plain processes.'
            )
        if os.geteuid() != 0:
            raise FailedPrecondition(
                'gVisor sandboxes need root for their mounts and networks. Start Stoker as root, or set runtime = "process".'
            )
        why = await anyio.to_thread.run_sync(known_good, self._runsc)
        if why is not None:
            raise FailedPrecondition(f"This runsc cannot be used: {why}. Run `stoker doctor --fix`.")
        if shutil.which("unshare") is None:
            raise FailedPrecondition("The program `unshare` is missing: install the package util-linux.")
        self._abilities = await anyio.to_thread.run_sync(Abilities.of, self._runsc)
        self._state.mkdir(parents=True, exist_ok=True)
        self._acquire()
        init.place(self._init)
        self._closing = False
        self._cgroups = CgroupTree(self._cgroup_name)
        await anyio.to_thread.run_sync(self._sweep)
        self._cgroups.open()
        self._cgroups.limit(self._memory)
        self._memory_guard.open(self._cgroups)
        self._containers.mkdir()
        self._patrol.start()
        self._kernel.open()
        if self._huge_pages:
            self._kernel.offer_large_pages()
        if self._hurry:
            self._kernel.hurry()
        await self._network.open()

    async def close(self) -> None:
        self._closing = True
        while self._starting:
            await asyncio.wait(self._starting)
        for id in list(self._prepared):
            await self.discard(id)
        for sandbox in list(self._running.values()):
            await sandbox.kill()
        for sandbox in list(self._running.values()):
            await sandbox.wait()
        if self._cgroups is None:
            return
        await self.steps.close()
        await self._network.close()
        self._patrol.stop()
        self._memory_guard.close()
        await anyio.to_thread.run_sync(self._sweep)
        self._kernel.close()
        self._cgroups = None
        os.close(self._lock)
        self._lock = -1

    async def start(self, spec: ContainerSpec, output: OutputSink) -> Sandbox:
        return await self._begin(spec, None, output)

    def memory_ceiling(self) -> int:
        return self._memory

    def snapshot_build(self) -> str:
        # Containers see the host's resolvers in a file that gVisor takes for unchanged.
        resolvers = self._network.resolvers.resolv_conf()
        return hashlib.sha256(f"{self._abilities.build}\0{init.digest()}\0{resolvers}".encode()).hexdigest()

    def gpu_snapshot_obstacle(self) -> str:
        return self._abilities.gpu_obstacle

    async def restore(self, spec: ContainerSpec, directory: Path, output: OutputSink) -> Sandbox:
        return await self._begin(spec, directory, output)

    async def prepare(self, spec: ContainerSpec, directory: Path) -> bool:
        if not can_be_prepared(spec):
            return False
        with self._beginning() as groups:
            self._check(spec)
            resources = await self._take_resources(groups, spec, directory)
            try:
                pipes = await self._create(resources)
            except BaseException:
                await finished(self._remove(resources))
                raise
            self._prepared[spec.id] = Prepared.of(resources, directory, pipes)
        return True

    async def discard(self, id: str) -> None:
        prepared = self._prepared.pop(id, None)
        if prepared is not None:
            await finished(self._remove(prepared.resources))
            prepared.pipes.abandon()

    def host_address(self) -> str | None:
        return str(GATEWAY)

    async def _begin(self, spec: ContainerSpec, snapshot: Path | None, output: OutputSink) -> Sandbox:
        with self._beginning() as groups:
            prepared = self._prepared.get(spec.id)
            if prepared is not None and snapshot is not None and prepared.fits(spec, snapshot):
                del self._prepared[spec.id]
                work = self._fill(prepared, snapshot, output)
            else:
                await self.discard(spec.id)
                self._check(spec)
                work = self._run(await self._take_resources(groups, spec, snapshot), snapshot, output)
            sandbox = self._running[spec.id] = await work
        self._patrol.come()
        return sandbox

    def _groups(self) -> CgroupTree:
        if self._cgroups is None:
            raise FailedPrecondition("The runtime is not open.")
        return self._cgroups

    @contextlib.contextmanager
    def _beginning(self) -> Iterator[CgroupTree]:
        """What begins in here is waited for when the runtime closes."""
        if self._cgroups is None or self._closing:
            raise FailedPrecondition("The runtime is not open.")
        start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._starting.add(start)
        try:
            yield self._cgroups
        finally:
            self._starting.discard(start)
            start.set_result(None)

    async def _take_resources(self, groups: CgroupTree, spec: ContainerSpec, snapshot: Path | None) -> SandboxResources:
        """Makes all that a sandbox needs on the host."""
        namespace = await (self._network.take() if spec.network else self._network.take_closed())
        resources = SandboxResources(spec, self._containers / spec.id, groups.group(spec.id), namespace, ())
        try:
            resources.group.create(spec.limits)
            flags = await finished(anyio.to_thread.run_sync(self._make_bundle, resources, snapshot))
        except BaseException:
            await finished(self._remove(resources))
            raise
        return replace(resources, flags=flags)

    async def _create(self, resources: SandboxResources) -> OutputPipes:
        """A sandbox that waits; returns the pipes that will carry its output."""
        pipes = OutputPipes()
        creation: asyncio.subprocess.Process | None = None
        try:
            creation = await self._launch(resources, ("create",), pipes.stdout, pipes.stderr)
            pipes.launched()
            try:
                code = await within(creation.wait(), _CREATION)
            except TimeoutError:
                raise FailedPrecondition(f"The sandbox could not be prepared within {_CREATION:.0f} s.") from None
            if code:
                raise FailedPrecondition(f"The sandbox could not be prepared: {errors_of(resources.directory)}")
        except BaseException:
            pipes.launched()
            pipes.abandon()
            if creation is not None:
                with contextlib.suppress(ProcessLookupError):
                    creation.kill()
            raise
        return pipes

    async def _run(self, resources: SandboxResources, snapshot: Path | None, output: OutputSink) -> Sandbox:
        verb = ("run",) if snapshot is None else self._restoring(snapshot)
        pipes = OutputPipes(output)
        process: asyncio.subprocess.Process | None = None
        try:
            process = await self._launch(resources, verb, pipes.stdout, pipes.stderr)
            pipes.launched()
            return self._sandbox(resources, process, pipes)
        except BaseException:
            pipes.launched()
            await self._give_up(resources, process)
            raise

    async def _fill(self, prepared: Prepared, snapshot: Path, output: OutputSink) -> Sandbox:
        """Reads the snapshot into a sandbox that waits for it."""
        resources, process = prepared.resources, None
        prepared.pipes.sink = output
        try:
            process = await self._launch(resources, self._restoring(snapshot))
            return self._sandbox(resources, process, prepared.pipes)
        except BaseException:
            await self._give_up(resources, process)
            prepared.pipes.abandon()
            raise

    async def _give_up(self, resources: SandboxResources, process: asyncio.subprocess.Process | None) -> None:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # it may not have joined the group yet
        await finished(self._remove(resources))

    def _sandbox(self, resources: SandboxResources, process: asyncio.subprocess.Process, pipes: OutputPipes) -> Sandbox:
        spec, command = resources.spec, (str(self._runsc), *resources.flags)

        async def remove() -> None:
            await self._remove(resources)

        async def save(target: Path) -> None:
            abilities = self._abilities
            save_flags = abilities.save_flags + (abilities.gpu_save_flags if spec.gpu_snapshot else ())
            usage = resources.group.usage()
            memory = usage.memory_bytes if usage is not None else 0
            await checkpoint.save(command, save_flags, spec.id, resources.directory / "upper", target, memory)

        return Sandbox(
            spec,
            process=process,
            group=resources.group,
            command=command,
            directory=resources.directory,
            disk_limit=spec.limits.disk_bytes or self._disk_limit(),
            address=str(resources.namespace.address) if resources.namespace.address else None,
            pipes=pipes,
            remove=remove,
            save=save,
        )

    def _disk_limit(self) -> int:
        return shutil.disk_usage(self._state).total // 4 if self._disk is None else self._disk

    def _restoring(self, snapshot: Path) -> tuple[str, ...]:
        return ("restore", f"--image-path={checkpoint.image_of(snapshot)}", *self._abilities.restore_flags)

    def _check(self, spec: ContainerSpec) -> None:
        if not _ID.match(spec.id):
            raise InvalidArgument(f"{spec.id!r} cannot be the id of a container.")
        if (self._containers / spec.id).exists():
            raise InvalidArgument(f"A container {spec.id} is running already.")
        if not spec.argv:
            raise InvalidArgument("A container needs a command to run.")
        for mount in spec.mounts:
            if not mount.source.exists():
                raise InvalidArgument(f"{mount.source}, to be mounted at {mount.target}, does not exist on the host.")
            if not mount.target.startswith("/"):
                raise InvalidArgument(f"The mount target {mount.target!r} is not an absolute path.")

    def _make_bundle(self, resources: SandboxResources, snapshot: Path | None) -> tuple[str, ...]:
        """Makes the container's directory with its mount and bundle; returns the flags for runsc. Blocks for some milliseconds."""
        spec, directory, namespace = resources.spec, resources.directory, resources.namespace
        layers, flags, devices = spec.layers, (*_globals(directory), *self._abilities.global_flags), []
        if snapshot is not None:
            layers = (*checkpoint.layers_of(snapshot), *layers)
        if spec.gpu_devices:
            devices = gpu.devices(spec.gpu_devices)
            layers = (gpu.driver_layer(self._state / "gpu"), *layers)
            flags += gpu.RUNSC_FLAGS
            if spec.gpu_snapshot:
                flags += self._abilities.gpu_global_flags
                spec = replace(spec, mounts=(*spec.mounts, gpu_snapshot.tool_mount()))
        spec = replace(spec, mounts=tuple(self._pinned(spec.id, mount) for mount in spec.mounts))
        directory.mkdir()
        address = str(namespace.address or "192.0.2.2")
        root = overlay.Overlay(directory)
        root.mount(layers, system_files(_HOSTNAME, address, self._network.resolvers.resolv_conf()))
        config = make_bundle(
            spec, root=root.root, first=self._init, namespace=namespace.path, hostname=_HOSTNAME, devices=devices
        )
        (directory / "config.json").write_text(json.dumps(config))
        return flags

    def _pinned(self, id: str, mount: BindMount) -> BindMount:
        if mount.within is None or mount.within == mount.source:
            return mount
        return replace(mount, source=self._pins.pin(id, mount.source, mount.within))

    async def _launch(
        self, resources: SandboxResources, verb: tuple[str, ...], stdout: int = _NOTHING, stderr: int = _NOTHING
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "unshare", "--mount", "--propagation", "slave",
            *launching(
                (str(self._runsc), *resources.flags, *verb, f"--bundle={resources.directory}", resources.spec.id),
                joins=resources.group.joins,
                oom_score=oom.container_score(resources.spec.limits.memory_request, self._memory),
            ),
            stdin=_NOTHING,
            stdout=stdout,
            stderr=stderr,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            start_new_session=True,  # a Ctrl-C in the server's terminal is the server's business
        )  # fmt: skip

    async def _remove(self, resources: SandboxResources) -> None:
        """Gives back all that a container had. A part that cannot be removed now, which is when the server stops, keeps no other from it."""
        id, group = resources.spec.id, resources.group

        def remove() -> None:
            for part in (
                group.kill,
                lambda: self._pins.release(id),
                lambda: overlay.keep(resources.directory, resources.spec.keep),
                lambda: overlay.discard(resources.directory),
                group.remove,
            ):
                try:
                    part()
                except OSError:
                    _log.exception("something of the container %s could not be removed", id)

        await anyio.to_thread.run_sync(remove)
        try:
            await self._network.give_back(resources.namespace)
        except (OSError, FailedPrecondition):
            _log.exception("the network of the container %s could not be removed", id)
        self._running.pop(id, None)

    def _memory_users(self) -> Users:
        prepared = [each.resources.group for each in self._prepared.values()]
        return Users(list(self._running.values()), self.steps.running, prepared)

    def _acquire(self) -> None:
        self._lock = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise FailedPrecondition(
                f"Another Stoker server uses {self._state}. Stop it, or choose another data directory."
            ) from error

    def _sweep(self) -> None:
        """Ends and removes whatever a server with this state directory left behind, however it died."""
        assert self._cgroups is not None
        self._cgroups.sweep()
        self._pins.sweep()
        overlay.discard(self._containers)


def _globals(directory: Path) -> tuple[str, ...]:
    """Flags before the runsc command. runsc keeps its own state in the container's directory, which is deleted with it."""
    return (
        f"--root={directory / 'runsc'}",
        f"--log={directory / 'runsc.log'}",
        "--log-format=json",
        f"--panic-log={directory / 'panic.log'}",
        "--platform=systrap",
        # gVisor's own stack on the eth0 of the container's namespace. The alternative, handing sockets through to the host's stack
        # there (--network=host), cannot be checkpointed and lacks ioctls that web servers need to find their address.
        "--network=sandbox",
        "--overlay2=none",  # the root is an overlay with a private writable layer already
        "--host-uds=open",  # the server's unix socket is a bind mount
        "--ignore-cgroups",
    )

"""Containers as plain processes of this machine, for macOS, users without root, and fast tests. Nothing is isolated."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio.to_thread
import psutil

from stoker import oom
from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.runtime.base import ContainerSpec, Exit, ExitKind, OutputSink, Usage
from stoker.runtime.commands import stopped_among
from stoker.runtime.descendants import kill_marked, marked
from stoker.runtime.inspection import Inspection
from stoker.runtime.memory import machine_memory
from stoker.runtime.open_files import open_by
from stoker.runtime.output import OutputPipes
from stoker.runtime.targets import MountTargets

_MARK = "STOKER_CONTAINER"
"""Environment variable by which every process of a container is found again, whatever became of its parents."""

_INHERITED = re.compile(
    r"^(PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|DYLD_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|(?i:https?_proxy|all_proxy|no_proxy)|CUDA_.*|NVIDIA_.*)$"
)
_TRIES = 5  # seconds in which to find what is left of a container
# What the machine lacks for a moment; anything else another try would meet again.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_NO_SNAPSHOTS = 'Memory snapshots need gVisor sandboxes: start the server with runtime = "runsc".'
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")


class ProcessRuntime:
    """Keeps one scratch directory per container in `state_dir`. Layers only extend PYTHONPATH: there is no root file system."""

    name = "process"
    isolates = False

    def __init__(self, state_dir: Path) -> None:
        self._state = state_dir.absolute()
        self._scratch = self._state / "scratch"
        self._targets = MountTargets(self._state / "targets")
        self._running: dict[str, ProcessContainer] = {}
        self._memory = machine_memory()

    async def open(self) -> None:
        def prepare() -> None:
            kill_marked(_MARK, f"{self._state}/")
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.mkdir(parents=True)
            self._targets.open()

        await anyio.to_thread.run_sync(prepare)

    async def close(self) -> None:
        for container in list(self._running.values()):
            await container.kill()
        for container in list(self._running.values()):
            await container.wait()
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._scratch, ignore_errors=True))

    async def start(self, spec: ContainerSpec, output: OutputSink) -> ProcessContainer:
        if not _ID.match(spec.id):
            raise InvalidArgument(f"{spec.id!r} cannot be the id of a container.")
        if not spec.argv:
            raise InvalidArgument("A container needs a command to run.")
        scratch = self._scratch / spec.id
        try:
            scratch.mkdir(parents=True)
        except FileExistsError as error:
            raise InvalidArgument(f"A container {spec.id} is running already.") from error
        mark = f"{self._state}/{spec.id}"
        pipes = OutputPipes(output)
        try:
            command = self._targets.take(spec.id, spec.mounts)
            process = await asyncio.create_subprocess_exec(
                *command,
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipes.stdout,
                stderr=pipes.stderr,
                cwd=_working_directory(spec, scratch),
                env=_environment(spec) | {_MARK: mark},
                start_new_session=True,
            )
        except BaseException as error:
            self._forget(spec.id)
            if isinstance(error, OSError) and error.errno not in _PASSING:
                raise FailedPrecondition(
                    f"{spec.argv[0]} could not be started on this machine: {error.strerror}. The process runtime uses the programs of the host."
                ) from error
            raise
        finally:
            pipes.launched()

        async def end() -> None:
            await anyio.to_thread.run_sync(kill_marked, _MARK, mark)

        oom.set_score(oom.container_score(spec.limits.memory_request, self._memory), process.pid)
        container = ProcessContainer(spec.id, mark, process, pipes, end, lambda: self._forget(spec.id))
        self._running[spec.id] = container
        return container

    def memory_ceiling(self) -> int | None:
        return None

    def snapshot_build(self) -> str:
        return ""

    def gpu_snapshot_obstacle(self) -> str:
        return _NO_SNAPSHOTS

    async def restore(self, spec: ContainerSpec, directory: Path, output: OutputSink) -> ProcessContainer:
        raise FailedPrecondition(_NO_SNAPSHOTS)

    async def prepare(self, spec: ContainerSpec, directory: Path) -> bool:
        return False

    async def discard(self, id: str) -> None:
        pass

    def host_address(self) -> str | None:
        return None

    def _forget(self, id: str) -> None:
        self._targets.give_back(id)
        shutil.rmtree(self._scratch / id, ignore_errors=True)
        self._running.pop(id, None)


class ProcessContainer:
    """A process with all its descendants."""

    address = "127.0.0.1"

    def __init__(
        self,
        id: str,
        mark: str,
        process: asyncio.subprocess.Process,
        pipes: OutputPipes,
        end: Callable[[], Awaitable[None]],
        forget: Callable[[], None],
    ) -> None:
        self._id = id
        self._mark = mark
        self._process = process
        self._kill_all = end
        self._forget = forget
        self._killed = False
        self._pipes = pipes
        self._end = asyncio.create_task(self._finish())

    @property
    def id(self) -> str:
        return self._id

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    async def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        if self._end.done():
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._kill_all()

    async def stuck(self, timeout: float) -> str:
        if self._process.returncode is not None:
            return ""
        pids = await anyio.to_thread.run_sync(lambda: [process.pid for process in marked(_MARK, self._mark)])
        return stopped_among(pids)

    async def open_files(self, places: Sequence[str]) -> list[str]:
        return await anyio.to_thread.run_sync(lambda: open_by(marked(_MARK, self._mark), places))

    async def inspect(self, places: Sequence[str]) -> Inspection | None:
        return None

    async def checkpoint(self, directory: Path) -> None:
        raise FailedPrecondition(_NO_SNAPSHOTS)

    async def usage(self) -> Usage | None:
        return (
            None if self._process.returncode is not None else await anyio.to_thread.run_sync(_usage, self._process.pid)
        )

    async def _finish(self) -> Exit:
        code = await self._process.wait()
        # What it left in the background holds the pipes open, and ends with it.
        await self._kill_all()
        for _ in range(_TRIES):
            if await self._pipes.drained(timeout=1.0):
                break
            await self._kill_all()
        else:
            self._pipes.abandon()  # by one that was started without our mark: it must not keep the container for ever
        self._forget()
        if self._killed:
            return Exit(ExitKind.KILLED, 128 + signal.SIGKILL, "The container was killed.")
        return Exit(ExitKind.EXITED, code if code >= 0 else 128 - code)


def _environment(spec: ContainerSpec) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if _INHERITED.match(name)}
    environment |= spec.env
    # The client's dependencies are not among them: `sitecustomize` puts them behind the packages of the host.
    paths = [layer / name for layer in spec.layers for name in ("root", "pkg")]
    python_path = [str(path) for path in paths if path.is_dir()]
    if spec.env.get("PYTHONPATH"):
        python_path.append(spec.env["PYTHONPATH"])
    if python_path:
        environment["PYTHONPATH"] = os.pathsep.join(python_path)
    return environment


def _working_directory(spec: ContainerSpec, scratch: Path) -> Path:
    """The host's directory of that name, or a private one that shows what the layers have there.

    /root, the default of every function, is never the host's: a program must not find or leave files in someone's home."""
    directory = Path(spec.workdir or "/root")
    if directory.is_dir() and os.access(directory, os.W_OK | os.X_OK) and spec.workdir not in ("", "/", "/root"):
        return directory
    for layer in spec.layers:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in (layer / str(directory).lstrip("/")).iterdir():
                if directory != Path("/") and not (scratch / entry.name).is_symlink():
                    (scratch / entry.name).symlink_to(entry)
    return scratch


def _usage(pid: int) -> Usage | None:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return None
    cpu, memory = 0.0, 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            times = member.cpu_times()
            cpu += times.user + times.system
            if sys.platform == "linux":
                cpu += times.children_user + times.children_system
            memory += member.memory_info().rss
    return Usage(cpu_seconds=cpu, memory_bytes=memory)

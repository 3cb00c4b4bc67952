"""Commands of image builds, apart from the host: in a gVisor sandbox, or by runc in namespaces of their own.

A command is code that strangers may have written. It gets the files of its image with a new layer on top, what is mounted for it, and a
network behind the containers' firewall. It gets no file, device, user or service of the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread

from stoker import oom
from stoker.aio.cancelling import finished
from stoker.aio.processes import private, stream
from stoker.errors import FailedPrecondition
from stoker.ids import new_id
from stoker.nodes.endings import Limits
from stoker.runtime import init
from stoker.runtime.bundle import step_config, system_files
from stoker.runtime.cgroups import Cgroup, CgroupTree
from stoker.runtime.host_services import HostServices
from stoker.runtime.launch import launching
from stoker.runtime.network import Namespace, Network
from stoker.runtime.running_step import RunningStep
from stoker.runtime.sandbox import errors_of
from stoker.runtime.user_namespace import FIRST_USER, missing_for_namespaces, with_user_namespace

Isolation = Literal["auto", "namespaces", "gvisor"]

_PROGRAM = Path(__file__).with_name("step_program.py")
_PLACE = Path("/run/stoker/step")
_HOSTNAME = "modal"
_RUNTIME_FAILED = (1, 125, 128)
"""What runc, the shell that joins the cgroups, and runsc exit with when it is they that failed. Commands do so, too, and leave no log."""
_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_NAMES = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


@dataclass(frozen=True)
class StepMount:
    """`layers` (host directories, uppermost first; a single one may be a file) appear at `target`; none: memory.

    inside: the path in them that does, whose links lead nowhere else. access: "scratch" may be written to and loses that."""

    target: str
    layers: tuple[Path, ...] = ()
    inside: str = ""
    access: Literal["ro", "rw", "scratch"] = "ro"


@dataclass(frozen=True)
class Step:
    """One command. "/" are `layers` (host directories, uppermost first) below `directory`/upper, which takes what is written.

    directory: of the build, on the layers' file system; `upper`, `overlay` and `scratch` in it belong to its steps, which run one after
    the other. user: "name:group" or numbers, empty for root. confined: whether it must run in gVisor, whatever the settings say."""

    directory: Path
    layers: tuple[Path, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str = "/"
    user: str = ""
    mounts: tuple[StepMount, ...] = ()
    network: bool = True
    confined: bool = False
    limits: Limits = field(default_factory=Limits)


class StepRunner:
    """Made by the runtime, whose networks and cgroups it uses; usable while that is open."""

    def __init__(
        self,
        state: Path,
        *,
        runsc: Path,
        first: Path,
        network: Network,
        groups: Callable[[], CgroupTree],
        began: Callable[[], None],
        isolation: Isolation = "auto",
    ) -> None:
        """first: the program of the first process. began: is called when there is a command to look after. isolation: of commands that need not run in gVisor; "auto" is "namespaces" where this machine can do that."""
        self._state = state
        self._runsc = runsc
        self._first = first
        self._network = network
        self._groups = groups
        self._began = began
        self._isolation = isolation
        self._obstacle: str | None = None
        self._callers: set[str] = set()
        self._running: dict[str, RunningStep] = {}
        self._services = HostServices(network, self._callers)

    async def close(self) -> None:
        await self._services.close()

    async def run(self, step: Step, line: Callable[[str], None]) -> int:
        """Runs a command, hands each line of its output to `line`, and returns its exit code (128 + n for signal n).

        Raises FailedPrecondition when it could not be started. When cancelled, it ends all processes of the command first."""
        if step.confined or self._isolation == "gvisor":
            return await self._run(step, line, gvisor=True)
        obstacle = await self.namespaces_obstacle()
        if obstacle and self._isolation == "namespaces":
            raise FailedPrecondition(
                f'Image builds cannot run in namespaces on this machine: {obstacle} Set build_isolation = "gvisor", or mend that.'
            )
        return await self._run(step, line, gvisor=bool(obstacle))

    async def namespaces_obstacle(self) -> str:
        """Why commands cannot run in namespaces here, a sentence; empty when they can. Found out once, by running one."""
        if self._obstacle is None:
            self._obstacle = await self._try()
        return self._obstacle

    @property
    def running(self) -> Collection[RunningStep]:
        """The commands that run now."""
        return self._running.values()

    async def reachable(self, places: Iterable[str]) -> dict[str, str]:
        """Where steps reach these HTTP services (host or host:port), which may be on this machine; those for which that differs."""
        found = {place: await self._services.reachable(place) for place in places}
        return {place: other for place, other in found.items() if place != other}

    @contextlib.asynccontextmanager
    async def network(self) -> AsyncIterator[tuple[str, ...]]:
        """Words before a program of ours: it then has the network of steps, in place of the host's, and their way to find names."""
        namespace = await self._network.take()
        directory = self._state / new_id("net")
        try:
            directory.mkdir(parents=True)
            names = directory / "resolv.conf"
            names.write_text(self._network.resolvers.resolv_conf())
            enter = ("nsenter", f"--net={namespace.path}", "--")
            yield (*enter, *private(("/bin/sh", "-c", _NAMES, str(names))))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            await finished(self._network.give_back(namespace))

    async def _try(self) -> str:
        if missing := missing_for_namespaces():
            return missing
        directory = self._state / new_id("probe")
        layer = directory / "layer"
        layer.mkdir(parents=True)
        said: list[str] = []
        try:
            # A static program, which needs nothing of the root that it runs in.
            program = StepMount("/probe", (self._runsc,))
            step = Step(directory, (layer,), ("/probe", "--version"), {}, mounts=(program,), network=False)
            if code := await self._run(step, said.append, gvisor=False):
                return f"A first command ended with {code}: {' '.join(said)}"
        except FailedPrecondition as error:
            return str(error)
        finally:
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))
        return ""

    async def _run(self, step: Step, line: Callable[[str], None], *, gvisor: bool) -> int:
        name = new_id("build")
        namespace = await (self._network.take() if step.network else self._network.take_closed())
        group = self._groups().group(name)
        job = step.directory / "job"
        try:
            self._callers.add(str(namespace.address))
            group.create(step.limits)
            self._running[name] = RunningStep(group, step.directory, shutil.disk_usage(self._state).total // 2, line)
            self._began()
            _write_private(job, json.dumps(self._job(step, name, group, namespace, gvisor=gvisor)))
            program = (sys.executable, "-I", "-S", str(_PROGRAM), str(job))
            code = await stream(private(program), env=_ENV, line=line)
            if reason := _failure(code, step.directory):
                raise FailedPrecondition(f"The step could not be started: {reason}")
            return code
        finally:
            self._callers.discard(str(namespace.address))
            self._running.pop(name, None)
            await finished(self._clean(step.directory, name, namespace))

    def _job(self, step: Step, name: str, group: Cgroup, namespace: Namespace, *, gvisor: bool) -> dict[str, Any]:
        for part in ("upper", "overlay", "scratch"):
            (step.directory / part).mkdir(exist_ok=True)
        (step.directory / "upper").chmod(0o755)  # the mode of "/"
        _PLACE.mkdir(parents=True, exist_ok=True)
        config = step_config(
            (init.INSIDE, init.SINGLE, *step.argv), step.env, step.cwd, hostname=_HOSTNAME, namespace=namespace.path
        )
        log = step.directory / "runsc.log"
        if gvisor:
            runsc = (str(self._runsc), *_gvisor_flags(step.directory, log), "run")
            command = launching(runsc, joins=group.joins, oom_score=oom.BUILDS)
        else:
            command = ("runc", f"--root={_PLACE}/state", f"--log={log}", "--log-format=json", "run")
            config = with_user_namespace(config, cgroup=f"/{self._groups().name}/{name}/step", limits=step.limits)
        mounts = (*step.mounts, *self._system_mounts(step.directory, namespace), StepMount(init.INSIDE, (self._first,)))
        return {
            "place": str(_PLACE),
            "directory": str(step.directory),
            "layers": [str(layer) for layer in dict.fromkeys(step.layers)],
            "mounts": [asdict(mount) | {"layers": [str(layer) for layer in mount.layers]} for mount in mounts],
            "config": config,
            "command": command,
            "name": name,
            "user": step.user,
            "cwd": step.cwd,
            "first_user": None if gvisor else FIRST_USER,
        }

    def _system_mounts(self, directory: Path, namespace: Namespace) -> list[StepMount]:
        """Files that belong to the machine the command believes to be on."""
        files = system_files(_HOSTNAME, str(namespace.address or "192.0.2.2"), self._network.resolvers.resolv_conf())
        (directory / "system").mkdir(exist_ok=True)
        mounts = []
        for name, text in files.items():
            path = directory / "system" / Path(name).name
            path.write_text(text)
            mounts.append(StepMount(f"/{name}", (path,)))
        return mounts

    async def _clean(self, directory: Path, name: str, namespace: Namespace) -> None:
        def clean() -> None:
            self._groups().discard(name)
            for file in ("job", "job.failed", "runsc.log", "panic.log"):
                (directory / file).unlink(missing_ok=True)
            for room in ("overlay", "scratch", "runtime", "system"):
                shutil.rmtree(directory / room, ignore_errors=True)

        await anyio.to_thread.run_sync(clean)
        await self._network.give_back(namespace)


def _gvisor_flags(directory: Path, log: Path) -> tuple[str, ...]:
    return (
        f"--root={directory / 'runtime'}",
        f"--log={log}",
        "--log-format=json",
        f"--panic-log={directory / 'panic.log'}",
        "--platform=systrap",
        "--network=sandbox",
        "--overlay2=none",  # what is written is to be in the layer
        "--ignore-cgroups",
    )


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)


def _failure(code: int, directory: Path) -> str:
    """Why the command was not started; empty when it was."""
    with contextlib.suppress(FileNotFoundError):
        return (directory / "job.failed").read_text()
    return errors_of(directory) if code in _RUNTIME_FAILED else ""

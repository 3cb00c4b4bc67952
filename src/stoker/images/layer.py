"""A new layer of an image: commands and copies work in an overlay whose upper directory simply becomes the layer.

Nothing is packed and unpacked, which for the gigabytes of a CUDA build of torch takes longer than installing it. Commands run apart from
the host (see runtime/steps.py); copies are our own program's (see copy_program.py), which runs nothing of the image."""

from __future__ import annotations

import hashlib
import json
import posixpath
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stoker.aio.processes import capture, private, stream
from stoker.errors import ImageBuildFailed
from stoker.images import hostconfig
from stoker.images.plan import Copy, MakeDirectory, Plan, Run, RunMount
from stoker.images.steplog import Transcript
from stoker.runtime.steps import Step, StepMount, StepRunner

_COPY = Path(__file__).with_name("copy_program.py")
_TIDY = Path(__file__).with_name("tidy_program.py")
_FETCH = Path(__file__).with_name("fetch_program.py")
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_KILLED = 137

Origins = Callable[[str], Awaitable[tuple[Path, ...]]]
"""Answers the layers (uppermost first) of a stage or an image that files are taken from."""


@dataclass
class Surroundings:
    """What the steps of a build see beside their image: `mounts`, the variables `defaults` below and `secrets` above those of the image, the
    build's `context`, and `caches` (a directory) for their cache mounts.

    confined: whether a container asked for the build, so that it may change nothing that others rely on."""

    context: Path
    caches: Path
    mounts: tuple[StepMount, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    confined: bool = False


class NewLayer:
    """The layer that is made in `directory`/upper, on top of `below` (host directories, uppermost first)."""

    def __init__(
        self, steps: StepRunner, directory: Path, below: Sequence[Path], around: Surroundings, origins: Origins
    ) -> None:
        self.upper = directory / "upper"
        self._steps = steps
        self._directory = directory
        # Files can only be on top of something.
        self._below = tuple(below) or (directory / "nothing",)
        self._around = around
        self._origins = origins
        for path in (self.upper, directory / "nothing"):
            path.mkdir(parents=True, exist_ok=True)
        self.upper.chmod(0o755)  # the mode of "/"

    async def carry_out(self, plan: Plan, transcript: Transcript) -> None:
        """Runs and copies. Raises ImageBuildFailed with what the step said."""
        for step in plan.steps:
            transcript.begin(f"{step.instruction.keyword} {step.instruction.value}")
            action = step.action
            if isinstance(action, Run):
                code = await self._run(action, transcript.line)
                if code:
                    raise ImageBuildFailed(transcript.failure(code, _hint(code)))
            elif isinstance(action, Copy | MakeDirectory):
                await self._copy(action, transcript)

    async def run(self, argv: Sequence[str], env: Mapping[str, str], line: Callable[[str], None]) -> int:
        """Runs a command of ours as root; its exit code."""
        step = Step(
            self._directory, self._below, tuple(argv), env, mounts=self._around.mounts, confined=self._around.confined
        )
        return await self._steps.run(step, line)

    async def _run(self, action: Run, line: Callable[[str], None]) -> int:
        around = self._around
        step = Step(
            self._directory,
            self._below,
            action.argv,
            {**around.defaults, **action.env, **around.secrets},
            cwd=action.cwd,
            user=action.user,
            mounts=(*around.mounts, *[await self._mount(mount) for mount in action.mounts]),
            network=action.network,
            confined=around.confined,
        )
        return await self._steps.run(step, line)

    async def _mount(self, mount: RunMount) -> StepMount:
        if mount.kind == "tmpfs":
            return StepMount(mount.target, access="rw")
        if mount.kind == "secret":
            return StepMount(mount.target, (self._secret(mount),))
        if mount.kind == "cache":
            cache = self._around.caches / hashlib.sha256(mount.source.encode()).hexdigest()
            cache.mkdir(parents=True, exist_ok=True)
            return StepMount(mount.target, (cache,), access="scratch" if self._around.confined else "rw")
        layers = await self._origins(mount.origin) if mount.origin else (self._around.context,)
        return StepMount(mount.target, layers, mount.source, "scratch" if mount.writable else "ro")

    def _secret(self, mount: RunMount) -> Path:
        value = self._around.secrets.get(mount.source)
        if value is None and mount.required:
            raise ImageBuildFailed(
                f"The step needs the secret {mount.source!r}, which none of the image's secrets has."
            )
        path = self._directory / "secrets" / hashlib.sha256(mount.source.encode()).hexdigest()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(value or "")
        return path

    async def _copy(self, action: Copy | MakeDirectory, transcript: Transcript) -> None:
        if isinstance(action, MakeDirectory):
            await self._do(Copy((), action.target), (), transcript)
            return
        if action.documents:
            documents = self._new_room("documents")
            for document in action.documents:
                (documents / document.name).write_text(document.body)
            await self._do(action, (documents,), transcript, tuple(document.name for document in action.documents))
        urls = [item for item in action.items if item.startswith(("http://", "https://"))]
        for url in urls:
            file = await self._fetch(url, action.checksum)
            await self._do(action, (file.parent,), transcript, (file.name,), unpack=False)
        items = tuple(item for item in action.items if item not in urls)
        if items:
            origin = await self._origins(action.origin) if action.origin else (self._around.context,)
            await self._do(action, origin, transcript, items)

    async def _fetch(self, url: str, checksum: str) -> Path:
        name = posixpath.basename(unquote(urlsplit(url).path))
        if not name:
            raise ImageBuildFailed(f"{url} names no file; end the address with one.")
        file = self._new_room("fetched") / name
        bundle = hostconfig.certificate_bundle()
        env = _ENV | ({"SSL_CERT_FILE": str(bundle)} if bundle else {})
        async with self._steps.network() as words:
            result = await capture((*words, sys.executable, "-I", "-S", str(_FETCH), url, str(file)), env=env)
        if result.code:
            raise ImageBuildFailed(f"A file could not be fetched: {result.errors.strip() or result.code}")
        if checksum and checksum != (found := f"sha256:{_digest(file)}"):
            raise ImageBuildFailed(f"{url} is not what --checksum says: it has {found}.")
        return file

    async def _do(
        self,
        action: Copy,
        origin: Sequence[Path],
        transcript: Transcript,
        items: tuple[str, ...] = (),
        *,
        unpack: bool = True,
    ) -> None:
        room = self._new_room("copy")
        (self._directory / "overlay").mkdir(exist_ok=True)
        (room / "mounts").mkdir()
        job = {
            "directory": str(self._directory),
            "mounts": str(room / "mounts"),
            "layers": [str(layer) for layer in self._below],
            "origin": [str(layer) for layer in origin],
            "items": items,
            "target": action.target,
            "owner": action.owner,
            "keep_owners": bool(action.origin),
            "mode": action.mode,
            "unpack": action.unpack and unpack,
        }
        (room / "job").write_text(json.dumps(job))
        program = (sys.executable, "-I", "-S", str(_COPY), str(room / "job"))
        if await stream(private(program), env=_ENV, line=transcript.line):
            raise ImageBuildFailed(transcript.failure(None))

    def _new_room(self, name: str) -> Path:
        parent = self._directory / "rooms"
        parent.mkdir(exist_ok=True)
        room = parent / f"{len(list(parent.iterdir()))}-{name}"
        room.mkdir()
        return room


async def no_origins(name: str) -> tuple[Path, ...]:
    """For layers without steps that take files from elsewhere."""
    raise ImageBuildFailed(f"There is no {name} to take files from.")


async def tidy(directory: Path) -> None:
    """Removes from what a container wrote what belongs to every container. Raises ImageBuildFailed."""
    result = await capture(private((sys.executable, "-I", "-S", str(_TIDY), str(directory))), env=_ENV)
    if result.code:
        raise ImageBuildFailed(f"What the function wrote could not be made a layer: {result.errors.strip()}")


def _hint(code: int) -> str:
    return "It was killed, most likely because it needed more memory than there is." if code == _KILLED else ""


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

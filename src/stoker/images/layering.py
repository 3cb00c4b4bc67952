"""A new layer made without buildah: steps run in an overlay whose upper directory simply becomes the layer.

buildah packs what a build wrote into an archive and unpacks it again as the image's layer, which for the gigabytes of a CUDA build of
torch takes longer than installing it. Here buildah only makes the image, with a placeholder for its layer, and the directory that the
steps wrote into takes the placeholder's place. That is how containerd makes layers, too.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stoker.errors import ImageBuildFailed
from stoker.images import inside
from stoker.images.buildah import PLAIN, Buildah
from stoker.images.plan import Copy, MakeDirectory, Plan, Run
from stoker.images.processes import private, stream
from stoker.images.recipe import COMPILE, INSIDE
from stoker.images.steplog import Transcript

Mount = tuple[Path, str, str]
"""(host path, path in RUN steps, "ro" or "rw")."""

_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class NewLayer:
    """The layer of one build on top of the image `base`; `work` is a directory of the build on the storage's file system."""

    def __init__(self, buildah: Buildah, base: str, work: Path) -> None:
        self._buildah = buildah
        # Its id: the name may come to mean a newer image before the layer is sealed.
        self._base = buildah.id_of(base)
        self._layers = buildah.layers(self._base)
        self._work = work
        self._links = work / "below"
        self._upper = work / "upper"
        for path in (self._links, self._upper, work / "root", work / "overlay"):
            path.mkdir()
        # The mode of "/".
        self._upper.chmod(0o755)
        for index, layer in enumerate(self._layers):
            (self._links / str(index)).symlink_to(layer)

    @staticmethod
    def suits(layers: Sequence[Path]) -> bool:
        """Whether the names of all layers fit into one mount."""
        return 1 <= len(layers) <= 500

    async def carry_out(
        self,
        plan: Plan,
        transcript: Transcript,
        *,
        context: Path,
        images: Mapping[str, Path],
        mounts: Sequence[Mount],
        defaults: Mapping[str, str],
        secrets: Mapping[str, str],
    ) -> None:
        """Runs and copies. `context` is where files come from, `images` the one file of other images; RUN steps see `mounts`,
        `defaults` below and `secrets` above the image's own variables. Raises ImageBuildFailed."""
        for step in plan.steps:
            transcript.begin(f"{step.instruction.keyword} {step.instruction.value}")
            action = step.action
            if isinstance(action, Run):
                env = {**defaults, **action.env, **secrets}
                code = await self._run(action.argv, env, action.cwd, mounts, transcript.line)
            elif isinstance(action, Copy):
                code = await self._copy(action, context, images, transcript.line)
            elif isinstance(action, MakeDirectory):
                code = await self._do({"do": "mkdir", "target": action.target}, transcript.line)
            else:
                continue
            if code:
                raise ImageBuildFailed(transcript.failure(code if isinstance(action, Run) else None))

    async def compile(self, env: Mapping[str, str], since: float, mounts: Sequence[Mount]) -> None:
        """Makes bytecode of what was installed since then (seconds since the epoch); an image without Python is fine."""
        await self._run(("python", f"{INSIDE}/{COMPILE}", f"{since:.0f}"), env, "/", mounts, lambda text: None)

    async def seal(self, settings: str, build_args: Mapping[str, str], tag: str) -> str:
        """Makes the image `tag` of the base, this layer, and the instructions in `settings`; returns its id."""
        directory = self._work / "seal"
        directory.mkdir()
        # Unlike any other layer: equal ones would be stored once.
        (directory / "placeholder").write_text(uuid.uuid4().hex)
        (directory / "Dockerfile").write_text(f"FROM {self._base}\n{settings}COPY placeholder /\n")
        arguments = [*PLAIN, "--omit-history", "--iidfile", str(directory / "image"), "--tag", tag]
        for name, value in build_args.items():
            arguments += ["--build-arg", f"{name}={value}"]
        said: list[str] = []
        code = await self._buildah.build((*arguments, str(directory)), env={}, line=said.append)
        if code:
            raise ImageBuildFailed("The image could not be put together:\n" + "\n".join(said[-20:]))
        image = (directory / "image").read_text().removeprefix("sha256:")
        place = self._buildah.layers(image)[0]
        if not (place / "placeholder").is_file():
            raise ImageBuildFailed(f"The image could not be put together: its layer is not {place}.")
        place.rename(self._work / "replaced")
        self._upper.rename(place)
        return image

    async def _run(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        mounts: Sequence[Mount],
        line: Callable[[str], None],
    ) -> int:
        binds = [[str(source), target, mode == "rw"] for source, target, mode in mounts]
        return await self._do({"do": "run", "argv": argv, "env": dict(env), "cwd": cwd, "binds": binds}, line)

    async def _copy(self, action: Copy, context: Path, images: Mapping[str, Path], line: Callable[[str], None]) -> int:
        if action.image:
            file = images[action.image]
            items = [[str(file.parent), file.name]]
        else:
            items = [[str(context), item] for item in action.items]
        return await self._do({"do": "copy", "items": items, "target": action.target}, line)

    async def _do(self, job: dict[str, Any], line: Callable[[str], None]) -> int:
        path = self._work / "job"
        # Not readable by others: it holds the secrets. The program removes it at once.
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        whole = job | {
            "root": str(self._work / "root"),
            "layers": len(self._layers),
            "upper": str(self._upper),
            "work": str(self._work / "overlay"),
        }
        os.write(handle, json.dumps(whole).encode())
        os.close(handle)
        command = (sys.executable, "-I", "-S", inside.__file__, str(path))
        return await stream(private(command), env=_ENV, cwd=self._links, line=line)

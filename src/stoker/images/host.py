"""The image builder of the process runtime: it uses the host's own Python, so there is nothing to build."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from stoker.aio.processes import capture
from stoker.errors import FailedPrecondition, NotFound
from stoker.images import dockerfile, finish
from stoker.images.base import BuildContext, LogSink
from stoker.images.cachedir import default_cache
from stoker.images.client import ClientTrees
from stoker.images.records import Record, Records
from stoker.nodes.builds import ImageConfig, ImageSpec, Leftover

_SETTINGS = frozenset({"ENV", "WORKDIR", "ENTRYPOINT", "CMD"})
_SILENT = frozenset({"FROM", "ARG", "LABEL", "EXPOSE", "SHELL", "USER", "STOPSIGNAL", "HEALTHCHECK"})


class HostImages:
    """ImageBuilder without images: containers share the host's files and `python` (empty for the server's own interpreter)."""

    def __init__(self, data: Path, *, python: str = "", cache: Path | None = None) -> None:
        self._python = python or sys.executable
        self._records = Records(data / "images" / "host")
        self._clients = ClientTrees(cache or default_cache(), host_python=self._python)
        self._host: ImageConfig | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Raises FailedPrecondition when the interpreter cannot be run."""
        await self._host_config()

    async def build(self, image_id: str, spec: ImageSpec, context: BuildContext, log: LogSink) -> ImageConfig:
        """Builds nothing: says which steps are skipped, and answers the settings that the image would have."""
        source = dockerfile.parse(spec.commands, spec.build_args)
        host = await self._host_config()
        base = self._base(source.final.image, spec)
        env, workdir, entrypoint, cmd = dict(base.env), base.workdir, base.entrypoint, base.cmd
        skipped = []
        for step in source.final.instructions:
            if step.keyword == "ENV":
                env |= dockerfile.assignments(step.value, env)
            elif step.keyword == "WORKDIR":
                workdir = str(Path(workdir or "/", " ".join(dockerfile.words(step.value, env))))
            elif step.keyword == "ENTRYPOINT":
                entrypoint, cmd = dockerfile.command(step.value), ()
            elif step.keyword == "CMD":
                cmd = dockerfile.command(step.value)
            elif step.keyword not in _SILENT:
                skipped.append(f"{step.keyword} {step.value}")
        if skipped:
            log(
                f"The process runtime runs functions with the host's own Python {host.python_version} ({self._python}); "
                "these steps are not carried out, so what they install must be there already:\n"
            )
            for text in skipped:
                log(f"  {text}\n")
        config = ImageConfig(
            env=env,
            entrypoint=entrypoint,
            cmd=cmd,
            workdir=workdir,
            python_version=host.python_version,
            libc=host.libc,
            libc_version=host.libc_version,
            python_packages=host.python_packages,
            builder_version=spec.builder_version,
        )
        self._records.write(image_id, Record((), config))
        return config

    async def adopt(self, image_id: str, spec: ImageSpec, files: Path | None, log: LogSink) -> ImageConfig:
        """The function wrote to the host's own files."""
        config = self._base("base", spec)
        self._records.write(image_id, Record((), config))
        return config

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        """Always empty: the host's own files are used."""
        self._records.read(image_id)
        return ()

    async def client_layers(self, client_version: str, image_id: str, config: ImageConfig) -> tuple[Path, ...]:
        return await self._clients.layers(client_version, config)

    async def remove(self, image_id: str) -> None:
        self._records.remove(image_id)

    async def leftovers(self, keep: Collection[str], before: float) -> Sequence[Leftover]:
        """None: there are no layers."""
        return ()

    async def free(self, item: Leftover) -> bool:
        return False

    async def tidy(self) -> None:
        """There is nothing."""

    async def close(self) -> None:
        """Nothing is held."""

    def _base(self, name: str, spec: ImageSpec) -> ImageConfig:
        if name in spec.bases:
            with contextlib.suppress(NotFound):
                return self._records.read(spec.bases[name]).config
        # `python` is the interpreter of the setting, whatever comes first on the host's own path.
        path = os.pathsep.join((str(Path(self._python).parent), os.environ.get("PATH", os.defpath)))
        return ImageConfig(env={"PATH": path})

    async def _host_config(self) -> ImageConfig:
        async with self._lock:
            if self._host is None:
                self._host = await self._ask()
            return self._host

    async def _ask(self) -> ImageConfig:
        try:
            result = await capture((self._python, "-B", "-"), env={}, stdin=finish.SOURCE)
            answer = json.loads(result.output.strip().splitlines()[-1])
        except (OSError, ValueError, IndexError) as error:
            raise FailedPrecondition(
                f"The interpreter {self._python!r} of the process runtime cannot be run ({error}); "
                "set `process_python` to a Python of 3.10 or newer."
            ) from error
        return ImageConfig(
            python_version=answer["python"],
            libc=answer["libc"],
            libc_version=answer["libc_version"],
            python_packages=answer["packages"],
        )

"""The buildah command and its storage in one directory, apart from any other containers storage of the machine.

It fetches base images and keeps them. Nothing is built with it: its own steps would run with the host in reach."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from stoker.aio.processes import Finished, capture, private
from stoker.errors import FailedPrecondition, ImageBuildFailed

_INSTALL = "install it with `apt-get install buildah` (or your system's package manager) and start the server again."

TAG = "localhost/stoker"
"""Images that earlier versions of Stoker built, by their ids."""
BASE_TAG = "localhost/stoker-base"
"""Base images, by their keys."""


class Buildah:
    """Runs buildah (as root) with its images under `directory`/storage.

    Every command runs in an own mount namespace, so that no mount of a build is ever visible on the host, and an own process
    namespace, so that killing it ends all that its steps started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.storage = directory / "storage"
        self._settings = directory / "settings"
        self._temporary = directory / "temporary"
        self._running = 0
        self._cleaning = asyncio.Lock()

    async def open(self) -> None:
        """Writes the settings and removes working containers of a killed server. Raises FailedPrecondition."""
        if os.geteuid() != 0:
            raise FailedPrecondition(
                "Images can only be built as root; run the server as root, or use the process runtime."
            )
        for program in ("buildah", "unshare", "setpriv"):
            if shutil.which(program) is None:
                raise FailedPrecondition(f"`{program}` is needed to build images and was not found; {_INSTALL}")
        self._settings.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(shutil.rmtree, self._temporary, True)
        self._temporary.mkdir()
        (self._settings / "containers.conf").write_text("")
        # None of the host's own settings: storage options such as metacopy would make layers useless outside of buildah.
        graph, run = json.dumps(str(self.storage)), json.dumps(str(self.directory / "run"))
        (self._settings / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = {graph}\nrunroot = {run}\n'
        )
        (self._settings / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n')
        # Base images are trusted by name, as everywhere where no signatures are set up.
        self.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
        if _has_containers(self.storage):
            await self._remove_containers()

    @property
    def policy(self) -> Path:
        """The signature policy, for commands that read images."""
        return self._settings / "policy.json"

    async def settings(self, image: str) -> dict[str, Any]:
        """Docker's settings of an image: `Env`, `Cmd`, `Entrypoint`, `WorkingDir`, `User`, `Shell`, ..."""
        document = json.loads(await self.check("inspect", "--type", "image", image))
        found: dict[str, Any] = (document.get("Docker") or {}).get("config") or {}
        return found

    async def run(self, *arguments: str, words: Sequence[str] = ()) -> Finished:
        """Any command of buildah; `words` come before it."""
        async with self._working():
            return await self._capture(arguments, words)

    async def check(self, *arguments: str) -> str:
        """Like `run`, but raises ImageBuildFailed with buildah's own words when the command fails."""
        result = await self.run(*arguments)
        if result.code:
            raise ImageBuildFailed(f"buildah {arguments[0]} failed: {result.errors.strip() or result.output.strip()}")
        return result.output

    def id_of(self, image: str) -> str:
        """The full id of `image` (that, or a full name). Raises ImageBuildFailed when the storage does not have it."""
        return str(self._image(image)["id"])

    def names_of(self, image: str) -> tuple[str, ...]:
        """All names of `image` (a full id or a full name). Raises ImageBuildFailed when the storage does not have it."""
        return tuple(self._image(image).get("names") or ())

    def layers(self, image: str) -> tuple[Path, ...]:
        """The directories (uppermost first) whose overlay is the file system of `image` (a full id or a full name).

        Raises ImageBuildFailed when the storage does not have it."""
        top = str(self._image(image).get("layer", ""))
        parents = {
            entry["id"]: entry.get("parent", "") for entry in _read(self.storage / "overlay-layers" / "layers.json")
        }
        result = []
        while top:
            result.append(self.storage / "overlay" / top / "diff")
            top = parents[top]
        return tuple(result)

    def names_at(self, layer: Path) -> tuple[str, ...]:
        """The names of images whose uppermost layer is the directory `layer`."""
        return tuple(
            name
            for entry in _read(self.storage / "overlay-images" / "images.json")
            if self.storage / "overlay" / str(entry.get("layer")) / "diff" == layer
            for name in entry.get("names") or ()
        )

    def _image(self, image: str) -> dict[str, Any]:
        for entry in _read(self.storage / "overlay-images" / "images.json"):
            if entry["id"] == image or image in (entry.get("names") or ()):
                return entry
        raise ImageBuildFailed(f"The image {image} vanished from {self.storage}; build it again.")

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        """Around every command that may have files in the temporary directory."""
        async with self._cleaning:
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            # A killed command leaves a working container, or what it had fetched. They do not tell whose they are, so they go when
            # nothing else is under way.
            if not self._running and (_has_containers(self.storage) or os.listdir(self._temporary)):
                await asyncio.shield(asyncio.ensure_future(self._remove_containers()))

    async def _capture(self, arguments: Sequence[str], words: Sequence[str] = ()) -> Finished:
        return await capture((*words, *private(("buildah", *arguments))), env=self._env())

    async def _remove_containers(self) -> None:
        async with self._cleaning:
            if not self._running:
                if _has_containers(self.storage):
                    await self._capture(("rm", "--all"))
                for path in self._temporary.iterdir():
                    await asyncio.to_thread(shutil.rmtree, path, True)

    def _env(self) -> dict[str, str]:
        own = {
            "CONTAINERS_CONF": str(self._settings / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self._settings / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self._settings / "registries.conf"),
            "TMPDIR": str(self._temporary),
        }
        return {**os.environ, **own}


def _has_containers(storage: Path) -> bool:
    return any(_read(storage / "overlay-containers" / name) for name in ("containers.json", "volatile-containers.json"))


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        document: list[dict[str, Any]] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    return document

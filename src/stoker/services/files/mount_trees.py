"""The directory trees that containers see of mounts: made of contents when they are first needed, and checked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import Damaged, NotFound
from stoker.services.telemetry.damages import FILE, Damages
from stoker.store.contents import Contents
from stoker.store.filetree import parts_of
from stoker.store.incoming import file_digest

_CHECK_AGAIN = 86_400.0  # seconds
_QUICK_FILES, _QUICK_BYTES = 1_000, 64 << 20  # of a tree whose check a container waits for
_PATIENCE = 5.0  # seconds for which the end of the server waits for trees that are being made
_log = structlog.get_logger(__name__)

Files = Sequence[tuple[str, str, int]]
"""(path in the container, SHA-256, mode) of each."""


class _Look(NamedTuple):
    """What tells whether somebody has touched the files of a tree, without reading them."""

    files: int
    size: int
    seen: int


class MountTrees:
    """All of them, in `directory`, by the ids of their mounts.

    What a tree holds is checked when it is made, with its first use by this server, when somebody has touched its files, and once a day. A
    container waits for that when the tree is small; large ones are checked beside."""

    def __init__(self, *, contents: Contents, damages: Damages, directory: Path) -> None:
        self._contents = contents
        self._damages = damages
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in directory.iterdir():
            if entry.name.startswith("."):  # a tree that was being made when the server was killed, or was put aside
                shutil.rmtree(entry, ignore_errors=True)
        self._making: dict[str, asyncio.Task[Path]] = {}
        self._checking: dict[str, asyncio.Task[None]] = {}
        self._checked: dict[str, tuple[float, _Look]] = {}  # by mount: when, and how it looked then
        self._jobs = Jobs("mount trees")

    async def get(self, mount_id: str, load: Callable[[], Files]) -> Path:
        """The tree of a mount. Read-only. load: gives what belongs into it, when that is needed. Raises what `load` raises, and Damaged when a
        file of it is damaged or gone."""
        path = self._directory / mount_id
        if path.exists():
            look = await asyncio.to_thread(_look, path)
            checked_at, checked = self._checked.get(mount_id, (0.0, None))
            if checked != look or checked_at < time.monotonic() - _CHECK_AGAIN:
                checking = self._check_beside(mount_id, load())
                if look.files <= _QUICK_FILES and look.size <= _QUICK_BYTES:
                    await asyncio.shield(checking)
        return path if path.exists() else await self._made(mount_id, load())

    async def close(self) -> None:
        await self._jobs.close(patience=_PATIENCE)

    async def _made(self, mount_id: str, files: Files) -> Path:
        making = self._making.get(mount_id)
        if making is None:
            work = asyncio.to_thread(self._make, files, self._directory / mount_id)
            making = self._making[mount_id] = self._jobs.start(f"make {mount_id}", work, awaited=True)
            making.add_done_callback(lambda _: self._making.pop(mount_id, None))
        return await asyncio.shield(making)  # goes on for the others when one of those who wait gives up

    def _check_beside(self, mount_id: str, files: Files) -> asyncio.Task[None]:
        checking = self._checking.get(mount_id)
        if checking is None:
            work = asyncio.to_thread(self._check, mount_id, files)
            checking = self._checking[mount_id] = self._jobs.start(f"check {mount_id}", work)
            checking.add_done_callback(lambda _: self._checking.pop(mount_id, None))
        return checking

    def _make(self, files: Files, path: Path) -> Path:
        temporary = self._directory / f".{path.name}.{secrets.token_hex(8)}"
        temporary.mkdir(mode=0o755)
        try:
            made: set[Path] = set()
            for name, sha256, mode in files:
                target = temporary.joinpath(*parts_of(name))
                if target.parent not in made:
                    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                    made.add(target.parent)
                self._place(name, sha256, target, mode)
            self._checked[path.name] = (time.monotonic(), _look(temporary))
            with contextlib.suppress(FileExistsError, OSError):
                os.rename(temporary, path)
            if not path.exists():
                raise NotFound(f"The tree of the mount {path.name} could not be made.")
            return path
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _place(self, name: str, sha256: str, target: Path, mode: int) -> None:
        try:
            self._contents.place(sha256, target, mode)
        except (NotFound, Damaged):
            raise self._damages.found(
                FILE,
                sha256,
                f"The file {name} of this app, which was sent with it, is damaged or gone on the server's disk (SHA-256 {sha256}). Deploy "
                "the app again: its files are then sent once more.",
            ) from None

    def _check(self, mount_id: str, files: Files) -> None:
        """Puts a tree aside that is not what it should be, so that it is made anew of what is right."""
        path = self._directory / mount_id
        look = _look(path)
        for name, sha256, _ in files:
            try:
                if file_digest(path.joinpath(*parts_of(name)), "sha256") == sha256:
                    continue
            except OSError:
                pass
            _log.error(
                "found damaged",
                kind="mount",
                name=mount_id,
                detail=f"{name} is not what was sent; the tree is made anew",
            )
            self._checked.pop(mount_id, None)
            with contextlib.suppress(FileNotFoundError):
                # Not removed: containers may have it. The next server does.
                os.rename(path, self._directory / f".{mount_id}.{secrets.token_hex(8)}")
            return
        self._checked[mount_id] = (time.monotonic(), look)


def _look(tree: Path) -> _Look:
    """Blocks, but not for long: of a large tree only a part is looked at."""
    files = size = seen = 0
    for root, _, names in os.walk(tree):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(root, name))
                files, size = files + 1, size + status.st_size
                seen ^= hash((name, status.st_ino, status.st_size, status.st_mtime_ns))
        if files > _QUICK_FILES:
            break
    return _Look(files, size, seen)

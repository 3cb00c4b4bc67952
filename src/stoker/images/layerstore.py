"""The layers that were made here: one directory each, immutable once it is kept."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from stoker.aio.cancelling import finished
from stoker.ids import new_id


class LayerStore:
    """Under `directory`: layers/ with what is kept, work/ with what is being made. On one file system, so that keeping is a rename."""

    def __init__(self, directory: Path) -> None:
        self.layers = directory / "layers"
        self._work = directory / "work"

    def open(self) -> None:
        """Removes what a killed server was making. Blocks."""
        shutil.rmtree(self._work, ignore_errors=True)
        for path in (self._work, self.layers):
            path.mkdir(parents=True, exist_ok=True)

    @contextlib.asynccontextmanager
    async def workspace(self) -> AsyncIterator[Path]:
        """A directory for one build, which is removed again."""
        for path in (self._work, self.layers):
            path.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=self._work))
        try:
            yield path
        finally:
            await finished(asyncio.to_thread(shutil.rmtree, path, True))

    def keep(self, directory: Path) -> Path:
        """Makes a layer of a directory in a workspace; where it is from now on."""
        target = self.layers / new_id("la")
        directory.rename(target)
        return target

    def all(self) -> list[Path]:
        """Every layer that is kept."""
        return sorted(self.layers.iterdir()) if self.layers.is_dir() else []

    def remove(self, layer: Path) -> None:
        """Blocks."""
        # First under another name: half a layer must not be taken for one.
        doomed = self._work / layer.name
        layer.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

"""The digests of image layers: made beside the builds, kept with the images, and compared beside the work and by `stoker fsck`.

A container that starts does not wait for them: to read a whole image takes longer than to start from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import structlog

from stoker.aio.jobs import Jobs
from stoker.integrity import trees
from stoker.integrity.background import BackgroundReader
from stoker.integrity.reading import CalledOff

_BYTES_A_SECOND = 100 << 20  # so that others hardly notice
_log = structlog.get_logger(__name__)


def sums_of(images: Path, layer: Path) -> Path:
    """Where the digests of a layer are. images: the images' own directory."""
    return images / "sums" / f"{_short_name(layer)}.gz"


def checked_of(images: Path, layer: Path) -> Path:
    """A file whose time says when the layer was last compared with its digests, and found whole. images: as for `sums_of`."""
    return images / "sums" / f"{_short_name(layer)}.checked"


def name_of(images: Path, layer: Path) -> str:
    """The name of a layer in reports: its path in the images' own directory, which may be moved."""
    return str(layer.relative_to(images) if layer.is_relative_to(images) else layer)


class LayerSums:
    """Those of the images in one data directory."""

    def __init__(self, images: Path) -> None:
        self._images = images
        self._wanted: dict[Path, None] = {}  # in the order in which they came
        self._making: asyncio.Task[None] | None = None
        self._jobs = Jobs("layer sums")
        self._reader = BackgroundReader(_BYTES_A_SECOND)

    def want(self, layers: Iterable[Path]) -> None:
        """An image was built of these. Those that have no digests get them, beside."""
        self._wanted |= dict.fromkeys(layer for layer in layers if not sums_of(self._images, layer).exists())
        if self._wanted and (self._making is None or self._making.done()):
            self._making = self._jobs.start("make them", self._make())

    def forget_removed(self, layers: Iterable[Path]) -> None:
        """Removes the digests of all layers but these. Blocks."""
        kept = {place(self._images, layer) for layer in layers for place in (sums_of, checked_of)}
        for path in (self._images / "sums").glob("*"):
            if path not in kept:
                path.unlink(missing_ok=True)

    async def close(self) -> None:
        self._reader.stop()
        await self._jobs.close(patience=10.0)

    async def _make(self) -> None:
        (self._images / "sums").mkdir(exist_ok=True)
        while self._wanted:
            layer = next(iter(self._wanted))
            del self._wanted[layer]
            try:
                await self._reader.read(partial(trees.write, layer, sums_of(self._images, layer)), direct=False)
            except FileNotFoundError:
                continue  # removed meanwhile
            except CalledOff:
                return
            except OSError as error:
                _log.warning("a layer gets no digests", layer=str(layer), error=str(error))


def _short_name(layer: Path) -> str:
    return layer.parent.name if layer.name == "diff" else layer.name

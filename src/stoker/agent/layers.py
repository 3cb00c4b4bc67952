"""Whether the layers of images are still what was built: those in use are compared with their digests in the background, once a day.

A container that starts does not wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import NotFound
from stoker.images.base import ImageBuilder
from stoker.images.layer_sums import checked_of, name_of, sums_of
from stoker.integrity import trees
from stoker.integrity.background import BackgroundReader
from stoker.integrity.reading import CalledOff, Pace

_AGAIN, _SOON = 86_400.0, 60.0  # seconds until the next look, and until that at a layer that has no digests yet
_BYTES_A_SECOND = 50 << 20  # so that others hardly notice
_MOST_KNOWN = 10_000  # layers of which it is known when they are due; of others the disk knows
_MOST_TOLD, _LONGEST = 3, 500  # things that are wrong with one layer; characters of them
_log = structlog.get_logger(__name__)


class LayerReader:
    """Made by the node, which is told what comes out."""

    def __init__(self, images: Path, builder: ImageBuilder, tell: Callable[[str, str], None]) -> None:
        """images: the images' own directory. tell: is given the name of a layer and what is wrong with it, "" for nothing."""
        self._images = images
        self._builder = builder
        self._tell = tell
        self._due: dict[Path, float] = {}  # when layers that were used are to be looked at; seconds since the epoch
        self._wanted: dict[Path, str] = {}  # layers that are due, in the order in which they came, with an image each
        self._checking: asyncio.Task[None] | None = None
        self._jobs = Jobs("layers")
        self._reader = BackgroundReader(_BYTES_A_SECOND)

    async def use(self, image_id: str) -> tuple[str, ...]:
        """The names of the layers of an image that is in use; those that are due will be looked at. Raises NotFound."""
        layers = await self._builder.layers(image_id)
        now = time.time()
        if len(self._due) > _MOST_KNOWN:
            self._due = {layer: due for layer, due in self._due.items() if due > now}
        for layer in layers:
            due = self._due.get(layer)
            if due is None:
                due = self._due[layer] = _last_look(checked_of(self._images, layer), now) + _AGAIN
            if due <= now:
                self._wanted.setdefault(layer, image_id)
        if self._wanted and (self._checking is None or self._checking.done()):
            self._checking = self._jobs.start("compare layers", self._check_wanted())
        return tuple(name_of(self._images, layer) for layer in layers)

    async def has(self, name: str) -> bool:
        """Whether a layer is there."""
        return await asyncio.to_thread((self._images / name).is_dir)

    async def close(self) -> None:
        self._reader.stop()
        await self._jobs.close(patience=10.0)

    async def _check_wanted(self) -> None:
        while self._wanted:
            layer, image_id = next(iter(self._wanted.items()))
            self._due[layer] = time.time() + _AGAIN
            try:
                await self._check(layer, image_id)
            except CalledOff:
                return
            except (FileNotFoundError, NotFound):
                self._due[layer] = time.time() + _SOON  # it has no digests yet, or is gone
            except (OSError, ValueError) as error:
                _log.warning("a layer cannot be compared with its digests", layer=str(layer), error=str(error))
            finally:
                del self._wanted[layer]

    async def _check(self, layer: Path, image_id: str) -> None:
        name = name_of(self._images, layer)
        wrong = await self._reader.read(partial(_wrong, layer, sums_of(self._images, layer)), direct=True)
        if not wrong:
            self._tell(name, "")
            await asyncio.to_thread(checked_of(self._images, layer).touch)
        elif layer in await self._builder.layers(image_id):  # and was not removed while it was read
            self._tell(name, wrong)


def _last_look(marker: Path, now: float) -> float:
    """When it was looked at with success; 0 when it never was."""
    try:
        return min(marker.stat().st_mtime, now)
    except OSError:
        return 0.0


def _wrong(layer: Path, sums: Path, pace: Pace) -> str:
    """What is wrong with a layer, as a part of a sentence. Names of files are whatever somebody wrote into an image."""
    found = "; ".join(islice(trees.check(layer, sums, pace), _MOST_TOLD))
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in found)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

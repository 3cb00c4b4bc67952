"""Whether the layers of images are still what was built: those in use are compared with their digests in the background, once a day.

A container that starts does not wait for it. When a layer is found damaged no container starts from an image with it any more, nor is an image
built on one; those that run go on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from functools import partial
from itertools import islice
from pathlib import Path

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import Damaged, NotFound
from stoker.images.layer_sums import checked_of, name_of, sums_of
from stoker.integrity import trees
from stoker.integrity.background import BackgroundReader
from stoker.integrity.reading import CalledOff, Pace
from stoker.nodes.builds import ImageBuilder
from stoker.services.telemetry.damages import LAYER, Damage, Damages

_AGAIN, _SOON = 86_400.0, 60.0  # seconds until the next look, and until that at a layer that has no digests yet
_BYTES_A_SECOND = 50 << 20  # so that others hardly notice
_MOST_TOLD, _LONGEST = 3, 500  # things that are wrong with one layer; characters of them
_log = structlog.get_logger(__name__)


class LayerChecks:
    def __init__(
        self, images: Path, *, builder: ImageBuilder, damages: Damages, running: Callable[[], Collection[str]]
    ) -> None:
        """images: the images' own directory. running: the images from which containers run."""
        self._images = images
        self._builder = builder
        self._damages = damages
        self._running = running
        self._due: dict[Path, float] = {}  # when layers that were used are to be looked at; seconds since the epoch
        self._wanted: dict[Path, str] = {}  # layers that are due, in the order in which they came, with an image each
        self._checking: asyncio.Task[None] | None = None
        self._jobs = Jobs("layer checks")
        self._reader = BackgroundReader(_BYTES_A_SECOND)

    async def use(self, image_id: str) -> tuple[str, ...]:
        """To be called before a container starts from an image; the names of its layers, which are others when it is built again. Raises
        Damaged when a layer is known to be, and NotFound when the image is not there. What is due will be looked at."""
        names = tuple(name_of(self._images, layer) for layer in await self._noted(image_id))
        for name in names:
            try:
                self._damages.check(LAYER, name)
            except Damaged as error:
                raise Damaged(f"The image {image_id} cannot be used. {error}") from None
        return names

    async def check(self, image_id: str) -> None:
        """Raises Damaged when a layer of an image is known to be. Costs nothing while no layer is."""
        if self._damaged():
            with contextlib.suppress(NotFound):
                await self.use(image_id)

    async def chore(self) -> None:
        """Begins to look at what is in use and was not looked at for a day, and strikes out what is gone. To be called now and then."""
        for image_id in self._running():
            with contextlib.suppress(NotFound):
                await self._noted(image_id)
        self._due = {layer: due for layer, due in self._due.items() if due > time.time()}
        for damage in self._damaged():
            if not await asyncio.to_thread((self._images / damage.name).is_dir):
                self._damages.whole(LAYER, damage.name)

    async def close(self) -> None:
        self._reader.stop()
        await self._jobs.close(patience=10.0)

    async def _noted(self, image_id: str) -> tuple[Path, ...]:
        """The layers of an image that is in use; those that are due will be looked at. Raises NotFound."""
        layers = await self._builder.layers(image_id)
        now = time.time()
        for layer in layers:
            due = self._due.get(layer)
            if due is None:
                due = self._due[layer] = _last_look(checked_of(self._images, layer), now) + _AGAIN
            if due <= now:
                self._wanted.setdefault(layer, image_id)
        if self._wanted and (self._checking is None or self._checking.done()):
            self._checking = self._jobs.start("compare layers", self._check_wanted())
        return layers

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
            self._damages.whole(LAYER, name)
            await asyncio.to_thread(checked_of(self._images, layer).touch)
        elif layer in await self._builder.layers(image_id):  # and was not removed while it was read
            self._damages.found(
                LAYER,
                name,
                f"The layer {name} of images is damaged on the server's disk: {wrong}. No container starts from it. Stop the server and run "
                "`stoker fsck --fix`: it removes the images with this layer, so that the next deployment or run builds them again.",
            )

    def _damaged(self) -> list[Damage]:
        return [damage for damage in self._damages.all() if damage.kind == LAYER] if len(self._damages) else []


async def no_check(image_id: str) -> None:
    """In place of `LayerChecks.check` where nothing is looked at."""


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

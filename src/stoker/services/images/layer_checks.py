"""Layers of images that were found damaged: no container starts from an image with one of them, nor is an image built on one; those that run go
on. The node compares what is in use with its digests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection

from stoker.errors import Damaged, NotFound
from stoker.nodes.base import Builds
from stoker.services.telemetry.damages import LAYER, Damage, Damages


class LayerChecks:
    """Made by the composition root; asked by whoever starts containers or builds images."""

    def __init__(self, *, builds: Builds, damages: Damages, running: Callable[[], Collection[str]]) -> None:
        """running: the images from which containers run."""
        self._builds = builds
        self._damages = damages
        self._running = running

    async def use(self, image_id: str) -> tuple[str, ...]:
        """To be called before a container starts from an image; the names of its layers, which are others when it is built again. Raises
        Damaged when a layer is known to be, and NotFound when the image is not there. What is due will be looked at."""
        names = tuple(await self._builds.layers(image_id))
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
                await self._builds.layers(image_id)
        for damage in self._damaged():
            if not await self._builds.has_layer(damage.name):
                self._damages.whole(LAYER, damage.name)

    def compared(self, name: str, wrong: str) -> None:
        """Event: a layer was compared with its digests. wrong: what is wrong with it, "" for nothing."""
        if not wrong:
            self._damages.whole(LAYER, name)
            return
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

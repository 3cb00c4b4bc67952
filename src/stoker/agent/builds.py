"""The image builder of this machine, as the services ask for it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from stoker.agent.layers import LayerReader
from stoker.agent.places import Places
from stoker.errors import NotFound
from stoker.images.base import BuildContext, ImageBuilder
from stoker.nodes.builds import ContextRef, ImageConfig, ImageSpec, Leftover


class LocalBuilds:
    """Implements `nodes.base.Builds`. Made by the node."""

    def __init__(
        self, builder: ImageBuilder, places: Places, layers: LayerReader, kept: Path, write: Callable[[str, str], None]
    ) -> None:
        """kept: where containers whose files are kept leave them, by function and task. write: is given what a build says, with the image's
        id before it."""
        self._builder = builder
        self._places = places
        self._layers = layers
        self._kept = kept
        self._write = write

    async def build(self, image_id: str, spec: ImageSpec, context: ContextRef) -> ImageConfig:
        files = BuildContext(
            mount_tree=await self._places.mount(context.mount_id) if context.mount_id else None,
            mount_name=context.python,
            secret_env=context.secret_env,
            registry_auth=context.registry_auth,
            confined=context.confined,
        )
        return await self._builder.build(image_id, spec, files, partial(self._write, image_id))

    async def adopt(self, image_id: str, spec: ImageSpec, task_id: str, function_id: str) -> ImageConfig:
        files = self._kept / function_id / task_id
        there = await asyncio.to_thread(files.is_dir)
        return await self._builder.adopt(image_id, spec, files if there else None, partial(self._write, image_id))

    async def drop_kept(self, function_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._kept / function_id, True)

    async def has(self, image_id: str) -> bool:
        try:
            await self._builder.layers(image_id)
        except NotFound:
            return False
        return True

    async def layers(self, image_id: str) -> Sequence[str]:
        return await self._layers.use(image_id)

    async def has_layer(self, name: str) -> bool:
        return await self._layers.has(name)

    async def remove(self, image_id: str) -> None:
        await self._builder.remove(image_id)

    async def leftovers(self, keep: Sequence[str], before: float) -> Sequence[Leftover]:
        return await self._builder.leftovers(set(keep), before)

    async def free(self, item: Leftover) -> bool:
        return await self._builder.free(item)

    async def tidy(self) -> None:
        await self._builder.tidy()

    async def close(self) -> None:
        await self._layers.close()
        await self._builder.close()

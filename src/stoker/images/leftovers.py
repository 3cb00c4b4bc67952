"""What the data directory keeps of images that nobody uses any more: their layers, base images, standalone Pythons."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from stoker.disk import size_of
from stoker.errors import ImageBuildFailed
from stoker.images.base import Forget, Leftover
from stoker.images.buildah import BASE_TAG, TAG, Buildah
from stoker.images.pythons import StandalonePythons
from stoker.images.records import Records


class Leftovers:
    """Of one data directory. While something is removed no image may be built."""

    def __init__(self, buildah: Buildah, records: Records, pythons: StandalonePythons) -> None:
        self._buildah = buildah
        self._records = records
        self._pythons = pythons

    def find(self, keep: Collection[str], before: float) -> list[Leftover]:
        """Images that are not in `keep`, bases that no other image is built on, and Pythons; all not used since `before` (seconds since the
        epoch). A layer counts for the first of those with which it goes. Blocks."""
        going: list[tuple[str, tuple[Path, ...]]] = []
        staying: set[Path] = set()
        for image_id, used_at, record in self._records.entries():
            if image_id in keep or used_at >= before:
                staying.update(record.layers)
            else:
                going.append((image_id, record.layers))
        bases = self._bases(before, staying)
        for _, layers in bases.items():
            staying.update(layers)  # they go with the base
        counted: set[Path] = set()
        found = [Leftover("image", image_id, _size(layers, staying, counted)) for image_id, layers in going]
        for name, layers in bases.items():
            staying.difference_update(layers)
            found.append(Leftover("base", name, _size(layers, staying, counted)))
        found += [Leftover("python", path.name, size_of(path)) for path in self._pythons.unused(before)]
        return found

    async def remove(self, item: Leftover, forget: Forget) -> bool:
        """Whether it is gone. forget: makes the server forget an image; whether its files may go."""
        if item.kind == "image":
            return await forget(item.name) and await self.remove_image(item.name)
        if item.kind == "base":
            return await self._remove_base(item.name)
        await asyncio.to_thread(shutil.rmtree, self._pythons.directory / item.name, True)
        return True

    async def remove_image(self, image_id: str) -> bool:
        """Forgets an image and removes those of its layers that no other image is built on; whether it was there."""
        self._records.remove(image_id)
        return (await self._buildah.run("rmi", f"{TAG}:{image_id}")).code == 0

    async def prune(self) -> None:
        """Removes what has no name any more: the bases in whose place newer ones came."""
        await self._buildah.run("rmi", "--prune")

    def _bases(self, before: float, used: set[Path]) -> dict[str, tuple[Path, ...]]:
        """Layers by name; `used` are those of images that stay."""
        found = {}
        for path in sorted((self._buildah.directory / "bases").glob("*.json")):
            with contextlib.suppress(ImageBuildFailed, FileNotFoundError):
                layers = self._buildah.layers(f"{BASE_TAG}:{path.stem}")
                if path.stat().st_mtime < before and layers[0] not in used:
                    found[path.stem] = layers
        return found

    async def _remove_base(self, name: str) -> bool:
        own = f"{BASE_TAG}:{name}"
        with contextlib.suppress(ImageBuildFailed):
            others = [other for other in self._buildah.names_of(own) if other != own]
            (self._buildah.directory / "bases" / f"{name}.json").unlink(missing_ok=True)
            # The name under which it was pulled goes with it, but not what is the same image as another base.
            extra = () if any(other.startswith(TAG) for other in others) else others
            return (await self._buildah.run("rmi", own, *extra)).code == 0
        return False


def _size(layers: Iterable[Path], others: set[Path], counted: set[Path]) -> int:
    """Bytes on the disk of those layers that are not in `others`; adds them to `counted`."""
    own = [layer for layer in layers if layer not in others and layer not in counted]
    counted.update(own)
    return sum(size_of(layer) for layer in own)

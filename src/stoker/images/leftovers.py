"""What the data directory keeps of images that nobody uses any more: their layers, base images, standalone Pythons."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from stoker.disk import size_of
from stoker.images.bases import Base, BaseRecords
from stoker.images.buildah import BASE_TAG, TAG, Buildah
from stoker.images.cachedir import default_cache
from stoker.images.layerstore import LayerStore
from stoker.images.pythons import StandalonePythons
from stoker.images.records import Record, Records
from stoker.nodes.builds import Leftover


class Leftovers:
    """Of one data directory. While something is removed no image may be built."""

    def __init__(self, buildah: Buildah, store: LayerStore, records: Records, pythons: StandalonePythons) -> None:
        self._buildah = buildah
        self._store = store
        self._records = records
        self._bases = BaseRecords(buildah)
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
        bases = self._unused_bases(before, staying)
        for base in bases.values():
            staying.update(base.layers)  # they go with the base
        counted: set[Path] = set()
        found = [Leftover("image", image_id, _size(layers, staying, counted)) for image_id, layers in going]
        for key, base in bases.items():
            staying.difference_update(base.layers)
            found.append(Leftover("base", key, _size(base.layers, staying, counted)))
        found += [Leftover("python", path.name, size_of(path)) for path in self._pythons.unused(before)]
        return found

    async def remove(self, item: Leftover) -> bool:
        """Whether it is gone."""
        if item.kind == "image":
            return await self.remove_image(item.name)
        if item.kind == "base":
            return await self._remove_base(item.name)
        await asyncio.to_thread(shutil.rmtree, self._pythons.directory / item.name, True)
        return True

    async def remove_image(self, image_id: str) -> bool:
        """Forgets an image and removes those of its layers that no other image is built on; whether it was there."""
        record = self._records.find(image_id)
        self._records.remove(image_id)
        if record is None:
            return False
        await self._remove_layers(record.layers)
        await self._remove_earlier(image_id, record)
        return True

    async def discard(self, layers: Collection[Path]) -> None:
        """Removes all images and bases with one of these layers, which are damaged, so that no build uses them again."""
        for image_id, _, record in list(self._records.entries()):
            if not set(layers).isdisjoint(record.layers):
                await self.remove_image(image_id)
        for key in self._bases.names():
            base = self._bases.read(key) or self._bases.earlier(key)
            if base is not None and not set(layers).isdisjoint(base.layers):
                await self._remove_base(key)
        await self.prune()

    async def prune(self) -> None:
        """Removes what has no record any more: layers of killed builds, and bases in whose place newer ones came."""
        await self._remove_layers(self._store.all())
        await self._buildah.run("rmi", "--prune")

    async def _remove_layers(self, layers: Iterable[Path]) -> None:
        used = await asyncio.to_thread(self._used)
        for layer in layers:
            if layer.parent == self._store.layers and layer not in used and layer.is_dir():
                await asyncio.to_thread(self._store.remove, layer)

    async def _remove_earlier(self, image_id: str, record: Record) -> None:
        """Removes an image that an earlier version of Stoker kept in buildah's storage, unless later ones are built on its layers. Those it is
        built on itself may have waited for that."""
        used = await asyncio.to_thread(self._used)
        for layer in record.layers:
            if layer in used:
                break
            for name in self._buildah.names_at(layer):
                if name.startswith(f"{TAG}:") and self._records.find(name.removeprefix(f"{TAG}:")) is None:
                    await self._buildah.run("rmi", name)

    def _used_by_images(self) -> set[Path]:
        return {layer for _, _, record in self._records.entries() for layer in record.layers}

    def _used(self) -> set[Path]:
        used = self._used_by_images()
        for key in self._bases.names():
            if (base := self._bases.read(key)) is not None:
                used.update(base.layers)
        return used

    def _unused_bases(self, before: float, used: set[Path]) -> dict[str, Base]:
        """Those of which no layer is in `used`, by their keys."""
        found = {}
        for key in self._bases.names():
            base = self._bases.read(key) or self._bases.earlier(key)
            if base is not None and self._bases.made_at(key) < before and base.layers[0] not in used:
                found[key] = base
        return found

    async def _remove_base(self, key: str) -> bool:
        base = self._bases.read(key) or self._bases.earlier(key)
        if base is None or base.layers[0] in await asyncio.to_thread(self._used_by_images):
            return False
        self._bases.remove(key)
        await self._remove_layers(base.layers)
        if not base.image:
            return True
        # The name under which it was pulled goes with it, but not what is the same image as another base.
        own = f"{BASE_TAG}:{key}"
        others = [name for name in self._buildah.names_of(base.image) if name != own]
        extra = () if any(name.startswith((TAG, BASE_TAG)) for name in others) else others
        return (await self._buildah.run("rmi", own, *extra)).code == 0


async def discard(images: Path, layers: Collection[Path]) -> None:
    """As `Leftovers.discard`, in the images' directory of a server that does not run. Raises FailedPrecondition when buildah cannot be used."""
    buildah, store = Buildah(images), LayerStore(images)
    await buildah.open()
    await asyncio.to_thread(store.open)
    pythons = StandalonePythons(images / "pythons", default_cache())
    await Leftovers(buildah, store, Records(images / "built"), pythons).discard(layers)


def _size(layers: Iterable[Path], others: set[Path], counted: set[Path]) -> int:
    """Bytes on the disk of those layers that are not in `others`; adds them to `counted`."""
    own = [layer for layer in layers if layer not in others and layer not in counted]
    counted.update(own)
    return sum(size_of(layer) for layer in own)

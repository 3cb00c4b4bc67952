"""Pythons that compile the client for images, where the server's own is of another version.

The Python of an image may have been put there by anybody, so what it writes is for those images alone that contain it anyway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stoker.aio.processes import Finished
from stoker.images.bases import BaseRecords
from stoker.images.buildah import Buildah
from stoker.images.client import Compiler
from stoker.images.layerstore import LayerStore
from stoker.images.plan import DEFAULT_PATH, INSIDE
from stoker.images.pythons import StandalonePythons
from stoker.images.records import Records
from stoker.runtime.steps import Step, StepMount, StepRunner

_TREE = f"{INSIDE}/tree"
_KEY_LENGTH = 24


class Compilers:
    def __init__(
        self, buildah: Buildah, store: LayerStore, records: Records, pythons: StandalonePythons, steps: StepRunner
    ) -> None:
        self._bases = BaseRecords(buildah)
        self._store = store
        self._records = records
        self._pythons = pythons
        self._steps = steps

    async def find(self, python: str, layers: Sequence[Path]) -> Compiler | None:
        """Who compiles for the Python `python` ("3.12") of an image with `layers` (uppermost first)."""
        fetched = self._pythons.interpreter(python)
        if fetched is not None:
            return Compiler.on_host(str(fetched))
        # The lowest part of the image that has it: as many images as possible share what it makes.
        parts = [(part, key) for part, key, version in self._parts(tuple(layers)) if version == python]
        if not parts:
            return None
        part, key = min(parts, key=lambda found: len(found[0]))

        async def run(words: Sequence[str], tree: Path) -> Finished:
            return await self._run(part, words, tree)

        return Compiler(run, place=_TREE, for_only=key)

    def _parts(self, layers: tuple[Path, ...]) -> Iterator[tuple[tuple[Path, ...], str, str]]:
        """The bases and images that the one with `layers` is built on, itself included: layers, name, and version of Python."""
        for key in self._bases.names():
            base = self._bases.read(key)
            if base is not None and base.layers and base.layers == layers[-len(base.layers) :]:
                yield base.layers, base.image[:_KEY_LENGTH] or key, _series(base.config.python_version)
        for image_id, _, record in self._records.entries():
            if record.layers and record.layers == layers[-len(record.layers) :]:
                yield (
                    record.layers,
                    record.layers[0].name[:_KEY_LENGTH] or image_id,
                    _series(record.config.python_version),
                )

    async def _run(self, layers: tuple[Path, ...], words: Sequence[str], tree: Path) -> Finished:
        said: list[str] = []
        async with self._store.workspace() as work:
            step = Step(
                work,
                layers,
                ("python", *words),
                {"PATH": f"/usr/local/bin:{DEFAULT_PATH}:/opt/stoker/python"},
                mounts=(StepMount(_TREE, (tree,), access="rw"),),
                network=False,
                confined=True,
            )
            code = await self._steps.run(step, said.append)
        return Finished(code, "\n".join(said), "")


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])

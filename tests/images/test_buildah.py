"""Who may use buildah's storage at the same time as whom; buildah itself is left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stoker.images import buildah
from stoker.images.bases import BaseImages
from stoker.images.buildah import Buildah
from stoker.images.layering import NewLayer
from stoker.images.processes import Finished

NAME = "localhost/stoker-base:python"


@pytest.fixture
def storage(tmp_path: Path) -> Buildah:
    made = Buildah(tmp_path / "images")
    made._temporary.mkdir(parents=True)
    for name in ("overlay-images", "overlay-layers", "overlay-containers"):
        (made.storage / name).mkdir(parents=True)
    layers = [{"id": "old-layer"}, {"id": "new-layer"}, {"id": "sealed", "parent": "old-layer"}]
    (made.storage / "overlay-layers" / "layers.json").write_text(json.dumps(layers))
    return made


def name_images(storage: Buildah, **names: Sequence[str]) -> None:
    """Images of one layer of that name; values: the names that lead to them."""
    images = [{"id": f"{image}-id", "layer": f"{image}-layer", "names": given} for image, given in names.items()]
    images.append({"id": "sealed-id", "layer": "sealed", "names": []})
    (storage.storage / "overlay-images" / "images.json").write_text(json.dumps(images))


def test_the_end_of_a_build_takes_nothing_from_a_pull_under_way(
    storage: Buildah, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both keep files in the temporary directory, and a build that copied from another image leaves a working container."""
    containers = storage.storage / "overlay-containers" / "containers.json"
    fetched = storage._temporary / "fetched"

    async def run() -> None:
        pulling, go_on = asyncio.Event(), asyncio.Event()

        async def command(argv: Sequence[str], **_: Any) -> Any:
            if "pull" in argv:
                fetched.mkdir()
                pulling.set()
                await go_on.wait()
                assert fetched.is_dir(), "the pull has lost what it had fetched"
                containers.write_text(json.dumps([{"id": "left"}]))
            elif "rm" in argv:
                containers.write_text("[]")
            elif "build" in argv:
                containers.write_text(json.dumps([{"id": "left"}]))
                return 0
            return Finished(0, "", "")

        monkeypatch.setattr(buildah, "capture", command)
        monkeypatch.setattr(buildah, "stream", command)
        pull = asyncio.ensure_future(storage.run("pull", "python"))
        await pulling.wait()
        await storage.build((), env={}, line=lambda text: None)
        go_on.set()
        await pull

    asyncio.run(run())
    assert json.loads(containers.read_text()) == [] and not list(storage._temporary.iterdir())


def test_a_layer_is_sealed_on_the_very_base_it_was_made_for(
    storage: Buildah, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another build may bring in a newer image of that name meanwhile."""
    name_images(storage, old=[NAME], new=[])
    work = tmp_path / "work"
    work.mkdir()
    layer = NewLayer(storage, NAME, work)
    name_images(storage, old=[], new=[NAME])
    asked: list[str] = []

    async def build(arguments: Sequence[str], **_: Any) -> int:
        directory = Path(arguments[-1])
        asked.append((directory / "Dockerfile").read_text().splitlines()[0])
        (directory / "image").write_text("sha256:sealed-id")
        place = storage.storage / "overlay" / "sealed" / "diff"
        place.mkdir(parents=True)
        (place / "placeholder").touch()
        return 0

    monkeypatch.setattr(storage, "build", build)
    assert asyncio.run(layer.seal("", {}, "localhost/stoker:im-1")) == "sealed-id"
    assert asked == ["FROM old-id"]


def test_a_base_whose_record_did_not_fit_on_the_disk_is_brought_in_again(
    storage: Buildah, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases = BaseImages(storage, tmp_path / "cache", mirrors={}, insecure=(), origin="registry", refresh_days=30)
    brought: list[str] = []

    async def bring(name: str, *_: Any) -> str:
        brought.append(name)
        return "registry"

    write_text = Path.write_text

    def full(path: Path, text: str) -> None:
        write_text(path, "")
        raise OSError("no space left on device")

    monkeypatch.setattr(bases, "_bring", bring)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="no space"):
            asyncio.run(bases.ensure("python:3.11", lambda text: None))
    for _ in range(2):
        asyncio.run(bases.ensure("python:3.11", lambda text: None))
    assert brought == ["python:3.11"] * 2

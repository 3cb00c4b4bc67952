"""Who may use buildah's storage at the same time as whom; buildah itself is left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stoker.aio.processes import Finished
from stoker.images import buildah
from stoker.images.bases import Base, BaseImages
from stoker.images.buildah import Buildah
from stoker.images.layerstore import LayerStore
from stoker.nodes.builds import ImageConfig


@pytest.fixture
def storage(tmp_path: Path) -> Buildah:
    made = Buildah(tmp_path / "images")
    made._temporary.mkdir(parents=True)
    for name in ("overlay-images", "overlay-layers", "overlay-containers"):
        (made.storage / name).mkdir(parents=True)
    return made


def test_the_end_of_a_command_takes_nothing_from_a_pull_under_way(
    storage: Buildah, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both keep files in the temporary directory, and a killed command leaves a working container."""
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
            elif "inspect" in argv:
                containers.write_text(json.dumps([{"id": "left"}]))
            return Finished(0, "", "")

        monkeypatch.setattr(buildah, "capture", command)
        pull = asyncio.ensure_future(storage.run("pull", "python"))
        await pulling.wait()
        await storage.run("inspect", "python")
        go_on.set()
        await pull

    asyncio.run(run())
    assert json.loads(containers.read_text()) == [] and not list(storage._temporary.iterdir())


def test_a_base_whose_record_did_not_fit_on_the_disk_is_brought_in_again(
    storage: Buildah, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LayerStore(storage.directory)
    steps: Any = None  # nothing runs
    bases = BaseImages(
        storage, store, steps, tmp_path / "cache", mirrors={}, insecure=(), origin="registry", refresh_days=30
    )
    brought: list[str] = []

    async def bring(name: str, *_: Any) -> Base:
        brought.append(name)
        return Base((storage.directory,), ImageConfig(), "registry")

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

"""Trees of the client and of its dependencies, made from packages and used by the interpreter they are for."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from stoker.aio.processes import Finished
from stoker.errors import FailedPrecondition, NotFound
from stoker.images import client
from stoker.images.client import ClientTrees
from stoker.nodes.builds import ImageConfig

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CONFIG = ImageConfig(python_version=f"{PYTHON}.0", libc="glibc", libc_version="2.36", builder_version="2026.10")


def trees(cache: Path) -> ClientTrees:
    return ClientTrees(cache)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def joined(layers: tuple[Path, ...], target: Path) -> Path:
    for layer in reversed(layers):
        shutil.copytree(layer, target, dirs_exist_ok=True)
    return target


@pytest.mark.parametrize("version", ["1.6.4", "1.4.2"])
def test_the_entrypoint_starts(cache: Path, tmp_path: Path, version: str) -> None:
    layers = asyncio.run(trees(cache).layers(version, CONFIG))
    root = joined(layers, tmp_path / "root")
    assert {path.name for path in (root / "pkg").iterdir()} >= {
        "modal",
        "modal_proto",
        "modal_version",
        "synchronicity",
        "sitecustomize.py",
    }
    assert list((root / "pkg/modal/__pycache__").glob(f"app.cpython-{PYTHON.replace('.', '')}.pyc"))
    # -I keeps this environment's own packages out; the dependencies are found where sitecustomize puts them in a container.
    program = (
        f"import sys; sys.path[:0] = [{str(root / 'pkg')!r}]; sys.path.append({str(root / '__modal/deps')!r})\n"
        "import modal._container_entrypoint, aiohttp; print(modal.__version__, aiohttp.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, env={"HOME": "/"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [version, str(root / "__modal/deps/aiohttp/__init__.py")]
    assert "/__modal/deps" in (root / "pkg/sitecustomize.py").read_text()


def test_trees_are_made_once_also_by_many_at_once(cache: Path) -> None:
    async def many() -> None:
        first, second = trees(cache), trees(cache)
        results = await asyncio.gather(*(t.layers("1.5.1", CONFIG) for t in (first, first, second)))
        assert len(set(results)) == 1

    asyncio.run(many())
    assert not [name for name in os.listdir(cache / "clients") if name.startswith(".making")]
    before = {path: path.stat().st_ino for path in (cache / "clients").iterdir()}
    asyncio.run(trees(cache).layers("1.5.1+local", CONFIG))
    assert before == {path: path.stat().st_ino for path in (cache / "clients").iterdir()}


def test_old_image_builders_bring_their_own_dependencies(cache: Path) -> None:
    config = ImageConfig(python_version=f"{PYTHON}.0", builder_version="2024.10")
    (only,) = asyncio.run(trees(cache).layers("1.6.4", config))
    assert (only / "pkg/modal").is_dir()
    assert not (only / "__modal").exists()


def test_what_cannot_be_had(cache: Path) -> None:
    with pytest.raises(NotFound, match=r"Version 0\.0\.0\.1 of the modal client.*the server itself has 1\.6\.4"):
        asyncio.run(trees(cache).layers("0.0.0.1", CONFIG))
    with pytest.raises(NotFound, match="not a version"):
        asyncio.run(trees(cache).layers("../etc", CONFIG))
    with pytest.raises(FailedPrecondition, match="no `python`"):
        asyncio.run(trees(cache).layers("1.6.4", ImageConfig()))
    with pytest.raises(FailedPrecondition, match=r"'2031\.01' is not known"):
        asyncio.run(trees(cache).layers("1.6.4", ImageConfig(python_version="3.11.1", builder_version="2031.01")))
    with pytest.raises(FailedPrecondition, match=r"2026\.10 cannot be installed for Python 3\.7"):
        asyncio.run(trees(cache).layers("1.6.4", ImageConfig(python_version="3.7.1", builder_version="2026.10")))
    assert not [name for name in os.listdir(cache / "clients") if name.startswith(".making")]


def test_what_an_images_own_python_compiled_is_for_that_image_only(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever put that Python there may have it write anything, and trees are shared by all images of a Python version."""
    monkeypatch.setattr(client, "SERVER_PYTHON", "none")

    def compiler(name: str) -> client.FindCompiler:
        async def run(words: Sequence[str], tree: Path) -> Finished:
            assert words[-1] == "/place"
            (tree / f"written-by-{name}").touch()
            return Finished(0, "", "")

        async def find(python: str) -> client.Compiler:
            assert python == PYTHON
            return client.Compiler(run, place="/place", for_only=name)

        return find

    own = ClientTrees(tmp_path)
    found = {name: asyncio.run(own.layers("1.6.4", CONFIG, compiler(name))) for name in ("one", "two")}
    for name, layers in found.items():
        assert [path.name for layer in layers for path in layer.glob("written-by-*")] == [f"written-by-{name}"] * 2
    nobodys = asyncio.run(own.layers("1.6.4", CONFIG))
    assert not [path for layer in nobodys for path in layer.glob("written-by-*")]

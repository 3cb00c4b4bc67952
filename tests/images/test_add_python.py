"""`add_python=`: standalone Pythons that uv fetches, here from a list and an archive of this machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from modal.mount import PYTHON_STANDALONE_VERSIONS, python_standalone_mount_name
from tests.conftest import RunningServer, start_server, stop_server
from tests.images import standalone
from tests.images.conftest import BUILDER_VERSION, needs_buildah

from stoker.errors import ImageBuildFailed
from stoker.images.pythons import StandalonePython, StandalonePythons, named

VERSION = f"{standalone.SERIES}.99"
THIS = f"{standalone.SERIES}.{sys.version_info.micro}"


@pytest.fixture
def pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandalonePythons:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", standalone.offer(tmp_path, VERSION))
    return StandalonePythons(tmp_path / "pythons", tmp_path / "cache")


def test_every_name_that_the_client_asks_for_is_understood() -> None:
    for builder, versions in PYTHON_STANDALONE_VERSIONS.items():
        for series in versions:
            python = named(python_standalone_mount_name(series, builder))
            assert python is not None and python.version.startswith(series.rstrip("t"))
            assert python.free_threaded == series.endswith("t")
    assert named("modal-client-mount-1.6.0") is None


def test_a_python_is_fetched_once_and_ready_for_its_place(pythons: StandalonePythons, tmp_path: Path) -> None:
    wanted = StandalonePython("20261021", VERSION, "gnu")
    log: list[str] = []
    tree = asyncio.run(pythons.tree(wanted, log.append))
    said = "".join(log)
    assert f"Fetching Python {VERSION}" in said and f"Installed Python {VERSION}" in said
    root = tree / "python"
    done = subprocess.run([root / "bin" / "python", "--version"], capture_output=True, text=True, check=True, env={})
    assert done.stdout == f"Python {THIS}\n"
    assert not list(root.rglob("EXTERNALLY-MANAGED")), "pip could not install into the image"
    (settings,) = (root / f"lib/python{standalone.SERIES}").glob("_sysconfigdata*.py")
    assert "/usr/local/lib" in settings.read_text() and str(tmp_path) not in settings.read_text()
    assert list((root / f"lib/python{standalone.SERIES}/__pycache__").glob("argparse.*.pyc"))
    assert [path.name for path in (tmp_path / "pythons").iterdir()] == [wanted.key]
    log.clear()
    (tmp_path / "python.tar.gz").unlink()
    assert asyncio.run(pythons.tree(wanted, log.append)) == tree and log == []


def test_a_mirror_stands_in_for_the_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mirror := tmp_path / "mirror" / "20261021").mkdir(parents=True)
    official = "https://github.com/astral-sh/python-build-standalone/releases/download/20261021/python.tar.gz"
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", standalone.offer(mirror, VERSION, url=official))
    pythons = StandalonePythons(tmp_path / "pythons", tmp_path / "cache", mirror=str(mirror.parent))
    tree = asyncio.run(pythons.tree(StandalonePython("20261021", VERSION, "gnu"), lambda text: None))
    assert (tree / "python/bin/python3").exists()


def test_the_client_makes_the_link_that_old_releases_lack(pythons: StandalonePythons) -> None:
    tree = asyncio.run(pythons.tree(StandalonePython("20230826", VERSION, "gnu"), lambda text: None))
    assert not os.path.lexists(tree / "python/bin/python") and (tree / "python/bin/python3").exists()


def test_an_unknown_version_names_those_that_are_known(pythons: StandalonePythons) -> None:
    with pytest.raises(ImageBuildFailed, match=rf"(?s){standalone.SERIES}\.98.*knows: cpython-{VERSION}"):
        asyncio.run(pythons.tree(StandalonePython("20261021", f"{standalone.SERIES}.98", "gnu"), lambda text: None))


def test_a_download_that_fails_says_what_to_do_and_leaves_nothing(pythons: StandalonePythons, tmp_path: Path) -> None:
    (tmp_path / "python.tar.gz").unlink()
    with pytest.raises(ImageBuildFailed, match=r"(?s)python\.tar\.gz.*python_mirror") as caught:
        asyncio.run(pythons.tree(StandalonePython("20261021", VERSION, "gnu"), lambda text: None))
    assert "INTERNAL" not in str(caught.value)
    assert list((tmp_path / "pythons").iterdir()) == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    place = tmp_path_factory.mktemp("standalone")
    versions = {PYTHON_STANDALONE_VERSIONS[builder][standalone.SERIES][1] for builder in (BUILDER_VERSION, "2025.06")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", standalone.offer(place, *versions))
        running = start_server(place / "data", "runsc")
    yield running
    stop_server(running)


@needs_buildah
def test_functions_run_in_a_base_without_python(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:bookworm-slim\nRUN echo made > /made\n")
    app = tmp_path / "added.py"
    app.write_text(
        f"""
import modal
app = modal.App("added")
image = modal.Image.from_registry("debian:bookworm-slim", add_python="{standalone.SERIES}")

@app.function(image=image)
def version():
    import sys
    return sys.version.split()[0], sys.executable

@app.function(image=modal.Image.from_dockerfile("{tmp_path}/Dockerfile", add_python="{standalone.SERIES}"))
def in_dockerfile():
    import sys
    return open("/made").read().strip(), sys.version.split()[0], sys.executable

@app.local_entrypoint()
def main():
    print("inside:", *version.remote())
    print("inside:", *in_dockerfile.remote())
"""
    )
    done = server.modal("run", str(app), timeout=500)
    assert f"inside: {THIS} /usr/local/bin/python" in done.stdout
    assert f"inside: made {THIS} /usr/local/bin/python" in done.stdout
    assert "Fetching Python" in done.stdout, "the build's log says nothing of the download"

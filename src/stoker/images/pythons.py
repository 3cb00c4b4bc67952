"""Standalone Pythons for `add_python=`: the builds that the client names, fetched by uv once and copied into images by their steps.

They are kept as trees with one directory `python`, as the client's `COPY /python/. /usr/local` expects it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from pathlib import Path

from stoker.aio.processes import capture
from stoker.errors import ImageBuildFailed
from stoker.images.base import LogSink
from stoker.images.uvtool import run_uv
from stoker.nodes.pythons import StandalonePython

_WITH_PYTHON_LINK = "20241008"
"""From this release on there is a `bin/python`; for older ones the client makes it itself, and fails where it is already."""
_HOME = "/usr/local"


class StandalonePythons:
    """The Pythons of one server in `directory`. mirror: where uv takes them from, empty for its own sources."""

    def __init__(self, directory: Path, cache: Path, *, mirror: str = "") -> None:
        self.directory = directory
        self._cache = cache
        self._mirror = mirror
        self._locks: dict[str, asyncio.Lock] = {}

    async def tree(self, python: StandalonePython, log: LogSink) -> Path:
        """A directory with this Python as `python`; fetched when it is not here yet. Read-only. Raises ImageBuildFailed."""
        target = self.directory / python.key
        async with self._locks.setdefault(python.key, asyncio.Lock()):
            if not target.is_dir():
                log(f"Fetching Python {python.version} for add_python ({python.request})\n")
                await self._make(python, target, log)
        os.utime(target)  # for `unused`
        return target

    def interpreter(self, series: str) -> Path | None:
        """The program of a Python of `series` ("3.12") that is here."""
        return next(self.directory.glob(f"cpython-{series}.*/python/bin/python{series}"), None)

    def unused(self, before: float) -> list[Path]:
        """Those that no build asked for since then (seconds since the epoch), and what killed servers left. Blocks."""
        if not self.directory.is_dir():
            return []
        busy = {key for key, lock in self._locks.items() if lock.locked()}
        found = [path for path in sorted(self.directory.iterdir()) if path.name not in busy]
        return [path for path in found if path.lstat().st_mtime < before]

    async def _make(self, python: StandalonePython, target: Path, log: LogSink) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".making-", dir=self.directory))
        try:
            await self._fetch(python, work / "fetched", log)
            tree = work / "tree"
            tree.mkdir()
            (work / "fetched" / python.request).rename(tree / "python")
            await asyncio.to_thread(_adapt, tree / "python", str(work / "fetched" / python.request), python)
            await _compile(tree / "python")
            tree.rename(target)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, True)

    async def _fetch(self, python: StandalonePython, directory: Path, log: LogSink) -> None:
        mirror = ("--mirror", _url(self._mirror)) if self._mirror else ()
        said: list[str] = []

        def line(text: str) -> None:
            said.append(text)
            log(text + "\n")

        command = ("python", "install", "--no-bin", "--install-dir", str(directory), *mirror, python.request)
        result = await run_uv(*command, cache=self._cache, python_downloads=True, line=line)
        if result.code == 0 and (directory / python.request / "bin").is_dir():
            return
        if any("No download found" in text for text in said):
            raise ImageBuildFailed(await self._unknown(python))
        raise ImageBuildFailed(
            f"Python {python.version}, which the image gets by add_python, cannot be fetched on this server:\n"
            + "".join(f"  {text.strip()}\n" for text in said[-8:])
            + "Make that address reachable for the server, or give it a mirror of python-build-standalone's releases "
            '(stoker.toml: python_mirror = "URL or directory"; UV_PYTHON_INSTALL_MIRROR and UV_PYTHON_DOWNLOADS_JSON_URL in the '
            "server's environment hold too). Or start from a base that has Python, and leave add_python out."
        )

    async def _unknown(self, python: StandalonePython) -> str:
        series = ".".join(python.version.split(".")[:2])
        command = ("python", "list", "--all-versions", "--only-downloads", "--output-format", "json", series)
        result = await run_uv(*command, cache=self._cache, python_downloads=True)
        try:
            known = [entry["key"] for entry in json.loads(result.output) if entry["implementation"] == "cpython"]
        except (ValueError, KeyError, TypeError):
            known = []
        return (
            f"The uv of this server knows no Python {python.request}, which the image asks for by add_python. "
            + (f"Of {series} it knows: {', '.join(known)}. " if known else f"It knows none of {series}. ")
            + "Update uv on the server, or use another version in add_python or another image builder version "
            "(MODAL_IMAGE_BUILDER_VERSION)."
        )


def _adapt(root: Path, fetched_as: str, python: StandalonePython) -> None:
    """Makes of uv's own installation what it is before uv adapts it, for its place in the image. Blocks."""
    for path in root.glob("lib/python3*/EXTERNALLY-MANAGED"):
        path.unlink()  # pip installs into the image
    link = root / "bin" / "python"
    if python.release < _WITH_PYTHON_LINK and link.is_symlink():
        link.unlink()
    for path in root.glob("lib/python3*/_sysconfigdata*.py"):
        text = path.read_bytes()
        if fetched_as.encode() in text:
            path.write_bytes(text.replace(fetched_as.encode(), _HOME.encode()))


async def _compile(root: Path) -> None:
    """Bytecode of the standard library, without which every container would make it again; an image works without it, too."""
    python = next(root.glob("bin/python3.[0-9]*[0-9t]"), None)
    if python is not None:
        quiet = ("-I", "-m", "compileall", "-q", "-j", "0", "-x", "/(?:test|lib2to3)/")
        await capture((str(python), *quiet, "-s", str(root), "-p", _HOME, str(root / "lib")), env={})


def _url(place: str) -> str:
    """A directory of this machine as uv wants it."""
    return Path(place).absolute().as_uri() if "://" not in place else place

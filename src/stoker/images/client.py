"""What containers need of the modal client: the client itself, and the packages it depends on, as trees rooted at "/".

One tree per client version and Python version (`/pkg/modal`, ...), and one per image builder version, Python version, C library and
machine type for the dependencies (`/__modal/deps`). Trees are made on first use, compiled to bytecode, moved into place in one step,
and never changed afterwards; servers of one machine share them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

import modal
import structlog
import synchronicity

from stoker.aio.processes import Finished, capture
from stoker.errors import FailedPrecondition, NotFound
from stoker.images.uvtool import run_uv
from stoker.nodes.builds import ImageConfig

_log = structlog.get_logger(__name__)

DEPENDENCIES = "/__modal/deps"
SERVER_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_SITECUSTOMIZE = f"""# The modal client's own dependencies come last, so that packages of the image win.
import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))).rstrip("/") + {DEPENDENCIES!r})
"""
_LAYOUT = 2
"""Goes up when trees of dependencies are to be made anew."""
_CLIENT_PACKAGES = ("modal", "modal_proto", "modal_version", "synchronicity")
_MOUNTED_SINCE = "2025.06"
"""From this image builder version on the client's dependencies are mounted; older ones install them into the image."""

_VERSION = re.compile(r"^\d+(?:\.\w+)*")
_BUILDER = re.compile(r"^(?:\d{4}\.\d{2}|PREVIEW)$")
_MISSING = re.compile(r"there (?:is|are) no versions? of ([\w.-]+)[=<]")
_KEPT_OUT = shutil.ignore_patterns("__pycache__", "*.pyi", "*.pyc")


@dataclass(frozen=True)
class Compiler:
    """A Python that makes bytecode of trees. `run(words, tree)` runs it with these words after its name, with the tree at `place`.

    for_only: names the images that may use what it made, empty for all: whoever made the others may have it write anything."""

    run: Callable[[Sequence[str], Path], Awaitable[Finished]]
    place: str = ""
    for_only: str = ""

    @staticmethod
    def on_host(python: str) -> Compiler:
        return Compiler(lambda words, tree: capture((python, *words), env={}))


FindCompiler = Callable[[str], Awaitable[Compiler | None]]
"""Answers who compiles for a Python version ("3.12") that the server itself does not have; None for nobody."""


class ClientTrees:
    """Client and dependency trees under `cache`; `host_python` is the interpreter of containers that have no image."""

    def __init__(self, cache: Path, *, host_python: str = "") -> None:
        self._directory = cache / "clients"
        self._cache = cache
        self._host_python = host_python
        self._locks: dict[str, asyncio.Lock] = {}
        self._held: dict[str, IO[str]] = {}

    async def layers(
        self, client_version: str, config: ImageConfig, find_compiler: FindCompiler | None = None
    ) -> tuple[Path, ...]:
        """The trees for a container of `config` started by a client of `client_version`.

        Raises NotFound for a version that does not exist, FailedPrecondition when the image cannot run it."""
        match = _VERSION.match(client_version)
        if match is None:
            raise NotFound(f"{client_version!r} is not a version of the modal client.")
        version = match.group()
        python = ".".join(config.python_version.split(".")[:2])
        if not python:
            raise FailedPrecondition(
                "The image has no `python`, which functions need. Pass `add_python=` to Image.from_registry, or start from an image "
                "that has Python."
            )
        compiler = await self._compiler(python, find_compiler)
        tag = f"cp{python.replace('.', '')}" + (f"-{compiler.for_only}" if compiler and compiler.for_only else "")
        trees = []
        builder = config.builder_version or _newest_builder()
        if builder == "PREVIEW" or builder >= _MOUNTED_SINCE:
            name = f"deps{_LAYOUT}-{builder}-{tag}-{config.libc}-{platform.machine()}"
            trees.append(
                await self._tree(name, compiler, lambda path: self._install_dependencies(path, builder, config))
            )
        trees.append(
            await self._tree(f"client-{version}-{tag}", compiler, lambda path: self._install_client(path, version))
        )
        return tuple(reversed(trees))

    async def _compiler(self, python: str, find: FindCompiler | None) -> Compiler | None:
        if self._host_python:
            return Compiler.on_host(self._host_python)
        if python == SERVER_PYTHON:
            return Compiler.on_host(sys.executable)
        return await find(python) if find is not None else None

    async def _tree(self, name: str, compiler: Compiler | None, fill: Callable[[Path], Awaitable[None]]) -> Path:
        target = self._directory / name
        await self._hold(name)
        if target.is_dir():
            return target
        async with self._locks.setdefault(name, asyncio.Lock()), self._temporary() as work:
            if not target.is_dir():
                await fill(work)
                await self._compile(work, compiler)
                # Another server may have been faster; its tree is as good.
                with contextlib.suppress(OSError):
                    work.rename(target)
        return target

    async def _hold(self, name: str) -> None:
        """Keeps a tree from `stoker gc` until this server ends, and notes that it is used."""
        path = self._directory / f"{name}.lock"
        if name not in self._held:
            self._directory.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
            try:
                await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_SH)
            except BaseException:
                file.close()
                raise
            self._held.setdefault(name, file)
        path.touch()

    @contextlib.asynccontextmanager
    async def _temporary(self) -> AsyncIterator[Path]:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=".making-", dir=self._directory))
        path.chmod(0o755)
        try:
            yield path
        finally:
            await asyncio.to_thread(shutil.rmtree, path, True)

    async def _install_client(self, root: Path, version: str) -> None:
        package = root / "pkg"
        if version == metadata.version("modal"):
            await asyncio.to_thread(_copy_own, package)
            return
        await self._install(package, f"modal=={version}", _unknown_client(version))
        distribution = next(iter(metadata.distributions(name="modal", path=[str(package)])))
        needed = [line for line in distribution.requires or () if line.startswith("synchronicity")]
        requirement = needed[0].partition(";")[0].replace("(", "").replace(")", "") if needed else "synchronicity"
        await self._install(package, requirement.strip(), _unknown_client(version))
        for path in list(package.iterdir()):
            if path.stem not in _CLIENT_PACKAGES:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    async def _install(self, target: Path, requirement: str, problem: str) -> None:
        result = await run_uv(
            "pip",
            "install",
            "--no-deps",
            # What is built from source runs code of its own, here as root.
            "--only-binary",
            ":all:",
            "--python",
            sys.executable,
            "--target",
            str(target),
            requirement,
            cache=self._cache,
        )
        if result.code:
            raise NotFound(f"{problem}\n{result.errors.strip()}")

    async def _install_dependencies(self, root: Path, builder: str, config: ImageConfig) -> None:
        python = ".".join(config.python_version.split(".")[:2])
        pins = _requirements(builder).read_text().splitlines()
        target = root / DEPENDENCIES.lstrip("/")
        for _ in pins:
            result = await run_uv(
                *("pip", "install", "--no-deps", "--python", sys.executable, "--python-version", python),
                *("--python-platform", _platform(config), "--only-binary", ":all:"),
                *("--target", str(target), "--requirements", "-"),
                cache=self._cache,
                stdin="\n".join(pins),
            )
            missing = set(_MISSING.findall(result.errors)) if result.code else set()
            if not missing:
                break
            # A release that is not in the index (withdrawn, or not mirrored yet): the nearest older one will do.
            _log.warning("client dependency not in the package index, using an older one", missing=sorted(missing))
            relaxed = [line.replace("==", "<=", 1) if _name(line) in missing else line for line in pins]
            if relaxed == pins:
                break
            pins = relaxed
        if result.code:
            raise FailedPrecondition(
                f"The modal client's dependencies for image builder {builder} cannot be installed for Python {python} "
                f"({config.libc}, {platform.machine()}). If its packages do not exist for this Python, use another Python version or "
                f"another image builder version (MODAL_IMAGE_BUILDER_VERSION).\n{result.errors.strip()}"
            )
        (root / "pkg").mkdir()
        (root / "pkg" / "sitecustomize.py").write_text(_SITECUSTOMIZE)

    async def _compile(self, root: Path, compiler: Compiler | None) -> None:
        """Without any interpreter of its version a tree works, only slower."""
        if compiler is None:
            return
        place = compiler.place or str(root)
        words = ("-I", "-m", "compileall", "-q", "-j", "0", "-s", place, "-p", "/", place)
        result = await compiler.run(words, root)
        if result.code:
            reason = (result.errors or result.output)[-500:]
            _log.warning("client not compiled, containers start slower", tree=root.name, reason=reason)


def _copy_own(package: Path) -> None:
    for name in _CLIENT_PACKAGES[:-1]:
        source = Path(modal.__file__).parent.parent / name
        if source.is_dir():
            shutil.copytree(source, package / name, ignore=_KEPT_OUT)
        else:
            package.mkdir(parents=True, exist_ok=True)
            shutil.copy(source.with_suffix(".py"), package)
    shutil.copytree(Path(synchronicity.__file__).parent, package / "synchronicity", ignore=_KEPT_OUT)


def _requirements(builder: str) -> Path:
    path = Path(modal.__file__).parent / "builder" / f"{builder}.txt"
    if not _BUILDER.match(builder) or not path.is_file():
        raise FailedPrecondition(
            f"Image builder {builder!r} is not known to this server; update stoker, or choose one of "
            f"{', '.join(sorted(p.stem for p in path.parent.glob('????.??.txt')))}."
        )
    return path


def _name(requirement: str) -> str:
    """The package of a line like `aiohttp==3.12.7 ; python_version < "3.14"`."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _newest_builder() -> str:
    return max(path.stem for path in (Path(modal.__file__).parent / "builder").glob("????.??.txt"))


def _platform(config: ImageConfig) -> str:
    """uv's name of the platform: the newest set of wheels that the image's C library can load."""
    machine = platform.machine()
    if config.libc == "musl":
        return f"{machine}-unknown-linux-musl"
    numbers = tuple(int(part) for part in config.libc_version.split(".")[:2] if part.isdigit())
    return f"{machine}-manylinux_2_28" if numbers >= (2, 28) else f"{machine}-manylinux_2_17"


def _unknown_client(version: str) -> str:
    return (
        f"Version {version} of the modal client, which this app was deployed with, cannot be installed on the server. "
        f"Use a released version (the server itself has {metadata.version('modal')})."
    )

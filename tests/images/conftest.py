"""Real builds: one data directory for all tests, and the bases made from Debian's packages shared with earlier runs."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stoker.images.base import BuildContext
from stoker.images.builder import LayeredImageBuilder
from stoker.nodes.builds import ImageConfig, ImageSpec, Leftover
from stoker.runtime.runsc import RunscRuntime
from stoker.runtime.runsc_binary import find_runsc
from stoker.runtime.steps import Isolation, Step

BUILDER_VERSION = "2026.10"
PYTHON_BASE = "FROM python:3.11-slim-trixie"
_T = TypeVar("_T")

needs_buildah = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("buildah") or not shutil.which("mmdebstrap"),
    reason="images are built as root with buildah, and bases are made with mmdebstrap",
)


class Workshop:
    """The builder with a running loop and a runtime for its steps, and short ways to use it."""

    def __init__(self, data: Path, isolation: Isolation = "auto", memory: int | None = None) -> None:
        self.data = data
        self.loop = asyncio.new_event_loop()
        self.runtime = self.run(_runtime(data / "run", isolation, memory))
        self.builder = LayeredImageBuilder(data, self.runtime.steps)
        self.log: list[str] = []
        self._number = 0
        self.run(self.builder.open())

    def close(self) -> None:
        self.run(self.builder.close())
        self.run(self.runtime.close())
        self.loop.close()

    def run(self, work: Awaitable[_T]) -> _T:
        return self.loop.run_until_complete(work)

    def new_id(self) -> str:
        self._number += 1
        return f"im-{self._number:022d}"

    def build(
        self,
        commands: list[str],
        *,
        base: str = "",
        context: BuildContext | None = None,
        **spec: Any,
    ) -> tuple[str, ImageConfig]:
        """(id, config) of one layer; `self.log` holds what was logged."""
        image_id = self.new_id()
        return image_id, self.run(self.build_later(image_id, commands, base=base, context=context, **spec))

    async def build_later(
        self,
        image_id: str,
        commands: list[str],
        *,
        base: str = "",
        context: BuildContext | None = None,
        **spec: Any,
    ) -> ImageConfig:
        self.log.clear()
        whole = ImageSpec(tuple(commands), {"base": base} if base else {}, builder_version=BUILDER_VERSION, **spec)
        return await self.builder.build(image_id, whole, context or BuildContext(), self.log.append)

    async def free(self, keep: Collection[str], before: float) -> list[Leftover]:
        """Frees what nobody used; what is gone."""
        found = await self.builder.leftovers(keep, before)
        gone = [item for item in found if await self.builder.free(item)]
        await self.builder.tidy()
        return gone

    def inside(self, image_id: str, *argv: str, **env: str) -> str:
        """What `argv` prints inside the image."""
        layers = self.run(self.builder.layers(image_id))
        code, output = self.in_layers(layers, argv, {"PATH": "/usr/local/bin:/usr/bin:/bin", **env})
        assert code == 0, output
        return output

    def in_layers(self, layers: Sequence[Path], argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
        """Exit code and output of a command in these layers."""
        room = Path(tempfile.mkdtemp(dir=self.data))
        said: list[str] = []
        try:
            code = self.run(self.runtime.steps.run(Step(room, tuple(layers), tuple(argv), env), said.append))
        finally:
            shutil.rmtree(room)
        return code, "".join(f"{line}\n" for line in said)

    def find(self, image_id: str, path: str) -> Path | None:
        """The host path of a file of the image, None when no layer has it."""
        for layer in self.run(self.builder.layers(image_id)):
            candidate = layer / path.lstrip("/")
            if candidate.is_symlink() or candidate.exists():
                return candidate
        return None

    def text(self, image_id: str, path: str) -> str:
        found = self.find(image_id, path)
        assert found is not None, f"{path} is not in the image"
        return found.read_text()


async def _runtime(state: Path, isolation: Isolation, memory: int | None) -> RunscRuntime:
    port = 47000 + os.getpid() % 500
    runtime = RunscRuntime(
        state, runsc=find_runsc(), gateway_port=port, pool_size=2, build_isolation=isolation, memory=memory
    )
    await runtime.open()
    return runtime


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    shop = Workshop(tmp_path_factory.mktemp("data"))
    yield shop
    shop.close()
    # Fails when a mount was left behind.
    shutil.rmtree(shop.data)


@pytest.fixture(scope="session")
def base(workshop: Workshop) -> str:
    """An image with Python and pip, as `FROM python:...` gives it."""
    return workshop.build([PYTHON_BASE])[0]


@pytest.fixture
def client_commands(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], list[list[str]]]:
    """The Dockerfiles (one list of commands per layer) that the real client makes of an image definition."""
    from modal._image import _Image

    def commands(define: Callable[[Any], Any]) -> list[list[str]]:
        functions: list[Any] = []
        original = _Image._from_args

        def recording(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("dockerfile_function") is not None:
                functions.append(kwargs["dockerfile_function"])
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(_Image, "_from_args", staticmethod(recording))
            define(_Image)
        return [list(function(BUILDER_VERSION).commands) for function in functions]

    return commands

"""What an image is to a node: how a layer is built, and a built root file system."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stoker.nodes.builds import ImageConfig, ImageSpec, Leftover, RegistryAuth

LogSink = Callable[[str], None]
"""Receives the text of a build as it is written, line ends included."""


@dataclass(frozen=True)
class BuildContext:
    """What a build needs beyond the spec and may not influence the id: a `ContextRef` with its files."""

    mount_tree: Path | None = None  # the context mount, materialised as a directory rooted at "/"
    mount_name: str = ""  # of a context mount whose files the builder itself has: a standalone Python
    secret_env: Mapping[str, str] = field(default_factory=dict)  # visible to RUN steps only, never stored in the image
    registry_auth: RegistryAuth | None = None
    confined: bool = False  # asked for by a container: nothing of the build may touch what others rely on


class ImageBuilder(Protocol):
    """Builds layers and hands out root file systems."""

    async def build(self, image_id: str, spec: ImageSpec, context: BuildContext, log: LogSink) -> ImageConfig:
        """Builds one layer. Raises ImageBuildFailed (with the end of the step's own output) or another StokerError."""
        ...

    async def adopt(self, image_id: str, spec: ImageSpec, files: Path | None, log: LogSink) -> ImageConfig:
        """Makes of `files`, which a container of the image that `spec` is based on wrote, a layer on top of it. They are the builder's from now
        on. None: there are no files. Raises StokerError."""
        ...

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        """Host directories, uppermost first, that form the image's root file system. Read-only. Raises NotFound."""
        ...

    async def client_layers(self, client_version: str, image_id: str, config: ImageConfig) -> tuple[Path, ...]:
        """Trees rooted at "/" that hold the modal client (`/pkg/...`) and, for builders >= 2025.06, its dependencies
        (`/__modal/deps`, `/pkg/sitecustomize.py`) for the Python of this image. Made on first use, then kept."""
        ...

    async def remove(self, image_id: str) -> None:
        """Removes the files of an image that no container runs from; what others are built on stays."""
        ...

    async def leftovers(self, keep: Collection[str], before: float) -> Sequence[Leftover]:
        """What nobody used since `before` (seconds since the epoch), but for the images `keep`."""
        ...

    async def free(self, item: Leftover) -> bool:
        """Removes one of them, unless it is used again; whether it is gone. Raises FailedPrecondition while images are being built."""
        ...

    async def tidy(self) -> None:
        """Removes what belongs to no image any more. Raises FailedPrecondition while images are being built."""
        ...

    async def close(self) -> None:
        """Releases mounts held for `layers`."""
        ...

"""What the services ask of a node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stoker.nodes.buckets import BucketMount
from stoker.nodes.builds import ImageConfig
from stoker.nodes.endings import Limits

LineSink = Callable[[int, str], "asyncio.Future[None] | None"]
"""Takes whole lines of file descriptor 1 or 2. A future says that no more is wanted until it is done."""


@dataclass(frozen=True)
class VolumeDir:
    """A volume's directory on this machine and where it appears."""

    volume_id: str
    directory: Path
    mount_path: str
    read_only: bool = False
    root: Path | None = None  # the volume's own directory, when `directory` is one inside


@dataclass(frozen=True)
class ContainerRequest:
    """A container as the services ask for it."""

    task_id: str
    image_id: str
    image: ImageConfig
    client_version: str
    arguments: bytes
    environment: str
    mount_trees: tuple[Path, ...] = ()  # in the order of the function; later ones win
    env: Mapping[str, str] = field(default_factory=dict)  # secrets and settings, over the image's own
    volumes: tuple[VolumeDir, ...] = ()
    buckets: tuple[BucketMount, ...] = ()
    limits: Limits = field(default_factory=Limits)
    network: bool = True
    gpu_devices: tuple[int, ...] = ()
    function_id: str = ""
    snapshots: bool = False  # the container may be saved, or comes from a snapshot
    restore_from: Path | None = None  # the snapshot it comes from
    gpu_snapshot: bool = False
    reseed: bool = True
    base: Path | None = None  # the snapshot with nothing but the client that it comes from
    layers: tuple[str, ...] = ()  # the names of the image's, which are others when it was built again
    keep: bool = False  # what it wrote is kept after its end, in `Node.kept`

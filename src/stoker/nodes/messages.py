"""What the services ask of a node: plain values, which a wire can carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stoker.nodes.buckets import BucketMount
from stoker.nodes.builds import ImageConfig
from stoker.nodes.endings import Limits


@dataclass(frozen=True)
class VolumeUse:
    """A volume (or network file system) and where it appears. sub_path: the directory of it that does; "" for all of it."""

    volume_id: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""


@dataclass(frozen=True)
class ContainerRequest:
    """A container as the services ask for it."""

    task_id: str
    image_id: str
    image: ImageConfig
    client_version: str
    arguments: bytes
    environment: str
    mounts: tuple[str, ...] = ()
    """Ids, in the order of the function; later ones win."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Secrets and settings, over the image's own."""
    volumes: tuple[VolumeUse, ...] = ()
    buckets: tuple[BucketMount, ...] = ()
    limits: Limits = field(default_factory=Limits)
    network: bool = True
    gpu_devices: tuple[int, ...] = ()
    function_id: str = ""
    snapshots: bool = False
    """Whether the container may be saved, or comes from a snapshot."""
    restore_from: str = ""
    """The id of the snapshot it comes from."""
    gpu_snapshot: bool = False
    reseed: bool = True
    base: str = ""
    """The id of the snapshot with nothing but the client that it comes from."""
    layers: tuple[str, ...] = ()
    """The names of the image's, which are others when it was built again."""
    keep: bool = False
    """Whether what it wrote is kept after its end, for `Builds.adopt`."""

    @property
    def snapshot(self) -> str:
        """The id of the snapshot that it starts from; empty for none."""
        return self.restore_from or self.base


@dataclass(frozen=True)
class Started:
    """A container that was launched. address: where the server reaches the ports it listens on; "" for one without network."""

    task_id: str
    address: str = ""

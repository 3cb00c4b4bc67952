"""What a container is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from stoker.engine.base import ResourceRequest
from stoker.nodes.endings import Limits
from stoker.nodes.messages import VolumeUse
from stoker.services.functions.spec import BucketUse, Definition


@dataclass(frozen=True)
class Recipe:
    """Whoever wants a container makes one of these; the launcher knows nothing else of what the container is for."""

    image_id: str
    client_version: str
    mount_ids: tuple[str, ...] = ()
    secret_ids: tuple[str, ...] = ()
    volumes: tuple[VolumeUse, ...] = ()
    buckets: tuple[BucketUse, ...] = ()
    resources: ResourceRequest = field(default_factory=ResourceRequest)
    limits: Limits = field(default_factory=Limits)
    network: bool = True
    restricted: bool = False  # may ask the server for nothing but what running its inputs takes
    memory_snapshot: bool = False
    gpu_snapshot: bool = False  # with the memory of its GPUs
    keep: bool = False  # its files are kept, and become a layer


def recipe_of(definition: Definition) -> Recipe:
    """For a container of a function."""
    spec = definition.spec
    return Recipe(
        image_id=spec.image_id,
        client_version=definition.client_version,
        mount_ids=spec.mount_ids,
        secret_ids=spec.secret_ids,
        volumes=spec.volumes,
        buckets=spec.buckets,
        resources=spec.resources,
        limits=spec.limits,
        network=spec.network,
        restricted=spec.restricted,
        memory_snapshot=spec.memory_snapshot,
        gpu_snapshot=spec.gpu_snapshot,
        keep=spec.builds_image,
    )

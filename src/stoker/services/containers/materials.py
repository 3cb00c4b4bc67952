"""Gathers what a recipe names: image, mounts, secrets, volumes, buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping

from stoker.errors import FailedPrecondition
from stoker.ids import is_id
from stoker.nodes.buckets import BucketMount
from stoker.nodes.builds import ImageConfig
from stoker.nodes.messages import VolumeUse
from stoker.services.containers.recipe import Recipe
from stoker.services.files.buckets import Buckets
from stoker.services.files.mounts import Mounts
from stoker.services.files.network_files import NetworkFiles
from stoker.services.files.volumes import Volumes
from stoker.services.images.images import Images
from stoker.services.images.layer_checks import LayerChecks
from stoker.services.state.secrets import Secrets


class Materials:
    """Made by the composition root; asked by the launcher."""

    def __init__(
        self,
        *,
        images: Images,
        layer_checks: LayerChecks,
        mounts: Mounts,
        secrets: Secrets,
        volumes: Volumes,
        network_files: NetworkFiles,
        buckets: Buckets,
    ) -> None:
        self._images = images
        self._layer_checks = layer_checks
        self._mounts = mounts
        self._secrets = secrets
        self._volumes = volumes
        self._network_files = network_files
        self._buckets = buckets

    def check_volumes(self, recipe: Recipe) -> None:
        """Raises NotFound, InvalidArgument or FailedPrecondition for a volume that is not there."""
        for use in recipe.volumes:
            self._check_volume(use)

    async def buckets(self, recipe: Recipe) -> tuple[BucketMount, ...]:
        """With credentials, after each was asked whether it can be read. Raises as `Buckets.resolve`."""
        return await self._buckets.resolve(recipe.buckets)

    def image(self, recipe: Recipe) -> ImageConfig:
        """Raises NotFound, FailedPrecondition for an image that is not built."""
        return self._images.config(recipe.image_id)

    async def layers(self, recipe: Recipe) -> tuple[str, ...]:
        """The names of the image's layers. Raises NotFound, and Damaged when one is known to be."""
        return await self._layer_checks.use(recipe.image_id)

    def mounts(self, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """The mounts with files, and the version of the client that comes by one of the others. Raises NotFound."""
        with_files, client_version = [], recipe.client_version
        for mount_id in recipe.mount_ids:
            named = self._mounts.client_version(mount_id)
            if named is None:
                with_files.append(mount_id)
            else:
                client_version = named
        return tuple(with_files), client_version

    async def environment(self, recipe: Recipe) -> Mapping[str, str]:
        """The variables of its secrets, over those that fit its processors. Raises NotFound."""
        return _thread_settings(recipe.resources.cpu_milli) | await self._secrets.values(list(recipe.secret_ids))

    def _check_volume(self, use: VolumeUse) -> None:
        if is_id(use.volume_id, "sv"):
            self._network_files.directory(use.volume_id)
        elif not is_id(use.volume_id, "vo"):
            raise FailedPrecondition(f"The volume {use.volume_id!r} mounted at {use.mount_path} does not exist.")
        elif use.sub_path:
            self._volumes.sub_directory(use.volume_id, use.sub_path)
        else:
            self._volumes.directory(use.volume_id)


def _thread_settings(cpu_milli: int) -> dict[str, str]:
    """Numeric libraries start a thread per core of the machine; a container that asked for cores gets as many threads."""
    if cpu_milli < 1000:
        return {}
    threads = str(math.ceil(cpu_milli / 1000))
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), threads)

"""The buckets that a function mounts: their credentials, and whether they can be had at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stoker.nodes.base import Node
from stoker.nodes.buckets import BucketMount, Credentials, credentials_from
from stoker.services.functions.spec import BucketUse
from stoker.services.state.secrets import Secrets


class Buckets:
    """Finds the credentials of buckets in secrets, and has the node ask the buckets. Asked before a container starts."""

    def __init__(self, *, secrets: Secrets, node: Node) -> None:
        self._secrets = secrets
        self._node = node

    async def resolve(self, uses: Sequence[BucketUse]) -> tuple[BucketMount, ...]:
        """What the node mounts, after each bucket was asked whether it can be read.

        Raises NotFound, InvalidArgument or FailedPrecondition for what will not get better by itself, Unavailable for a bucket that is not
        reached."""
        buckets = [await self._with_credentials(use) for use in uses]
        await asyncio.gather(*(self._node.files.check_bucket(bucket) for bucket in buckets))
        return tuple(buckets)

    async def _with_credentials(self, use: BucketUse) -> BucketMount:
        credentials = Credentials()
        if use.secret_id:
            credentials = credentials_from(use.kind, await self._secrets.values([use.secret_id]))
        return BucketMount(
            name=use.name,
            mount_path=use.mount_path,
            kind=use.kind,
            endpoint=use.endpoint,
            prefix=use.prefix,
            read_only=use.read_only,
            requester_pays=use.requester_pays,
            path_style=use.path_style,
            credentials=credentials,
        )

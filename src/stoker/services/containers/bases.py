"""Base snapshots: per image, a container that has imported the client and nothing else, from which every function of that image starts.

They are for functions without memory snapshots of their own. The first container on an image starts as ever; once it is up, the base is
made beside it, and later containers start from that.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace

import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import StokerError, Unavailable
from stoker.ids import new_id
from stoker.nodes.base import Node
from stoker.nodes.messages import ContainerRequest
from stoker.services.containers.snapshots import Snapshots, SnapshotUse
from stoker.services.files.mounts import Mounts

_SETTLE = 3.0  # seconds after a container is up; making a base would slow down what it was started for
_DEFINITION = "base"
# Read when Python or the client starts, so a process that runs already cannot take them over.
_EARLY_NAMES = ("LANG", "GLIBC_TUNABLES", "MODAL_LOGLEVEL", "MODAL_LOG_PATTERN", "MODAL_PROFILE", "MODAL_CONFIG_PATH")
_EARLY_PREFIXES = ("LD_", "LC_", "PYTHON", "MALLOC_", "OPENSSL_", "SSL_")
_EARLY_MODULES = frozenset(("/root/sitecustomize.py", "/root/usercustomize.py"))
_log = structlog.get_logger(__name__)


class Bases:
    """Finds the base for a container, and has the node make one where it is missing. Made by the composition root; asked by the launcher."""

    def __init__(self, *, snapshots: Snapshots, node: Node, mounts: Mounts, enabled: bool) -> None:
        self._snapshots = snapshots
        self._node = node
        self._mounts = mounts
        self._enabled = enabled
        self._wanted: dict[
            str, tuple[str, ContainerRequest]
        ] = {}  # by task: what is missing, until the container is up
        self._work = Jobs("bases")
        self._jobs: dict[str, asyncio.Task[None]] = {}  # by key
        self._one_at_a_time = asyncio.Lock()

    async def close(self) -> None:
        for job in self._work:
            job.cancel()
        await self._work.close()

    def choose(self, request: ContainerRequest) -> SnapshotUse | None:
        """The base from which a new container starts, None for one that starts as ever."""
        identity = self._node.snapshot_identity("") if self._enabled and self._fits(request) else ""
        if not identity:
            return None
        key = _key(request, identity)
        if not self._snapshots.is_ready(key):
            self._wanted[request.task_id] = (key, request)
            return None
        return self._snapshots.choose(key, "", request.image_id, _DEFINITION, request.task_id)

    def up(self, task_id: str) -> None:
        """The container asks for its first input."""
        key, request = self._wanted.pop(task_id, ("", None))
        if request is not None and key not in self._jobs:
            work = self._make(key, request)
            self._jobs[key] = job = self._work.start(f"make one for {request.image_id}", work)
            job.add_done_callback(lambda _: self._jobs.pop(key, None))

    def gone(self, task_id: str) -> None:
        """The container has ended."""
        self._wanted.pop(task_id, None)

    async def _make(self, key: str, request: ContainerRequest) -> None:
        await asyncio.sleep(_SETTLE)
        async with self._one_at_a_time:
            maker = new_id("ta")
            use = self._snapshots.choose(key, "", request.image_id, _DEFINITION, maker)
            if use is None:
                return
            try:
                if not use.restores:
                    size = await self._node.containers.make_base(replace(request, task_id=maker), use.snapshot_id)
                    await self._snapshots.created(use, size)
            except Unavailable:
                self._snapshots.abandoned(use)  # no fault of the base: the server stops
            except StokerError as error:
                self._snapshots.not_created(use, str(error))
            except Exception as error:
                _log.exception("base snapshot failed", image=request.image_id)
                self._snapshots.not_created(use, f"{type(error).__name__}: {error}")
            finally:
                self._snapshots.release(use, maker)

    def _fits(self, request: ContainerRequest) -> bool:
        """Whether a container can become this one after Python and the client have started."""
        return (
            not request.snapshots
            and not request.buckets  # each container has mounts of its own
            and not request.gpu_devices
            and not request.image.entrypoint
            and not any(name in _EARLY_NAMES or name.startswith(_EARLY_PREFIXES) for name in request.env)
            and not any(self._mounts.has_any(mount_id, _EARLY_MODULES) for mount_id in request.mounts)
        )


def _key(request: ContainerRequest, identity: str) -> str:
    """Everything in which containers from one base are alike."""
    mounts = sorted((volume.volume_id, volume.mount_path, volume.read_only) for volume in request.volumes)
    parts = [identity, request.image_id, request.layers, request.client_version, request.network, mounts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

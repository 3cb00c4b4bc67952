"""Where the files of the services lie, for the node on the server's own machine."""

from __future__ import annotations

from pathlib import Path

from stoker.agent.places import VolumePlace
from stoker.ids import is_id
from stoker.nodes.messages import VolumeUse
from stoker.services.containers.snapshots import Snapshots
from stoker.services.files.mounts import Mounts
from stoker.services.files.network_files import NetworkFiles
from stoker.services.files.volumes import Volumes


class ServerPlaces:
    """Implements `agent.places.Places` with the directories that are there already."""

    def __init__(self, *, mounts: Mounts, volumes: Volumes, network_files: NetworkFiles, snapshots: Snapshots) -> None:
        self._mounts = mounts
        self._volumes = volumes
        self._network_files = network_files
        self._snapshots = snapshots

    async def mount(self, mount_id: str) -> Path:
        return await self._mounts.tree(mount_id)

    def volume(self, use: VolumeUse) -> VolumePlace:
        if is_id(use.volume_id, "sv"):
            return VolumePlace(use, self._network_files.directory(use.volume_id))
        root = self._volumes.directory(use.volume_id)
        if not use.sub_path:
            return VolumePlace(use, root)
        return VolumePlace(use, self._volumes.sub_directory(use.volume_id, use.sub_path), root=root)

    def snapshot(self, snapshot_id: str) -> Path:
        return self._snapshots.directory(snapshot_id)

    def unfinished_snapshot(self, snapshot_id: str) -> Path:
        return self._snapshots.scratch(snapshot_id)

"""Where on this machine the files lie of what requests name by id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stoker.nodes.messages import VolumeUse


@dataclass(frozen=True)
class VolumePlace:
    """A volume's directory and where it appears. root: the volume's own directory, when `directory` is one inside."""

    use: VolumeUse
    directory: Path
    root: Path | None = None


class Places(Protocol):
    """Made by the composition root: on the server's own machine the directories that are there already, so that nothing is copied."""

    async def mount(self, mount_id: str) -> Path:
        """A directory that holds the files of a mount as they are to appear at "/". Read-only. Raises NotFound, or Damaged."""
        ...

    def volume(self, use: VolumeUse) -> VolumePlace:
        """The directory of a volume or network file system. Raises NotFound, InvalidArgument, FailedPrecondition."""
        ...

    def snapshot(self, snapshot_id: str) -> Path:
        """The directory of a finished snapshot."""
        ...

    def unfinished_snapshot(self, snapshot_id: str) -> Path:
        """Where a snapshot is put together."""
        ...

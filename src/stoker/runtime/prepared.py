"""Sandboxes that were made ahead of time: one exists, with its processes, mounts and network, and only the snapshot has to be read into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stoker.runtime.base import BindMount, ContainerSpec
from stoker.runtime.cgroups import Cgroup
from stoker.runtime.network import Namespace
from stoker.runtime.output import OutputPipes


@dataclass(frozen=True)
class SandboxResources:
    """What a sandbox has on the host. `flags`: runsc's global ones."""

    spec: ContainerSpec
    directory: Path
    group: Cgroup
    namespace: Namespace
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A sandbox that waits for the snapshot. Nothing of the user's has run in it."""

    resources: SandboxResources
    snapshot: Path
    pipes: OutputPipes
    sources: tuple[tuple[int, int], ...]

    @staticmethod
    def of(resources: SandboxResources, snapshot: Path, pipes: OutputPipes) -> Prepared:
        return Prepared(resources, snapshot, pipes, _inodes(resources.spec.mounts))

    def fits(self, spec: ContainerSpec, snapshot: Path) -> bool:
        """Whether it is what `spec` asks for, and still alive. Its environment does not count: restored processes keep that of the saved
        ones."""
        mine = replace(self.resources.spec, env={})
        if self.pipes.closed or self.snapshot != snapshot or mine != replace(spec, env={}):
            return False
        # A directory of the same name may be another one by now.
        return self.sources == _inodes(spec.mounts)


def can_be_prepared(spec: ContainerSpec) -> bool:
    """Not with GPUs, which others may get meanwhile, nor with directories that containers can put elsewhere meanwhile."""
    return not spec.gpu_devices and all(mount.within in (None, mount.source) for mount in spec.mounts)


def _inodes(mounts: Sequence[BindMount]) -> tuple[tuple[int, int], ...]:
    found = (mount.source.stat() for mount in mounts if mount.source.exists())
    return tuple((status.st_dev, status.st_ino) for status in found)

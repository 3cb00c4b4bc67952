"""The machines that leases are for: what they have, and which devices a lease gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stoker.engine.base import NotNow, ResourceRequest

CPU, MEMORY, DISK, GPU = "cpu_milli", "memory_mib", "disk_mib", "gpu:"
"""Names of resources; that of GPUs goes on with their model."""

Needs = Mapping[str, int]
"""Amounts, by resource."""


@dataclass(frozen=True)
class Placement:
    """Where a lease is. `devices`: the numbers of its GPUs on that node; `declared` when they are not really there."""

    node_id: str
    gpu_model: str = ""
    devices: tuple[int, ...] = ()
    declared: bool = False


class Machines(Protocol):
    """Made by the composition root for `Leases`, which decides whose turn it is: `local.LocalMachine`; a cluster's for many machines."""

    @property
    def processors(self) -> int:
        """Thousandths of all processors. Of them more may be promised than there are: see `capacity`."""
        ...

    def capacity(self) -> Needs:
        """All that may be promised, by resource."""
        ...

    def free(self) -> Needs:
        """What of it is not promised to a lease, and can be had."""
        ...

    def alternatives(self, request: ResourceRequest) -> Sequence[Needs]:
        """The amounts of a request, for each kind of GPU that could serve it, the preferred one first."""
        ...

    def obstacle(self, request: ResourceRequest) -> str:
        """Why no machine could ever hold this, a sentence that says what to do; "" when one could."""
        ...

    def reason(self, request: ResourceRequest, short: Needs) -> str:
        """Why a request does not fit now, the last part of a sentence. short: what is missing."""
        ...

    async def place(self, lease_id: str, needs: Needs) -> Placement | NotNow:
        """Takes what fitted a moment ago. The same lease again: the same placement."""
        ...

    async def release(self, lease_id: str) -> None:
        """Gives back what a lease has. Idempotent, also for one whose placement was called off."""
        ...

    def examine(self) -> None:
        """Looks whether devices answer; called before each decision."""
        ...

    def inventory(self) -> dict[str, object]:
        """What there is and what is free, for `stoker status`."""
        ...

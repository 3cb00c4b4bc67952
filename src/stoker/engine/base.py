"""The seam for placement: who has room for a container. `local.py` for one machine; Ray for many."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class GpuRequest:
    """`count` GPUs of one `model` ("H100", "L40S"; "ANY" for whatever there is)."""

    model: str
    count: int = 1


@dataclass(frozen=True)
class ResourceRequest:
    """What one container asks for. `gpus` are alternatives in order of preference; empty for none."""

    cpu_milli: int = 125
    memory_mib: int = 128
    disk_mib: int = 0
    gpus: tuple[GpuRequest, ...] = ()


@dataclass(frozen=True)
class Granted:
    """A lease on resources. `gpu_devices` are the indices of the assigned GPUs; `gpu_declared` when they are not really there."""

    lease_id: str
    node_id: str
    gpu_model: str = ""
    gpu_devices: tuple[int, ...] = ()
    gpu_declared: bool = False


@dataclass(frozen=True)
class NotNow:
    """The request fits this cluster but not at this moment; `reason` is a sentence for the logs.

    `missing`: what would have to be freed, by resource; empty when that is not known, or when it is another's turn. `waited`: seconds since
    the same owner first asked in vain."""

    reason: str
    missing: Mapping[str, int] = field(default_factory=dict)
    waited: float = 0.0


@dataclass(frozen=True)
class Never:
    """No node could ever hold this; `reason` names what is missing and what to do."""

    reason: str


class Engine(Protocol):
    """Decides which node a container goes to, and counts what is free. Made by the composition root; asked by the launcher for leases, and by
    the scheduler who holds how much."""

    async def reserve(
        self,
        lease_id: str,
        request: ResourceRequest,
        owner: str = "",
        *,
        awaited_by: Collection[str] = (),
        overcommit: bool = True,
    ) -> Granted | NotNow | Never:
        """Owners (functions) that ask in vain are served in a fair order when they ask again.

        awaited_by: leases whose holders wait for what this one is for. Nothing is kept from it for an owner that waits for what those
        hold. overcommit: whether the owner may be promised more processor time than there is."""
        ...

    def obstacle(self, request: ResourceRequest) -> str:
        """Why no node could ever hold this, as `Never.reason` has it; "" when one could."""
        ...

    async def release(self, lease_id: str) -> None:
        """Gives the resources back. Idempotent."""
        ...

    def withdraw(self, owner: str) -> None:
        """An owner that waits wants nothing any more. Idempotent."""
        ...

    def held(self, lease_id: str) -> Mapping[str, int]:
        """What a lease would free, by resource, in the terms of `NotNow.missing`; nothing for an unknown one."""
        ...

    def share(self, owner: str) -> float:
        """The largest part of any resource that an owner holds, from 0 to 1."""
        ...

    def inventory(self) -> dict[str, object]:
        """What there is and what is free, for `stoker status`."""
        ...

"""The engine of one machine: counts what is free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from stoker.engine.base import GpuRequest, Granted, Never, NotNow, ResourceRequest

_CPU_OVERCOMMIT = 8.0  # most containers wait most of the time; a request is a share, not a reservation


@dataclass(frozen=True)
class Gpus:
    """GPUs of one model. `devices` are their indices; `declared` when they are not really there."""

    model: str
    devices: tuple[int, ...]
    declared: bool = False


@dataclass
class _Lease:
    request: ResourceRequest
    gpu_model: str = ""
    devices: tuple[int, ...] = ()


@dataclass
class _Machine:
    cpu_milli: int
    memory_mib: int
    gpus: dict[str, Gpus] = field(default_factory=dict)


class LocalEngine:
    """Grants what fits beside the leases it has given."""

    def __init__(self, gpus: tuple[Gpus, ...] = (), node_id: str = "local") -> None:
        self._node_id = node_id
        self._machine = _Machine(
            cpu_milli=(psutil.cpu_count() or 1) * 1000,
            memory_mib=psutil.virtual_memory().total >> 20,
            gpus={g.model: g for g in gpus},
        )
        self._leases: dict[str, _Lease] = {}
        self.on_release: Callable[[], None] = lambda: None

    async def reserve(self, lease_id: str, request: ResourceRequest) -> Granted | NotNow | Never:
        if lease_id in self._leases:
            return self._granted(lease_id)
        never = self._never(request)
        if never:
            return Never(never)
        if self._used_cpu() + request.cpu_milli > self._machine.cpu_milli * _CPU_OVERCOMMIT:
            return NotNow(f"all {self._machine.cpu_milli / 1000:g} CPU cores are given to other containers")
        if self._used_memory() + request.memory_mib > self._machine.memory_mib:
            return NotNow(f"{request.memory_mib} MiB of memory are not free")
        lease = _Lease(request)
        if request.gpus:
            chosen = self._choose_gpus(request)
            if chosen is None:
                return NotNow(f"{_wish(request)} are in use by other containers")
            lease.gpu_model, lease.devices = chosen
        self._leases[lease_id] = lease
        return self._granted(lease_id)

    async def release(self, lease_id: str) -> None:
        if self._leases.pop(lease_id, None) is not None:
            self.on_release()

    def inventory(self) -> dict[str, object]:
        return {
            "cpu_milli": {"total": self._machine.cpu_milli, "requested": self._used_cpu()},
            "memory_mib": {"total": self._machine.memory_mib, "requested": self._used_memory()},
            "gpus": {
                gpus.model: {
                    "total": len(gpus.devices),
                    "free": len(self._free_devices(gpus)),
                    "declared": gpus.declared,
                }
                for gpus in self._machine.gpus.values()
            },
            "leases": len(self._leases),
        }

    def _never(self, request: ResourceRequest) -> str:
        """Why this machine can never hold the request, or ""."""
        machine = self._machine
        if request.cpu_milli > machine.cpu_milli * _CPU_OVERCOMMIT:
            return f"The function asks for {request.cpu_milli / 1000:g} CPU cores and the machine has {machine.cpu_milli / 1000:g}."
        if request.memory_mib > machine.memory_mib:
            return f"The function asks for {request.memory_mib} MiB of memory and the machine has {machine.memory_mib}."
        if request.gpus and not any(self._could_hold(wish) for wish in request.gpus):
            have = ", ".join(f"{len(g.devices)} x {g.model}" for g in machine.gpus.values()) or "no GPU"
            flag = ",".join(f"{w.model if w.model != 'ANY' else 'H100'}:{w.count}" for w in request.gpus[:1])
            return (
                f"The function asks for a GPU of type {_wish(request)}, and this machine has {have}. Run the server on a machine with "
                f"that GPU, or start it with `stoker up --fake-gpus {flag}` to declare one that is not there (development only: "
                "the function then runs on the CPU)."
            )
        return ""

    def _could_hold(self, wish: GpuRequest) -> bool:
        return any(len(g.devices) >= wish.count for g in self._matching(wish))

    def _matching(self, wish: GpuRequest) -> list[Gpus]:
        return [g for g in self._machine.gpus.values() if wish.model in ("ANY", g.model)]

    def _choose_gpus(self, request: ResourceRequest) -> tuple[str, tuple[int, ...]] | None:
        for wish in request.gpus:
            for gpus in self._matching(wish):
                free = self._free_devices(gpus)
                if len(free) >= wish.count:
                    return gpus.model, tuple(free[: wish.count])
        return None

    def _free_devices(self, gpus: Gpus) -> list[int]:
        taken = {d for lease in self._leases.values() if lease.gpu_model == gpus.model for d in lease.devices}
        return [d for d in gpus.devices if d not in taken]

    def _granted(self, lease_id: str) -> Granted:
        lease = self._leases[lease_id]
        gpus = self._machine.gpus.get(lease.gpu_model)
        return Granted(lease_id, self._node_id, lease.gpu_model, lease.devices, gpus.declared if gpus else False)

    def _used_cpu(self) -> int:
        return sum(lease.request.cpu_milli for lease in self._leases.values())

    def _used_memory(self) -> int:
        return sum(lease.request.memory_mib for lease in self._leases.values())


def _wish(request: ResourceRequest) -> str:
    return " or ".join(f"{w.model}:{w.count}" if w.count > 1 else w.model for w in request.gpus)

"""The engine of one machine: counts what is free."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import psutil

from stoker.core.turns import Turns, fits, lacking
from stoker.engine.base import GpuRequest, Granted, Never, NotNow, ResourceRequest

_CPU_OVERCOMMIT = 8  # most containers wait most of the time; a request is a share, not a reservation
_CPU, _MEMORY, _DISK, _GPU = "cpu_milli", "memory_mib", "disk_mib", "gpu:"


@dataclass(frozen=True)
class Gpus:
    """GPUs of one model. `devices` are their numbers (the N of /dev/nvidiaN); `declared` when they are not really there."""

    model: str
    devices: tuple[int, ...]
    declared: bool = False


@dataclass
class _Lease:
    owner: str
    amounts: Mapping[str, int]
    gpu_model: str = ""
    devices: tuple[int, ...] = ()


class LocalEngine:
    """Grants what fits beside the leases it has given."""

    def __init__(
        self,
        gpus: tuple[Gpus, ...] = (),
        node_id: str = "local",
        *,
        memory_mib: int | None = None,
        disk_mib: int | None = None,
        healthy: Callable[[int], bool] = lambda device: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """memory_mib: what containers may have, None for all of the machine. disk_mib: room for what containers write, None for any amount. healthy: whether a GPU that is really there answers."""
        self._node_id = node_id
        self._gpus = {g.model: g for g in gpus}
        self._cpu_milli = (psutil.cpu_count() or 1) * 1000
        self._capacity = {
            _CPU: self._cpu_milli * _CPU_OVERCOMMIT,
            _MEMORY: psutil.virtual_memory().total >> 20 if memory_mib is None else memory_mib,
            _DISK: disk_mib if disk_mib is not None else 1 << 40,
            **{_GPU + g.model: len(g.devices) for g in gpus},
        }
        self._healthy = healthy
        self._ill: set[int] = set()
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._turns = Turns()
        self.on_release: Callable[[], None] = lambda: None
        """Called when those that wait may have better luck."""

    async def reserve(
        self,
        lease_id: str,
        request: ResourceRequest,
        owner: str = "",
        *,
        awaited_by: Collection[str] = (),
        overcommit: bool = True,
    ) -> Granted | NotNow | Never:
        if lease_id in self._leases:
            return self._granted(lease_id)
        self._examine_gpus()
        never = self.obstacle(request)
        if never:
            return Never(never)
        now, free = self._clock(), self._free()
        owner = owner or lease_id
        if not overcommit and self._held_by(owner).get(_CPU, 0) + request.cpu_milli > self._cpu_milli:
            return NotNow(f"the processors are busy, and all {self._cpu_milli / 1000:g} are given to its containers")
        alternatives = self._alternatives(request)
        fitting = [needs for needs in alternatives if fits(needs, free)]
        if not fitting:
            self._turns.wait(now, owner, alternatives)
            short = min(
                (lacking(needs, free) for needs in alternatives), key=lambda short: (len(short), *short.values())
            )
            return NotNow(self._reason(request, short), short, self._turns.waited(now, owner))
        held = [self.held(waiter) for waiter in awaited_by]
        needs = next((n for n in fitting if self._turns.first(now, owner, n, free, self.share, held) is None), None)
        if needs is None:
            self._turns.wait(now, owner, alternatives)
            return NotNow("what is free is kept for a function that has waited longer or holds less")
        lease = self._leases[lease_id] = _Lease(owner, needs)
        for name, count in needs.items():
            if name.startswith(_GPU):
                lease.gpu_model = name.removeprefix(_GPU)
                lease.devices = tuple(self._free_devices(self._gpus[lease.gpu_model])[:count])
        if self._turns.leave(owner):
            self.on_release()  # those behind it may go on
        return self._granted(lease_id)

    async def release(self, lease_id: str) -> None:
        if self._leases.pop(lease_id, None) is not None:
            self.on_release()

    def withdraw(self, owner: str) -> None:
        if self._turns.leave(owner):
            self.on_release()

    def held(self, lease_id: str) -> Mapping[str, int]:
        lease = self._leases.get(lease_id)
        return lease.amounts if lease is not None else {}

    def share(self, owner: str) -> float:
        return max((amount / self._capacity[name] for name, amount in self._held_by(owner).items()), default=0.0)

    def inventory(self) -> dict[str, object]:
        free = self._free()
        return {
            "cpu_milli": {"total": self._cpu_milli, "requested": self._capacity[_CPU] - free[_CPU]},
            "memory_mib": {"total": self._capacity[_MEMORY], "requested": self._capacity[_MEMORY] - free[_MEMORY]},
            "gpus": {
                gpus.model: {
                    "total": len(gpus.devices),
                    "free": len(self._free_devices(gpus)),
                    "declared": gpus.declared,
                    **({"unhealthy": ill} if (ill := sorted(self._ill.intersection(gpus.devices))) else {}),
                }
                for gpus in self._gpus.values()
            },
            "leases": len(self._leases),
        }

    def obstacle(self, request: ResourceRequest) -> str:
        if request.cpu_milli > self._capacity[_CPU]:
            return f"The function asks for {request.cpu_milli / 1000:g} CPU cores and the machine has {self._cpu_milli / 1000:g}."
        if request.memory_mib > self._capacity[_MEMORY]:
            return f"The function asks for {request.memory_mib} MiB of memory and the machine has {self._capacity[_MEMORY]} for containers."
        if request.disk_mib > self._capacity[_DISK]:
            return (
                f"The function asks for {request.disk_mib} MiB of ephemeral disk and the disk of the server's data directory has "
                f"{self._capacity[_DISK]} in all."
            )
        if request.gpus and not any(self._could_hold(wish) for wish in request.gpus):
            have = ", ".join(f"{len(g.devices)} x {g.model}" for g in self._gpus.values()) or "no GPU"
            flag = ",".join(f"{w.model if w.model != 'ANY' else 'H100'}:{w.count}" for w in request.gpus[:1])
            return (
                f"The function asks for a GPU of type {_wish(request)}, and this machine has {have}. Run the server on a machine with "
                f"that GPU, or start it with `stoker up --fake-gpus {flag}` to declare one that is not there (development only: "
                "the function then runs on the CPU)."
            )
        return ""

    def _held_by(self, owner: str) -> dict[str, int]:
        held: dict[str, int] = {}
        for lease in self._leases.values():
            if lease.owner == owner:
                for name, amount in lease.amounts.items():
                    held[name] = held.get(name, 0) + amount
        return held

    def _could_hold(self, wish: GpuRequest) -> bool:
        return any(len(g.devices) >= wish.count for g in self._matching(wish))

    def _matching(self, wish: GpuRequest) -> list[Gpus]:
        """ "A100" means those with 40 GB and with 80 GB."""
        model = wish.model.removesuffix("+")
        return [g for g in self._gpus.values() if model in ("ANY", g.model) or g.model.startswith(model + "-")]

    def _alternatives(self, request: ResourceRequest) -> list[dict[str, int]]:
        """The amounts of the request, for each kind of GPU that could serve it, the preferred one first."""
        base = {_CPU: request.cpu_milli, _MEMORY: request.memory_mib, _DISK: request.disk_mib}
        if not request.gpus:
            return [base]
        return [
            base | {_GPU + gpus.model: wish.count}
            for wish in request.gpus
            for gpus in self._matching(wish)
            if len(gpus.devices) >= wish.count
        ]

    def _free(self) -> dict[str, int]:
        free = dict(self._capacity)
        for lease in self._leases.values():
            for name, amount in lease.amounts.items():
                free[name] -= amount
        for gpus in self._gpus.values():
            free[_GPU + gpus.model] = len(self._free_devices(gpus))
        return free

    def _free_devices(self, gpus: Gpus) -> list[int]:
        taken = {d for lease in self._leases.values() if lease.gpu_model == gpus.model for d in lease.devices}
        return [d for d in gpus.devices if d not in taken and (gpus.declared or d not in self._ill)]

    def _examine_gpus(self) -> None:
        """A GPU that does not answer is not given away until it does."""
        real = [d for gpus in self._gpus.values() if not gpus.declared for d in gpus.devices]
        self._ill = {d for d in real if not self._healthy(d)}

    def _reason(self, request: ResourceRequest, short: Mapping[str, int]) -> str:
        if any(name.startswith(_GPU) for name in short):
            ill = f", and GPU {', '.join(map(str, sorted(self._ill)))} does not answer" if self._ill else ""
            return f"{_wish(request)} are in use by other containers{ill}"
        if _MEMORY in short:
            return f"{request.memory_mib} MiB of memory are not free"
        if _DISK in short:
            return f"{request.disk_mib} MiB of ephemeral disk are not free"
        return f"all {self._cpu_milli / 1000:g} CPU cores are given to other containers"

    def _granted(self, lease_id: str) -> Granted:
        lease = self._leases[lease_id]
        gpus = self._gpus.get(lease.gpu_model)
        return Granted(lease_id, self._node_id, lease.gpu_model, lease.devices, gpus.declared if gpus else False)


def _wish(request: ResourceRequest) -> str:
    return " or ".join(f"{w.model}:{w.count}" if w.count > 1 else w.model for w in request.gpus)

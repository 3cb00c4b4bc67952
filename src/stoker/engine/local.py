"""The server's own machine: what it has, and which of its GPUs a lease gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from stoker.engine.base import GpuRequest, NotNow, ResourceRequest
from stoker.engine.leases import Leases
from stoker.engine.machines import CPU, DISK, GPU, MEMORY, Needs, Placement

_CPU_OVERCOMMIT = 8  # most containers wait most of the time; a request is a share, not a reservation


@dataclass(frozen=True)
class Gpus:
    """GPUs of one model. `devices` are their numbers (the N of /dev/nvidiaN); `declared` when they are not really there."""

    model: str
    devices: tuple[int, ...]
    declared: bool = False


@dataclass(frozen=True)
class _Held:
    amounts: Needs
    placement: Placement


class LocalMachine:
    """Implements `machines.Machines`: counts."""

    def __init__(
        self,
        gpus: tuple[Gpus, ...] = (),
        node_id: str = "local",
        *,
        memory_mib: int | None = None,
        disk_mib: int | None = None,
        healthy: Callable[[int], bool] = lambda device: True,
    ) -> None:
        """memory_mib: what containers may have, None for all of the machine. disk_mib: room for what containers write, None for any amount.
        healthy: whether a GPU that is really there answers."""
        self._node_id = node_id
        self._gpus = {g.model: g for g in gpus}
        self.processors = (psutil.cpu_count() or 1) * 1000
        self._capacity = {
            CPU: self.processors * _CPU_OVERCOMMIT,
            MEMORY: psutil.virtual_memory().total >> 20 if memory_mib is None else memory_mib,
            DISK: disk_mib if disk_mib is not None else 1 << 40,
            **{GPU + g.model: len(g.devices) for g in gpus},
        }
        self._healthy = healthy
        self._ill: set[int] = set()
        self._held: dict[str, _Held] = {}

    def capacity(self) -> Needs:
        return self._capacity

    def free(self) -> Needs:
        free = dict(self._capacity)
        for held in self._held.values():
            for name, amount in held.amounts.items():
                free[name] -= amount
        for gpus in self._gpus.values():
            free[GPU + gpus.model] = len(self._free_devices(gpus))
        return free

    def alternatives(self, request: ResourceRequest) -> list[Needs]:
        base = {CPU: request.cpu_milli, MEMORY: request.memory_mib, DISK: request.disk_mib}
        if not request.gpus:
            return [base]
        return [
            base | {GPU + gpus.model: wish.count}
            for wish in request.gpus
            for gpus in self._matching(wish)
            if len(gpus.devices) >= wish.count
        ]

    def obstacle(self, request: ResourceRequest) -> str:
        if request.cpu_milli > self._capacity[CPU]:
            return f"The function asks for {request.cpu_milli / 1000:g} CPU cores and the machine has {self.processors / 1000:g}."
        if request.memory_mib > self._capacity[MEMORY]:
            return f"The function asks for {request.memory_mib} MiB of memory and the machine has {self._capacity[MEMORY]} for containers."
        if request.disk_mib > self._capacity[DISK]:
            return (
                f"The function asks for {request.disk_mib} MiB of ephemeral disk and the disk of the server's data directory has "
                f"{self._capacity[DISK]} in all."
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

    def reason(self, request: ResourceRequest, short: Needs) -> str:
        if any(name.startswith(GPU) for name in short):
            ill = f", and GPU {', '.join(map(str, sorted(self._ill)))} does not answer" if self._ill else ""
            return f"{_wish(request)} are in use by other containers{ill}"
        if MEMORY in short:
            return f"{request.memory_mib} MiB of memory are not free"
        if DISK in short:
            return f"{request.disk_mib} MiB of ephemeral disk are not free"
        return f"all {self.processors / 1000:g} CPU cores are given to other containers"

    async def place(self, lease_id: str, needs: Needs) -> Placement | NotNow:
        held = self._held.get(lease_id)
        if held is None:
            held = self._held[lease_id] = _Held(needs, self._chosen(needs))
        return held.placement

    async def release(self, lease_id: str) -> None:
        self._held.pop(lease_id, None)

    def examine(self) -> None:
        """A GPU that does not answer is not given away until it does."""
        real = [d for gpus in self._gpus.values() if not gpus.declared for d in gpus.devices]
        self._ill = {d for d in real if not self._healthy(d)}

    def inventory(self) -> dict[str, object]:
        free = self.free()
        return {
            "cpu_milli": {"total": self.processors, "requested": self._capacity[CPU] - free[CPU]},
            "memory_mib": {"total": self._capacity[MEMORY], "requested": self._capacity[MEMORY] - free[MEMORY]},
            "gpus": {
                gpus.model: {
                    "total": len(gpus.devices),
                    "free": len(self._free_devices(gpus)),
                    "declared": gpus.declared,
                    **({"unhealthy": ill} if (ill := sorted(self._ill.intersection(gpus.devices))) else {}),
                }
                for gpus in self._gpus.values()
            },
        }

    def _chosen(self, needs: Needs) -> Placement:
        for name, count in needs.items():
            if name.startswith(GPU):
                gpus = self._gpus[name.removeprefix(GPU)]
                devices = tuple(self._free_devices(gpus)[:count])
                return Placement(self._node_id, gpus.model, devices, gpus.declared)
        return Placement(self._node_id)

    def _could_hold(self, wish: GpuRequest) -> bool:
        return any(len(g.devices) >= wish.count for g in self._matching(wish))

    def _matching(self, wish: GpuRequest) -> list[Gpus]:
        """ "A100" means those with 40 GB and with 80 GB."""
        model = wish.model.removesuffix("+")
        return [g for g in self._gpus.values() if model in ("ANY", g.model) or g.model.startswith(model + "-")]

    def _free_devices(self, gpus: Gpus) -> list[int]:
        placements = [held.placement for held in self._held.values()]
        taken = {device for each in placements if each.gpu_model == gpus.model for device in each.devices}
        return [d for d in gpus.devices if d not in taken and (gpus.declared or d not in self._ill)]


def local_engine(
    gpus: tuple[Gpus, ...] = (),
    *,
    memory_mib: int | None = None,
    disk_mib: int | None = None,
    healthy: Callable[[int], bool] = lambda device: True,
    clock: Callable[[], float] = time.monotonic,
) -> Leases:
    """Leases on the server's own machine. The arguments: see `LocalMachine`."""
    machine = LocalMachine(gpus, memory_mib=memory_mib, disk_mib=disk_mib, healthy=healthy)
    return Leases(machine, clock=clock)


def _wish(request: ResourceRequest) -> str:
    return " or ".join(f"{w.model}:{w.count}" if w.count > 1 else w.model for w in request.gpus)

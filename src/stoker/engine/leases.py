"""Leases: who gets what is free, in a fair order. On whatever machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from stoker.core.turns import Turns, fits, lacking
from stoker.engine.base import Granted, Never, NotNow, ResourceRequest
from stoker.engine.machines import CPU, Machines, Needs, Placement


@dataclass
class _Lease:
    owner: str
    amounts: Needs
    placement: Placement | None = None  # None while it is being placed


class Leases:
    """Implements `base.Engine`: grants what fits beside the leases it has given. Made by the composition root; asked by the launcher."""

    def __init__(self, machines: Machines, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._machines = machines
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
        known = self._leases.get(lease_id)
        if known is not None and known.placement is not None:
            return _granted(lease_id, known.placement)
        machines = self._machines
        machines.examine()
        never = machines.obstacle(request)
        if never:
            return Never(never)
        now, free = self._clock(), machines.free()
        owner = owner or lease_id
        if not overcommit and self._held_by(owner).get(CPU, 0) + request.cpu_milli > machines.processors:
            return NotNow(
                f"the processors are busy, and all {machines.processors / 1000:g} are given to its containers"
            )
        alternatives = machines.alternatives(request)
        fitting = [needs for needs in alternatives if fits(needs, free)]
        if not fitting:
            self._turns.wait(now, owner, alternatives)
            short = min(
                (lacking(needs, free) for needs in alternatives), key=lambda short: (len(short), *short.values())
            )
            return NotNow(machines.reason(request, short), short, self._turns.waited(now, owner))
        held = [self.held(waiter) for waiter in awaited_by]
        needs = next((n for n in fitting if self._turns.first(now, owner, n, free, self.share, held) is None), None)
        if needs is None:
            self._turns.wait(now, owner, alternatives)
            return NotNow("what is free is kept for a function that has waited longer or holds less")
        return await self._place(lease_id, owner, needs)

    async def release(self, lease_id: str) -> None:
        if self._leases.pop(lease_id, None) is not None:
            await self._machines.release(lease_id)
            self.on_release()

    def obstacle(self, request: ResourceRequest) -> str:
        return self._machines.obstacle(request)

    def withdraw(self, owner: str) -> None:
        if self._turns.leave(owner):
            self.on_release()

    def held(self, lease_id: str) -> Mapping[str, int]:
        lease = self._leases.get(lease_id)
        return lease.amounts if lease is not None else {}

    def share(self, owner: str) -> float:
        capacity = self._machines.capacity()
        return max((amount / capacity[name] for name, amount in self._held_by(owner).items()), default=0.0)

    def inventory(self) -> dict[str, object]:
        return {**self._machines.inventory(), "leases": len(self._leases)}

    async def _place(self, lease_id: str, owner: str, needs: Needs) -> Granted | NotNow:
        self._leases[lease_id] = lease = _Lease(owner, needs)
        try:
            placement = await self._machines.place(lease_id, needs)
        except BaseException:
            await self.release(lease_id)
            raise
        if isinstance(placement, NotNow):
            await self.release(lease_id)
            return placement
        lease.placement = placement
        if self._turns.leave(owner):
            self.on_release()  # those behind it may go on
        return _granted(lease_id, placement)

    def _held_by(self, owner: str) -> dict[str, int]:
        held: dict[str, int] = {}
        for lease in self._leases.values():
            if lease.owner == owner:
                for name, amount in lease.amounts.items():
                    held[name] = held.get(name, 0) + amount
        return held


def _granted(lease_id: str, placement: Placement) -> Granted:
    return Granted(lease_id, placement.node_id, placement.gpu_model, placement.devices, placement.declared)

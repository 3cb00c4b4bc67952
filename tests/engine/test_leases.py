"""Leases on machines that answer late, refuse after all, or are called off: nothing is promised twice, and nothing stays behind."""

from __future__ import annotations

import asyncio

import pytest

from stoker.engine.base import Granted, NotNow, ResourceRequest
from stoker.engine.leases import Leases
from stoker.engine.local import LocalMachine
from stoker.engine.machines import Needs, Placement

HALF = ResourceRequest(memory_mib=600)


class Distant(LocalMachine):
    """A machine that takes its time to place a lease."""

    def __init__(self) -> None:
        super().__init__(memory_mib=1_000)
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.refuses = False

    async def place(self, lease_id: str, needs: Needs) -> Placement | NotNow:
        placement = await super().place(lease_id, needs)
        self.asked.set()
        await self.may_answer.wait()
        return NotNow("another cluster was faster") if self.refuses else placement


def test_what_is_being_placed_is_not_promised_to_another() -> None:
    async def body() -> None:
        machine = Distant()
        leases = Leases(machine)
        first = asyncio.ensure_future(leases.reserve("a", HALF))
        await machine.asked.wait()
        assert isinstance(await leases.reserve("b", HALF), NotNow)
        machine.may_answer.set()
        assert isinstance(await first, Granted)

    asyncio.run(body())


@pytest.mark.parametrize("how", ["refused", "called off"])
def test_a_placement_that_comes_to_nothing_is_given_back(how: str) -> None:
    async def body() -> None:
        machine, released = Distant(), list[str]()
        leases = Leases(machine)
        leases.on_release = lambda: released.append("again")
        placing = asyncio.ensure_future(leases.reserve("a", HALF))
        await machine.asked.wait()
        if how == "refused":
            machine.refuses = True
            machine.may_answer.set()
            refusal = await placing
            assert isinstance(refusal, NotNow) and refusal.reason == "another cluster was faster"
        else:
            placing.cancel()
            await asyncio.wait([placing])
        assert leases.inventory()["leases"] == 0 and machine.free()["memory_mib"] == 1_000 and released
        machine.refuses, machine.may_answer = False, asyncio.Event()
        machine.may_answer.set()
        assert isinstance(await leases.reserve("b", HALF), Granted)

    asyncio.run(body())

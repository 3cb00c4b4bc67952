"""Turns of restores: as many at once as there may be, first come, first served, and none lost."""

from __future__ import annotations

import asyncio

import pytest

from stoker.agent import restore_turns
from stoker.agent.restore_turns import RestoreTurns


class Restores:
    """Restores that have asked for a turn, and those that got it."""

    def __init__(self, most: int) -> None:
        self.turns = RestoreTurns(most)
        self.begun: list[str] = []
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def ask(self, *names: str) -> None:
        for name in names:
            self._asking[name] = asyncio.create_task(self._ask(name))
        await _settle()

    async def begins(self, name: str) -> None:
        async with asyncio.timeout(20):
            await self._asking[name]

    async def end(self, *names: str) -> None:
        for name in names:
            self.turns.end(name)
        await _settle()

    def cancel(self, name: str) -> None:
        self._asking[name].cancel()

    async def _ask(self, name: str) -> None:
        await self.turns.begin(name)
        self.begun.append(name)


def test_the_first_to_come_is_the_first_to_go() -> None:
    async def scenario() -> None:
        restores = Restores(2)
        await restores.ask("a", "b", "c", "d", "e")
        assert restores.begun == ["a", "b"]
        await restores.end("b")
        assert restores.begun == ["a", "b", "c"]
        await restores.end("a", "c")
        assert restores.begun == ["a", "b", "c", "d", "e"]
        await restores.end("d", "e")
        await restores.ask("f", "g", "h")
        assert restores.begun[5:] == ["f", "g"]

    asyncio.run(scenario())


def test_an_end_counts_once_and_only_of_who_had_a_turn() -> None:
    async def scenario() -> None:
        restores = Restores(1)
        await restores.ask("a", "b", "c")
        await restores.end("c", "nobody", "a", "a", "a")
        assert restores.begun == ["a", "b"]

    asyncio.run(scenario())


def test_who_is_cancelled_takes_no_turn() -> None:
    async def scenario() -> None:
        restores = Restores(1)
        await restores.ask("a", "b", "c", "d")
        restores.cancel("b")
        await _settle()
        restores.turns.end("a")
        restores.cancel("c")  # its turn was given, and it has not begun
        await _settle()
        assert restores.begun == ["a", "d"]
        await restores.end("d")
        await restores.ask("e", "f")
        assert restores.begun == ["a", "d", "e"]

    asyncio.run(scenario())


def test_a_turn_that_does_not_end_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_turns, "_LONGEST", 0.05)

    async def scenario() -> None:
        restores = Restores(1)
        await restores.ask("a", "b")
        await restores.begins("b")
        await restores.end("a")  # much later: it is b's turn
        await restores.ask("c")
        assert restores.begun == ["a", "b"]

    asyncio.run(scenario())


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)

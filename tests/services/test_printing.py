"""Of which inputs the output of a container is."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.services.pools import scheduler
from tests.services.world import World, run_for, world


def printing(it: World) -> list[str]:
    return [item.id for item in it.scheduler.printing(it.launcher.tasks[0].id)]


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_FIRST_WORDS", 0.0)
    monkeypatch.setattr(scheduler, "_LAST_WORDS", 3600.0)


def test_output_is_of_the_input_that_runs_and_then_of_the_one_that_did(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            await it.a_map(2)
            assert printing(it) == [], "what it prints while it starts is of none"
            first = await it.next_input()
            assert printing(it) == [first]
            await it.report(first)
            assert printing(it) == [first], "its last words come after its result"
            second = await it.next_input()
            assert printing(it) == [second]

    run_for(30, scenario())


def test_output_may_be_of_any_of_several_inputs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            await it.a_map(3, concurrent=3)
            one, two, three = [await it.next_input() for _ in range(3)]
            await it.report(two)
            assert set(printing(it)) == {one, two, three}

    run_for(30, scenario())


def test_a_container_may_print_after_its_input_was_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(1)
            await it.next_input()
            await it.calls.cancel(call.id, terminate_containers=False)
            assert printing(it) == []

    run_for(30, scenario())

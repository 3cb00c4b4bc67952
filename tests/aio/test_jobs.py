"""Background tasks with an owner, and bells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from stoker.aio import jobs as jobs_module
from stoker.aio.bell import Bell
from stoker.aio.jobs import Jobs
from stoker.errors import Unavailable


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between tries, which take no time here."""
    found: list[float] = []
    sleep = asyncio.sleep

    class Clock:
        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def sleep(self, seconds: float) -> None:
            found.append(seconds)
            await sleep(0)

    monkeypatch.setattr(jobs_module, "asyncio", Clock())
    return found


def run(scenario: Callable[[], Awaitable[None]]) -> list[Any]:
    """What it logs."""

    async def limited() -> None:
        await asyncio.wait_for(scenario(), 20)

    with capture_logs() as said:
        asyncio.run(limited())
    return said


def fails(*errors: Exception) -> Callable[[], Awaitable[str]]:
    """Work that fails with these, one after the other, and then succeeds."""
    left = list(errors)

    async def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


def test_a_failure_is_seen_though_nobody_waits() -> None:
    async def scenario() -> None:
        jobs = Jobs("house")
        task = jobs.start("sweep", fails(ZeroDivisionError("a defect"))())  # type: ignore[arg-type]
        assert list(jobs) == [task] and len(jobs) == 1
        await jobs.close()
        assert not jobs

    [line] = run(scenario)
    assert (line["job"], line["log_level"]) == ("house: sweep", "error") and "a defect" in line["error"]


def test_who_awaits_a_task_deals_with_its_error() -> None:
    async def scenario() -> None:
        jobs = Jobs("house")
        with pytest.raises(ZeroDivisionError):
            await jobs.start("sweep", fails(ZeroDivisionError())(), awaited=True)  # type: ignore[arg-type]
        await jobs.close()

    assert run(scenario) == []


def test_what_must_happen_is_repeated_whatever_it_fails_with(pauses: list[float]) -> None:
    async def scenario() -> None:
        jobs = Jobs("house")
        away = [Unavailable("away")] * 7
        assert await jobs.insist("note", fails(*away, ZeroDivisionError("a defect"))) == "done"
        await jobs.close()

    said = run(scenario)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert [line["event"] for line in said] == ["failed and is tried again"] * 2 + ["done at last"], "once per reason"


def test_the_caller_hears_why_and_it_is_done_all_the_same(pauses: list[float]) -> None:
    async def scenario() -> None:
        jobs = Jobs("house")
        assert await jobs.see_to("note", fails()) == "done" and not jobs
        with pytest.raises(Unavailable, match="first"):
            await jobs.see_to("note", fails(Unavailable("first"), Unavailable("second")))
        [task] = jobs
        assert await task == "done"

    run(scenario)
    assert len(pauses) == 2


def test_the_end_waits_for_what_is_under_way_and_for_what_that_begins() -> None:
    async def scenario() -> None:
        jobs, order = Jobs("house"), list[str]()

        async def second() -> None:
            await asyncio.sleep(0)
            order.append("second")

        async def first() -> None:
            await asyncio.sleep(0)
            jobs.start("second", second())
            order.append("first")

        jobs.start("first", first())
        await jobs.close()
        assert order == ["first", "second"]

    assert run(scenario) == []


def test_the_end_gives_up_what_takes_too_long() -> None:
    async def scenario() -> None:
        jobs = Jobs("house")
        task = jobs.start("wait", asyncio.Event().wait())
        await jobs.close(patience=0.0)
        assert task.cancelled()

    assert [(line["event"], line["job"]) for line in run(scenario)] == [("given up", "house: wait")]


def test_a_bell_wakes_all_who_wait_and_nobody_who_comes_later() -> None:
    async def scenario() -> None:
        bell = Bell()
        early = [asyncio.ensure_future(bell.wait()) for _ in range(2)]
        await asyncio.sleep(0)
        assert len(bell) == 2
        bell.ring()
        assert await asyncio.gather(*early) == [True, True]
        assert await bell.wait(0.0) is False and len(bell) == 0
        cancelled = asyncio.ensure_future(bell.wait())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert len(bell) == 0
        bell.ring()

    run(scenario)

"""Work that is not left half done."""

from __future__ import annotations

import asyncio

import pytest

from stoker.aio.cancelling import finished, within

pytestmark = pytest.mark.anyio


async def test_a_caller_that_is_cancelled_twice_still_waits_for_the_end() -> None:
    go_on, done = asyncio.Event(), []

    async def work() -> None:
        await go_on.wait()
        done.append(True)

    caller = asyncio.ensure_future(finished(work()))
    for _ in range(2):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done


async def test_results_and_errors_pass() -> None:
    async def answer(fail: bool) -> int:
        if fail:
            raise ValueError("no")
        return 3

    assert await finished(answer(False)) == 3
    with pytest.raises(ValueError, match="no"):
        await finished(answer(True))


async def test_work_that_takes_too_long_cleans_up_in_peace() -> None:
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(TimeoutError):
        await within(work(), 0.001)
    assert cleaned == [True]
    caller = asyncio.ensure_future(within(work(), 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cleaned == [True, True]


async def test_a_cancellation_that_comes_with_the_result_is_seen() -> None:
    """`asyncio.wait_for` of Python 3.10 and 3.11 returns the result then, and the caller goes on as if nothing was asked of it."""
    ready = asyncio.Event()

    async def work() -> int:
        await ready.wait()
        return 3

    caller = asyncio.ensure_future(within(work(), 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ready.set()
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

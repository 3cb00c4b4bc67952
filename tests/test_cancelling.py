"""Work that is not left half done."""

from __future__ import annotations

import asyncio

import pytest

from stoker.cancelling import finished

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

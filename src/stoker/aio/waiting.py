"""Waiting for a future with a limit, at a fraction of what `asyncio.wait` costs: every call waits several times."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def settled(future: asyncio.Future[T], timeout: float) -> bool:
    """Waits until the future is done, at most `timeout` seconds; whether it is done. The future itself is never cancelled."""
    if future.done():
        return True
    if timeout <= 0:
        return False
    loop = asyncio.get_running_loop()
    alarm: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(timeout, _settle, alarm)
    future.add_done_callback(lambda _: _settle(alarm))
    try:
        await alarm
    finally:
        timer.cancel()
    return future.done()


def _settle(alarm: asyncio.Future[None]) -> None:
    if not alarm.done():
        alarm.set_result(None)

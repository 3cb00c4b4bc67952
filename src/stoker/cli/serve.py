"""Runs a server in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

import structlog
import uvloop

from stoker import oom
from stoker.aio.event_loop import new_event_loop
from stoker.config import Settings
from stoker.server import Server
from stoker.server.services import Services

_log = structlog.get_logger(__name__)


def serve(
    settings: Settings,
    ready: Callable[[Server], None],
    lifeline: int | None = None,
    services: type[Services] = Services,
) -> None:
    """Starts the server, calls `ready`, and returns when SIGINT, SIGTERM or the end of the lifeline has stopped it.

    The lifeline is the reading end of a pipe whose other end someone holds who wants the server to end with him. services: tests have others.
    Raises StokerError when the server cannot start; nothing is left behind then either.
    """
    uvloop.run(_serve(Server(settings, services), ready, lifeline), loop_factory=new_event_loop)


async def _serve(server: Server, ready: Callable[[Server], None], lifeline: int | None) -> None:
    oom.set_score(oom.SERVER)
    stop = _StopSignals(lifeline)
    starting = asyncio.ensure_future(server.start())
    told = asyncio.ensure_future(stop.first.wait())
    started = False
    try:
        await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
        else:
            await starting  # raises what prevented the start
            started = True
            ready(server)
            await told
    finally:
        told.cancel()
        await _stop(server, stop, started=started)


async def _stop(server: Server, stop: _StopSignals, *, started: bool) -> None:
    """Drains; a second signal ends the wait for running inputs."""
    stopping = asyncio.ensure_future(server.stop())
    hurry = asyncio.ensure_future(stop.second.wait())
    await asyncio.wait([stopping, hurry], return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done() and started:
        _log.warning("a second signal came: containers are ended at once")
        await server.hurry()
    hurry.cancel()
    await stopping


class _StopSignals:
    """Two events: that the server shall stop, and that it shall hurry."""

    def __init__(self, lifeline: int | None) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started under nohup: the end of the terminal is none of our business
            loop.add_signal_handler(number, self._told, f"received {signal.Signals(number).name}")
        if lifeline is not None:
            loop.add_reader(lifeline, self._cut, lifeline)

    def _told(self, why: str) -> None:
        if not self.first.is_set():
            _log.info("stopping", why=why)
            self.first.set()
        else:
            self.second.set()

    def _cut(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        os.close(lifeline)
        self._told("the command that the server was started for has ended")

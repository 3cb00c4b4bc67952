"""The server's event loop: uvloop, but for how it starts programs.

uvloop forks, which takes the longer the more memory the server has (16 ms with 150 MB, in which nothing else is done). `subprocess`,
with which Python's own loop starts programs, copies nothing (0.5 ms).
"""

from __future__ import annotations

import asyncio
import os
from asyncio import unix_events
from collections.abc import Callable
from typing import Any, TypeVar

import uvloop

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


def new_event_loop() -> uvloop.Loop:
    """The best one for this machine."""
    return EventLoop() if _can_watch() else uvloop.new_event_loop()


class EventLoop(uvloop.Loop):
    """Only where `_can_watch`."""

    async def subprocess_exec(
        self,
        protocol_factory: Callable[[], _Protocol],
        *args: Any,
        stdin: Any = asyncio.subprocess.PIPE,
        stdout: Any = asyncio.subprocess.PIPE,
        stderr: Any = asyncio.subprocess.PIPE,
        **kwargs: Any,
    ) -> tuple[Any, _Protocol]:
        """As of every event loop. Raises OSError when the program cannot be started."""
        protocol, ready = protocol_factory(), self.create_future()
        transport = unix_events._UnixSubprocessTransport(  # type: ignore[attr-defined]
            self, protocol, args, False, stdin, stdout, stderr, 0, waiter=ready, **kwargs
        )
        process = transport.get_extra_info("subprocess")
        try:
            self._call_at_end(process.pid, lambda: transport._process_exited(process.wait()))
        except OSError:  # no file descriptor left
            transport.close()
            process.wait()
            raise
        try:
            await ready
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport, protocol

    async def connect_read_pipe(self, protocol_factory: Callable[[], _Protocol], pipe: Any) -> tuple[Any, _Protocol]:
        connected: tuple[Any, _Protocol] = await super().connect_read_pipe(protocol_factory, _Pipe(pipe))
        return connected

    async def connect_write_pipe(self, protocol_factory: Callable[[], _Protocol], pipe: Any) -> tuple[Any, _Protocol]:
        connected: tuple[Any, _Protocol] = await super().connect_write_pipe(protocol_factory, _Pipe(pipe))
        return connected

    def _call_at_end(self, pid: int, callback: Callable[[], None]) -> None:
        watch = os.pidfd_open(pid)

        def ended() -> None:
            self.remove_reader(watch)
            os.close(watch)
            callback()

        self.add_reader(watch, ended)


class _Pipe:
    """A pipe that only uvloop closes. It closes the descriptor and then the file as well, by when another thread may have got the same number
    for a file of its own, which would be closed."""

    def __init__(self, file: Any) -> None:
        self._descriptor = os.dup(file.fileno())
        file.close()

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None: ...


def _can_watch() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # another system than Linux, or an old kernel
        return False
    return True

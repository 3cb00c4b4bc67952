"""Connections to ports that containers listen on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio

_CONNECT = 10.0  # seconds
_TRY = 1.0  # seconds for one attempt to reach a port that may not listen yet
_CONNECT_AGAIN = (0.01, 0.2)  # seconds between such attempts: doubled, up to the second

P = TypeVar("P", bound=asyncio.Protocol)


class LocalPorts:
    """Implements `nodes.base.Ports`: containers of this machine have addresses that the server reaches."""

    def __init__(self, address_of: Callable[[str], str]) -> None:
        """address_of: the address of a container, "" for one that has none or has ended."""
        self._address_of = address_of

    async def listening(self, task_id: str, port: int) -> bool:
        pause, longest = _CONNECT_AGAIN
        while address := self._address_of(task_id):
            try:
                with anyio.fail_after(_TRY):
                    _, writer = await asyncio.open_connection(address, port)
            except OSError:  # a TimeoutError is one
                await asyncio.sleep(pause)
                pause = min(longest, pause * 2)
            else:
                writer.close()
                return True
        return False

    async def connect(self, task_id: str, port: int, make: Callable[[], P]) -> P:
        address = self._address_of(task_id)
        if not address:
            raise ConnectionRefusedError(f"The container {task_id} has ended, or has no network.")
        try:
            # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that comes with the connection.
            with anyio.fail_after(_CONNECT):
                _, protocol = await asyncio.get_running_loop().create_connection(make, address, port)
        except TimeoutError:
            raise OSError(f"{address}:{port} did not answer within {_CONNECT:.0f} s") from None
        return protocol

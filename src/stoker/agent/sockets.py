"""The unix sockets of containers: each has its own, by which the control plane knows who calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Uplink(Protocol):
    """The way of containers to the control plane: on the server's own machine the protocol objects of its RPC port."""

    def connection(self, task_id: str) -> asyncio.Protocol:
        """What serves a new connection of a container."""
        ...

    async def quiet(self, task_id: str, timeout: float) -> bool:
        """Waits until a container has closed all its connections, at most `timeout` seconds; whether it has."""
        ...

    def close(self, task_id: str) -> None:
        """Ends all connections of a container."""
        ...


class Sockets:
    """Listens for containers. Made by the node, which is told when one calls for the first time."""

    def __init__(self, uplink: Uplink, on_call: Callable[[str], None]) -> None:
        self._uplink = uplink
        self._on_call = on_call
        self._listening: dict[str, _Socket] = {}

    async def listen(self, task_id: str, path: Path) -> None:
        """From now on a container can call through the socket at `path`. Raises OSError."""
        socket = _Socket(task_id, self._uplink, self._on_call)
        self._listening[task_id] = socket
        socket.server = await asyncio.get_running_loop().create_unix_server(socket.connection, str(path))

    async def quiet(self, task_id: str, timeout: float) -> bool:
        """Waits until a container has closed all its connections, at most `timeout` seconds; whether it has."""
        return await self._uplink.quiet(task_id, timeout)

    def close(self, task_id: str) -> None:
        """A container has ended. No error when it never had a socket."""
        socket = self._listening.pop(task_id, None)
        if socket is not None:
            if socket.server is not None:
                socket.server.close()
            self._uplink.close(task_id)


class _Socket:
    def __init__(self, task_id: str, uplink: Uplink, on_call: Callable[[str], None]) -> None:
        self.server: asyncio.AbstractServer | None = None
        self._task_id = task_id
        self._uplink = uplink
        self._on_call = on_call
        self._called = False

    def connection(self) -> asyncio.Protocol:
        if not self._called:
            self._called = True
            self._on_call(self._task_id)
        return self._uplink.connection(self._task_id)

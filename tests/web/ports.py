"""Ports of containers that are ports of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

P = TypeVar("P", bound=asyncio.Protocol)


class LoopbackPorts:
    """Implements `nodes.base.Ports`: whatever the container, its ports are those of 127.0.0.1."""

    async def listening(self, task_id: str, port: int) -> bool:
        return True

    async def connect(self, task_id: str, port: int, make: Callable[[], P]) -> P:
        _, protocol = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
        return protocol

"""How containers of the server's own machine reach it, and who hears what its node tells."""

from __future__ import annotations

import asyncio

from stoker.nodes.endings import Exit
from stoker.rpc.transport import Transport
from stoker.services.containers.launcher import ContainerLauncher
from stoker.services.images.images import Images
from stoker.services.images.layer_checks import LayerChecks


class TransportUplink:
    """Implements `agent.sockets.Uplink`: connections of containers are served by the RPC transport, without a byte being copied. `transport` is
    set as soon as there is one, which is before containers start."""

    transport: Transport

    def connection(self, task_id: str) -> asyncio.Protocol:
        return self.transport.container_connection(task_id)

    async def quiet(self, task_id: str, timeout: float) -> bool:
        return await self.transport.quiet(task_id, timeout)

    def close(self, task_id: str) -> None:
        self.transport.forget(task_id)


class ServicesObserver:
    """Implements `nodes.base.Observer`: tells the services that asked."""

    def __init__(self, launcher: ContainerLauncher, images: Images, layer_checks: LayerChecks) -> None:
        self._launcher = launcher
        self._images = images
        self._layer_checks = layer_checks

    def called(self, task_id: str) -> None:
        self._launcher.called(task_id)

    def output(self, task_id: str, fd: int, text: str) -> asyncio.Future[None] | None:
        return self._launcher.output(task_id, fd, text)

    def ended(self, task_id: str, exit: Exit) -> None:
        self._launcher.ended(task_id, exit)

    def layer_compared(self, name: str, wrong: str) -> None:
        self._layer_checks.compared(name, wrong)

    def build_output(self, image_id: str, text: str) -> None:
        self._images.build_output(image_id, text)

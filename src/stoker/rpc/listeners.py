"""Listening sockets of gRPC with their connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stoker import descriptors
from stoker.aio.waiting import settled
from stoker.connections import Connections, Total
from stoker.rpc.http2.application import Application
from stoker.rpc.http2.connection import Connection
from stoker.rpc.http2.limits import Limits
from stoker.rpc.peers import Peer

_MOST_CLIENTS = 8_192
_MOST_OF_CONTAINER = 128  # one for the entrypoint, and one for each process of a pool that makes calls
_SHARE_OF_CONTAINER = 8


def client_connections(per_address: int) -> Connections:
    """Of clients: at most a quarter of what this process may open."""
    return Connections("grpc", min(_MOST_CLIENTS, descriptors.limit() // 4), per_address=per_address)


def container_total() -> Total:
    return Total(descriptors.limit() // 4, _SHARE_OF_CONTAINER)


def container_connections(task_id: str, total: Total) -> Connections:
    return Connections(f"container {task_id}", _MOST_OF_CONTAINER, total=total)


class Listener:
    """A listening socket and its connections."""

    def __init__(
        self, application: Application, limits: Limits, make_peer: Callable[[], Peer], connections: Connections
    ) -> None:
        """make_peer: who is behind a new connection."""
        self.server: asyncio.AbstractServer | None = None
        self.connections = connections
        self._application = application
        self._limits = limits
        self._make_peer = make_peer
        self._empty: asyncio.Future[None] | None = None

    def connection(self) -> Connection:
        peer = self._make_peer()
        return Connection(self._application, self._limits, peer.outgoing, peer, self._come, self._gone)

    async def quiet(self, timeout: float) -> bool:
        """Waits until there is no connection, at most `timeout` seconds; whether there is none."""
        if self.connections:
            self._empty = asyncio.get_running_loop().create_future()
            await settled(self._empty, timeout)
        return not self.connections

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        for connection in self.connections:
            assert isinstance(connection, Connection)
            connection.shut_down()
            connection.abort()

    def _come(self, connection: Connection) -> None:
        self.connections.add(connection, connection.address)

    def _gone(self, connection: Connection) -> None:
        self.connections.remove(connection)
        if self._empty is not None and not self.connections and not self._empty.done():
            self._empty.set_result(None)

"""An HTTP server inside our own event loop, on one or several addresses."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn

from stoker import descriptors
from stoker.aio.keepalive import notice_lost_peers
from stoker.connections import Connections
from stoker.errors import FailedPrecondition
from stoker.gateway.web.answers import BODY_SILENCE
from stoker.gateway.web.connection import Connection
from stoker.gateway.web.server_gateway import ServerGateway
from stoker.gateway.web.websocket import MOST_MESSAGE, WebSocket

_MOST = 20_000


class HttpServer:
    """Serves one ASGI application from `start` to `stop`. servers: takes requests to an @app.server before the application sees them."""

    def __init__(
        self,
        app: Any,
        servers: ServerGateway | None = None,
        *,
        name: str = "http",
        most: int = _MOST,
        per_address: int = 0,
        stall: float = BODY_SILENCE,
    ) -> None:
        """name: for the log. most, per_address: connections, in all and from one address (0 for no limit). stall: seconds for which a client
        may take nothing of an answer."""
        self._app = app
        kept = Connections(name, min(most, descriptors.limit() // 2), per_address=per_address)
        self._websocket = functools.partial(WebSocket, kept=kept, stall=stall)
        self._connection = functools.partial(Connection, kept=kept, stall=stall, servers=servers)
        self._kept = kept
        self._server: _Server | None = None
        self._running: asyncio.Task[None] | None = None
        self._sockets: list[socket.socket] = []

    async def start(self, hosts: Sequence[str], port: int) -> int:
        """Listens on all `hosts` at one port (0 picks a free one) and returns it. Raises FailedPrecondition when it is taken."""
        sockets: list[socket.socket] = []
        try:
            for host in hosts:
                listener = listening_socket(host, port)
                sockets.append(listener)
                port = listener.getsockname()[1]
        except OSError as error:
            for listener in sockets:
                listener.close()
            raise FailedPrecondition(
                f"Cannot listen on {host}:{port} for HTTP: {error.strerror}. Set http_port in stoker.toml, or STOKER_HTTP_PORT, to another port."
            ) from None
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            http=self._connection,  # type: ignore[arg-type]
            ws=self._websocket,  # type: ignore[arg-type]
            ws_max_size=MOST_MESSAGE,
            timeout_graceful_shutdown=None,
        )
        self._sockets = sockets
        self._server = _Server(config)
        self._running = asyncio.create_task(self._server.serve(sockets=sockets))
        ready = asyncio.ensure_future(self._server.ready.wait())
        await asyncio.wait([self._running, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._running.done():
            await self._running
            raise FailedPrecondition("The HTTP server ended while it was starting.")
        return port

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._kept)

    def connection(self) -> asyncio.Protocol:
        """The protocol of a connection that another listener accepted. Only while the server runs."""
        assert self._server is not None
        config, state = self._server.config, self._server.server_state
        return self._connection(config, state, self._server.lifespan.state)

    async def stop(self, grace: float = 5.0) -> None:
        """Stops taking requests; those that run get `grace` seconds, at least one. No error when it is not running."""
        if self._server is None or self._running is None:
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(grace))
        self._server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        for listener in self._sockets:
            listener.close()
        self._server = self._running = None


class _Server(uvicorn.Server):
    """Leaves signals to the process it runs in, and tells when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket of TCP that listens. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        notice_lost_peers(listener)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener

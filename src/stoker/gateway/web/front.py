"""What a passage needs of the client's connection in front of it, and of the gateway that let it through."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from stoker.gateway.web.access import AccessLog
from stoker.gateway.web.admission import Admission
from stoker.gateway.web.upstream import Upstreams
from stoker.services.pools.server_sessions import ServerSessions
from stoker.services.pools.servers import Servers
from stoker.services.watch.server_requests import Remember


class Front(Protocol):
    """A client's connection; `connection.Connection` is one."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    parser: Any  # httptools' parser of the request
    client: tuple[str, int] | None
    scheme: Literal["http", "https"] | None
    headers: list[tuple[bytes, bytes]]
    url: bytes
    expect_100_continue: bool

    def wants_keep_alive(self) -> bool: ...

    def wants_websocket(self) -> bool: ...

    def announces_body(self) -> bool: ...

    def on_response_complete(self) -> None: ...


class Gate(Protocol):
    """The way to containers; `server_gateway.ServerGateway` is one."""

    body_silence: float
    servers: Servers
    sessions: ServerSessions
    admission: Admission
    log: AccessLog
    upstreams: Upstreams
    remember: Remember

    def check_open(self) -> None:
        """Raises Unavailable."""
        ...

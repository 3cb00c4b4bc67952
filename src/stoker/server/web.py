"""HTTP on top of the services: what clients and browsers reach, and what containers reach."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from stoker.gateway.app import make_container_gateway, make_gateway
from stoker.gateway.endpoint import FunctionGateway
from stoker.gateway.serve import HttpServer
from stoker.gateway.server_proxy import ServerGateway
from stoker.gateway.snapshots import SnapshotRoutes
from stoker.gateway.tokens import TokenRoutes
from stoker.gateway.transfer import Transfer
from stoker.gateway.web import WebGateway
from stoker.server.services import Services


async def serve_web(
    services: Services, status: Callable[[], Awaitable[dict[str, Any]]], port: int, cleanup: AsyncExitStack
) -> None:
    """The gateway of clients and browsers, on `settings.host`."""
    s = services
    proxy = ServerGateway(s.servers)
    cleanup.push_async_callback(proxy.close)
    routes = [
        *TokenRoutes(tokens=s.tokens, flows=s.token_flows).routes(),
        *SnapshotRoutes(
            snapshots=s.snapshots,
            authenticate=s.tokens.authenticate,
            names=lambda app_id, function_id: (s.apps.get(app_id).name, s.functions.get(function_id).name),
        ).routes(),
    ]
    web = WebGateway(
        make_gateway(transfer=_transfer(s), status=status, authenticate=s.tokens.authenticate, routes=routes),
        endpoints=s.endpoints,
        functions=FunctionGateway(s.web_calls, redirect_after=s.settings.web_redirect_seconds),
        servers=s.servers,
        proxy=proxy,
        check_token=lambda key, secret, app_id: s.proxy_tokens.check(key, secret, s.apps.get(app_id).environment_id),
    )
    await _serve(web, s.settings.host, port, cleanup)


async def serve_containers(services: Services, host: str, port: int, cleanup: AsyncExitStack) -> None:
    """What sandboxes reach over HTTP: signed URLs only, on the address that the runtime gave."""
    await _serve(make_container_gateway(transfer=_transfer(services)), host, port, cleanup)


def _transfer(services: Services) -> Transfer:
    return Transfer(blobs=services.blobs, files=services.volume_files, signer=services.signer)


async def _serve(app: Any, host: str, port: int, cleanup: AsyncExitStack) -> None:
    server = HttpServer(app)
    cleanup.push_async_callback(server.stop)
    await server.start([host], port)

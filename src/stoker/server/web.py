"""HTTP on top of the services: what clients and browsers reach, and what containers reach."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from stoker.gateway.api.app import make_container_gateway, make_gateway
from stoker.gateway.api.canaries import CanaryRoutes
from stoker.gateway.api.functions import FunctionRoutes
from stoker.gateway.api.identity import IdentityRoutes
from stoker.gateway.api.images import ImageRoutes
from stoker.gateway.api.snapshots import SnapshotNames, SnapshotRoutes
from stoker.gateway.api.tokens import TokenRoutes
from stoker.gateway.api.traffic import TrafficRoutes
from stoker.gateway.transfer import Transfer
from stoker.gateway.web.access import AccessLog
from stoker.gateway.web.admission import Admission
from stoker.gateway.web.endpoint import FunctionGateway
from stoker.gateway.web.serve import HttpServer
from stoker.gateway.web.server_gateway import ServerGateway
from stoker.gateway.web.web import WebGateway
from stoker.protocol.parameters import parameters_of
from stoker.server.services import Services

_MOST_OF_CONTAINERS, _MOST_OF_CONTAINER = 8_192, 256  # connections over HTTP; the client loads some 20 parts at once


class WebParts:
    """What answers for web endpoints, at the gateway of clients and at that of containers. is_stopping: whether containers take nothing new."""

    def __init__(self, services: Services, cleanup: AsyncExitStack, is_stopping: Callable[[], bool]) -> None:
        s = services
        self._endpoints = s.endpoints
        self.log = AccessLog(s.metrics, enabled=s.settings.log_level in ("debug", "info"), pretty=s.settings.pretty_log)
        cleanup.callback(self.log.flush)
        self._admission = Admission(
            s.servers,
            lambda key, secret, app_id, peer: s.proxy_tokens.check(
                key, secret, s.apps.get(app_id).environment_id, peer
            ),
            s.attempts,
        )
        self._servers = ServerGateway(
            endpoints=s.endpoints,
            servers=s.servers,
            admission=self._admission,
            log=self.log,
            is_stopping=is_stopping,
            body_silence=s.settings.web_silence_seconds,
            remember=s.server_requests.add,
        )
        cleanup.push_async_callback(self._servers.close)
        self._silence = s.settings.web_silence_seconds
        self._functions = FunctionGateway(
            s.web_calls,
            redirect_after=s.settings.web_redirect_seconds,
            is_stopping=is_stopping,
            body_silence=s.settings.web_silence_seconds,
        )

    def before(self, other: Starlette, *, name: str, most: int, per_address: int) -> HttpServer:
        """A server of all web endpoints, and of what `other` answers. For the others see HttpServer."""
        web = WebGateway(
            other, endpoints=self._endpoints, functions=self._functions, admission=self._admission, log=self.log
        )
        return HttpServer(web, self._servers, name=name, most=most, per_address=per_address, stall=self._silence)


async def serve_web(
    services: Services,
    parts: WebParts,
    status: Callable[[], Awaitable[dict[str, Any]]],
    port: int,
    cleanup: AsyncExitStack,
    routes: Sequence[BaseRoute] = (),
) -> HttpServer:
    """The gateway of clients and browsers, on `settings.host`. routes: of other parts, open to everybody."""
    s = services
    server = parts.before(
        make_application(s, status, routes),
        name="http",
        most=s.settings.max_web_connections,
        per_address=s.settings.max_connections_per_address,
    )
    s.metrics.watch("stoker_http_connections", "Open HTTP connections.", lambda: server.connections)
    s.metrics.watch("stoker_http_open_requests", "Web requests under way.", lambda: parts.log.open)
    s.metrics.watch("stoker_tasks", "Tasks of the server's event loop.", lambda: len(asyncio.all_tasks()))
    await _serve(server, s.settings.host, port, cleanup)
    return server


def make_application(
    services: Services, status: Callable[[], Awaitable[dict[str, Any]]], routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """What the gateway answers besides web endpoints. routes: of other parts, open to everybody."""
    s = services
    tokens = TokenRoutes(tokens=s.tokens, flows=s.token_flows)
    return make_gateway(
        transfer=_transfer(s),
        status=status,
        authenticate=s.tokens.authenticate,
        metrics=s.metrics.text,
        administration=[
            *tokens.administration(),
            *CanaryRoutes(canaries=s.canaries, apps=s.apps, environments=s.environments).routes(),
            *TrafficRoutes(traffic=s.traffic).routes(),
            *ImageRoutes(images=s.images, storage=s.image_storage).routes(),
            *SnapshotRoutes(snapshots=s.snapshots, names=partial(_names, s)).routes(),
            *FunctionRoutes(
                apps=s.apps, functions=s.functions, environments=s.environments, history=s.history
            ).routes(),
        ],
        open_routes=[*routes, *tokens.pages(), *IdentityRoutes(s.identity_tokens).routes()],
    )


async def serve_containers(
    services: Services, parts: WebParts, host: str, port: int, cleanup: AsyncExitStack
) -> HttpServer:
    """What sandboxes reach over HTTP, on the address that the runtime gave: web endpoints and signed URLs."""
    gateway = make_container_gateway(transfer=_transfer(services))
    server = parts.before(gateway, name="http for containers", most=_MOST_OF_CONTAINERS, per_address=_MOST_OF_CONTAINER)
    await _serve(server, host, port, cleanup)
    return server


def _transfer(services: Services) -> Transfer:
    return Transfer(
        blobs=services.blobs,
        files=services.volume_files,
        network_files=services.network_files,
        signer=services.signer,
    )


async def _serve(server: HttpServer, host: str, port: int, cleanup: AsyncExitStack) -> None:
    cleanup.push_async_callback(server.stop)
    await server.start([host], port)


def _names(services: Services, app_id: str, function_id: str) -> SnapshotNames:
    """The base of an image belongs to no app."""
    if not app_id:
        return SnapshotNames("", f"base of {function_id}", "")
    function = services.functions.get(function_id)
    return SnapshotNames(services.apps.get(app_id).name, function.name, parameters_of(function))

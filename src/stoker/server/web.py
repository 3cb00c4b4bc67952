"""HTTP on top of the services: what clients and browsers reach, and what containers reach."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from stoker.gateway.access import AccessLog
from stoker.gateway.admission import Admission
from stoker.gateway.app import make_container_gateway, make_gateway
from stoker.gateway.canaries import CanaryRoutes
from stoker.gateway.endpoint import FunctionGateway
from stoker.gateway.functions import FunctionRoutes
from stoker.gateway.images import ImageRoutes
from stoker.gateway.serve import HttpServer
from stoker.gateway.server_gateway import ServerGateway
from stoker.gateway.snapshots import SnapshotNames, SnapshotRoutes
from stoker.gateway.tokens import TokenRoutes
from stoker.gateway.traffic import TrafficRoutes
from stoker.gateway.transfer import Transfer
from stoker.gateway.web import WebGateway
from stoker.protocol.parameters import parameters_of
from stoker.server.services import Services


async def serve_web(
    services: Services,
    status: Callable[[], Awaitable[dict[str, Any]]],
    port: int,
    cleanup: AsyncExitStack,
    routes: Sequence[BaseRoute] = (),
    is_stopping: Callable[[], bool] = lambda: False,
) -> HttpServer:
    """The gateway of clients and browsers, on `settings.host`. routes: of other parts, open to everybody. is_stopping: whether containers take nothing new."""
    s = services
    log = AccessLog(s.metrics, enabled=s.settings.log_level in ("debug", "info"), pretty=s.settings.pretty_log)
    cleanup.callback(log.flush)
    admission = Admission(
        s.servers,
        lambda key, secret, app_id, peer: s.proxy_tokens.check(key, secret, s.apps.get(app_id).environment_id, peer),
        s.attempts,
    )
    servers = ServerGateway(
        endpoints=s.endpoints,
        servers=s.servers,
        admission=admission,
        log=log,
        is_stopping=is_stopping,
        body_silence=s.settings.web_silence_seconds,
    )
    cleanup.push_async_callback(servers.close)
    web = WebGateway(
        make_application(s, status, routes),
        endpoints=s.endpoints,
        functions=FunctionGateway(
            s.web_calls,
            redirect_after=s.settings.web_redirect_seconds,
            is_stopping=is_stopping,
            body_silence=s.settings.web_silence_seconds,
        ),
        admission=admission,
        log=log,
    )
    server = HttpServer(web, servers)
    s.metrics.watch("stoker_http_connections", "Open HTTP connections.", lambda: server.connections)
    s.metrics.watch("stoker_http_open_requests", "Web requests under way.", lambda: log.open)
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
        open_routes=[*routes, *tokens.pages()],
    )


async def serve_containers(services: Services, host: str, port: int, cleanup: AsyncExitStack) -> None:
    """What sandboxes reach over HTTP: signed URLs only, on the address that the runtime gave."""
    await _serve(HttpServer(make_container_gateway(transfer=_transfer(services))), host, port, cleanup)


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

"""The HTTP applications behind web endpoints: one for clients, one with nothing but signed transfers for containers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from stoker.errors import StokerError
from stoker.gateway.answers import disconnect_response, error_response
from stoker.gateway.transfer import Transfer
from stoker.services.metrics import CONTENT_TYPE
from stoker.services.transfer import PREFIX

StatusSource = Callable[[], Awaitable[Mapping[str, Any]]]
"""Gives the document that `stoker status` shows."""

Authenticate = Callable[[str, str], None]
"""Called with (token id, token secret); raises Unauthenticated."""

_HANDLERS: Mapping[Any, Any] = {StokerError: error_response, ClientDisconnect: disconnect_response}


def make_gateway(
    *,
    transfer: Transfer,
    status: StatusSource,
    authenticate: Authenticate,
    metrics: Callable[[], bytes],
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """What clients and browsers reach. metrics: gives them in Prometheus' format, to this machine without and to others with a token as
    `Authorization: Bearer ID.SECRET`. routes: of other parts (web endpoints, the dashboard), after ours."""

    async def get_status(request: Request) -> Response:
        authenticate(request.headers.get("Modal-Token-Id", ""), request.headers.get("Modal-Token-Secret", ""))
        return JSONResponse(await status())

    async def get_metrics(request: Request) -> Response:
        if request.client is None or not ip_address(request.client.host).is_loopback:
            _, _, pair = request.headers.get("Authorization", "").partition(" ")
            authenticate(*(pair.strip().split(".", 1) if "." in pair else ("", "")))
        return Response(metrics(), media_type=CONTENT_TYPE)

    own: list[BaseRoute] = [
        Route("/healthz", _healthz, methods=["GET"]),
        Route("/metrics", get_metrics, methods=["GET"]),
        Route(PREFIX + "/status", get_status, methods=["GET"]),
        *transfer.routes(),
    ]
    return Starlette(routes=[*own, *routes], exception_handlers=_HANDLERS)


def make_container_gateway(*, transfer: Transfer) -> Starlette:
    """What containers reach besides web endpoints: URLs that the server signed for them, nothing else."""
    return Starlette(routes=transfer.routes(), exception_handlers=_HANDLERS)


async def _healthz(_request: Request) -> Response:
    return PlainTextResponse("ok")

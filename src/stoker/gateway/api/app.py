"""The HTTP applications behind web endpoints: one for clients, closed but for what is declared open, and one with nothing but signed transfers for
containers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from stoker.errors import StokerError
from stoker.gateway.api.guard import Authenticate, Guard, is_from_here, peer_of, shown_token
from stoker.gateway.transfer import Transfer
from stoker.gateway.web.answers import disconnect_response, error_response
from stoker.services.files.transfer import PREFIX
from stoker.services.telemetry.metrics import CONTENT_TYPE

StatusSource = Callable[[], Awaitable[Mapping[str, Any]]]
"""Gives the document that `stoker status` shows."""

_HANDLERS: Mapping[Any, Any] = {StokerError: error_response, ClientDisconnect: disconnect_response}


def make_gateway(
    *,
    transfer: Transfer,
    status: StatusSource,
    authenticate: Authenticate,
    metrics: Callable[[], bytes],
    administration: Sequence[BaseRoute] = (),
    open_routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """What clients and browsers reach. metrics: gives them in Prometheus' format, to this machine without and to others with a token.

    administration: routes of other parts, below `PREFIX`, for those with a token: nothing gets to them past the guard. open_routes: those that
    anybody may ask, each of which has a check of its own where it needs one."""

    async def get_status(request: Request) -> Response:
        return JSONResponse(await status())

    async def get_metrics(request: Request) -> Response:
        if not is_from_here(request):
            authenticate(*shown_token(request), peer_of(request))
        return Response(metrics(), media_type=CONTENT_TYPE)

    return Starlette(
        routes=[
            Route("/healthz", _healthz, methods=["GET"]),
            Route("/metrics", get_metrics, methods=["GET"]),
            *transfer.routes(),
            *open_routes,
            Mount(
                PREFIX,
                routes=[Route("/status", get_status, methods=["GET"]), *administration],
                middleware=[Middleware(Guard, authenticate=authenticate)],
            ),
        ],
        exception_handlers=_HANDLERS,
    )


def make_container_gateway(*, transfer: Transfer) -> Starlette:
    """What containers reach besides web endpoints: URLs that the server signed for them, nothing else."""
    return Starlette(routes=transfer.routes(), exception_handlers=_HANDLERS)


async def _healthz(_request: Request) -> Response:
    return PlainTextResponse("ok")

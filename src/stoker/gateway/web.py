"""The web side of the gateway: finds whose a request is, checks its token, and lets the right part answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from stoker import errors
from stoker.gateway.endpoint import FunctionGateway
from stoker.gateway.exchange import Exchange, Message, Receive, Send
from stoker.gateway.server_proxy import ServerGateway
from stoker.services.endpoints import Endpoints, Place
from stoker.services.functions import ServerSpec
from stoker.services.servers import Servers

CheckToken = Callable[[str, str, str], bool]
"""Called with the id and the secret of a proxy token and the id of an app; whether the token opens that app's endpoints."""

_NO_TOKEN = (
    "This endpoint wants a proxy token: send its parts in the headers Modal-Key and Modal-Secret, or as "
    "`Authorization: Bearer ID.SECRET`. "
    "`modal workspace proxy-tokens create` makes one."
)
_STATUS: tuple[tuple[type[errors.StokerError], int], ...] = (
    (errors.NotFound, 404),
    (errors.ResourceExhausted, 429),
    (errors.Unavailable, 503),
    (errors.FailedPrecondition, 503),
    (errors.StokerError, 500),
)
_log = structlog.get_logger(__name__)


class WebGateway:
    """An ASGI application: web endpoints by host name or path, everything else by `other`."""

    def __init__(
        self,
        other: Any,
        *,
        endpoints: Endpoints,
        functions: FunctionGateway,
        servers: Servers,
        proxy: ServerGateway,
        check_token: CheckToken,
    ) -> None:
        self._other = other
        self._endpoints = endpoints
        self._functions = functions
        self._servers = servers
        self._proxy = proxy
        self._check_token = check_token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._other(scope, receive, send)
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        try:
            place = self._endpoints.locate(host, scope["path"])
        except errors.NotFound as error:
            await _not_found(scope, receive, send, str(error))
            return
        if place is None:
            await self._other(scope, receive, send)
        else:
            await self._answer(place, Exchange(scope, receive, send, place))

    async def _answer(self, place: Place, exchange: Exchange) -> None:
        target = place.endpoint.target
        try:
            if target.needs_token and not self._has_token(exchange):
                await exchange.refuse(401, _NO_TOKEN, [(b"www-authenticate", b"Modal-Key")])
            elif isinstance(target, ServerSpec):
                await self._proxy.answer(exchange, target)
            else:
                await self._functions.answer(exchange, target)
        except errors.StokerError as error:
            await _refuse(exchange, error)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("web request failed", label=place.endpoint.label, request_id=exchange.request_id.decode())
            await exchange.refuse(502, "The answer of the app could not be passed on.")
        finally:
            exchange.log()

    def _has_token(self, exchange: Exchange) -> bool:
        endpoint, headers = exchange.endpoint, exchange.headers
        bearer = headers.get(b"modal-authorization", b"").decode("latin-1").removeprefix("Bearer ")
        if bearer and isinstance(endpoint.target, ServerSpec):
            return self._servers.is_token(endpoint.function_id, bearer)
        key, secret = (headers.get(name, b"").decode("latin-1") for name in (b"modal-key", b"modal-secret"))
        scheme, _, pair = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if not key and scheme.lower() == "bearer":
            key, _, secret = pair.strip().partition(".")
        return bool(key and secret) and self._check_token(key, secret, endpoint.app_id)


async def _refuse(exchange: Exchange, error: errors.StokerError) -> None:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    headers = []
    if isinstance(error, errors.ResourceExhausted):
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
    await exchange.refuse(status, str(error), headers)


async def _not_found(scope: Message, receive: Receive, send: Send, sentence: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = sentence.encode() + b"\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})

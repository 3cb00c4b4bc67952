"""The web side of the gateway: finds whose a request is, checks its token, and lets the right part answer."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from stoker import errors
from stoker.gateway.web.access import AccessLog
from stoker.gateway.web.admission import NO_TOKEN, Admission, refusal
from stoker.gateway.web.endpoint import FunctionGateway
from stoker.gateway.web.exchange import BadAnswer, Exchange, Message, Receive, Send
from stoker.services.apps.endpoints import Endpoints, Place
from stoker.services.functions.spec import ServerSpec

_log = structlog.get_logger(__name__)


class WebGateway:
    """An ASGI application: functions by host name or path, everything else by `other`. Requests to an @app.server never get here."""

    def __init__(
        self,
        other: Any,
        *,
        endpoints: Endpoints,
        functions: FunctionGateway,
        admission: Admission,
        log: AccessLog,
    ) -> None:
        self._other = other
        self._endpoints = endpoints
        self._functions = functions
        self._admission = admission
        self._access = log

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
        self._access.begin()
        try:
            if isinstance(target, ServerSpec):
                raise errors.NotFound("Write the label of a server in this URL without escapes.")
            if not self._admission.admits(place.endpoint, exchange.headers, exchange.peer):
                await exchange.refuse(401, NO_TOKEN, [(b"www-authenticate", b"Modal-Key")])
            else:
                await self._functions.answer(exchange, target)
        except errors.StokerError as error:
            status, headers = refusal(error)
            await exchange.refuse(status, str(error), headers)
        except asyncio.CancelledError:
            raise
        except BadAnswer as fault:
            await exchange.refuse(502, str(fault))
        except Exception:
            _log.exception("web request failed", label=place.endpoint.label, request_id=exchange.request_id.decode())
            await exchange.refuse(502, "The answer of the app could not be passed on.")
        finally:
            self._access.add(exchange.summary())


async def _not_found(scope: Message, receive: Receive, send: Send, sentence: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = sentence.encode() + b"\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})

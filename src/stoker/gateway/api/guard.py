"""The check in front of every route that is not declared open: a request needs a token that works."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from starlette.requests import HTTPConnection

from stoker.services.access.attempts import Peer
from stoker.services.access.tokens import Token

Authenticate = Callable[[str, str, Peer], Token]
"""Called with a token's id and secret and with who shows them; gives the token. Raises Unauthenticated."""


class Guard:
    """An ASGI middleware: lets a request through to `app` when its token works, which is then `request.state.token`."""

    def __init__(self, app: Any, authenticate: Authenticate) -> None:
        self._app = app
        self._authenticate = authenticate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Raises Unauthenticated."""
        if scope["type"] != "http":  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        request = HTTPConnection(scope)
        request.state.token = self._authenticate(*shown_token(request), peer_of(request))
        await self._app(scope, receive, send)


def shown_token(request: HTTPConnection) -> tuple[str, str]:
    """Id and secret from the headers Modal-Token-Id and Modal-Token-Secret, or from `Authorization: Bearer ID.SECRET`; ("", "") for none."""
    token_id = request.headers.get("Modal-Token-Id", "")
    if token_id:
        return token_id, request.headers.get("Modal-Token-Secret", "")
    scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
    token_id, _, secret = pair.strip().partition(".") if scheme.lower() == "bearer" else ("", "", "")
    return token_id, secret


def peer_of(request: HTTPConnection) -> Peer:
    return Peer(request.client.host if request.client is not None else "", "http")


def is_from_here(request: HTTPConnection) -> bool:
    """Whether a request comes from a program on this machine. A proxy here that says for whom it asks is none."""
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False

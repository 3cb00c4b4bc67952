"""Where those who check containers' identity tokens find the key. Open to everybody: the key is a public one."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stoker.services.containers.identity_tokens import DISCOVERY_PATH, KEYS_PATH, IdentityTokens


class IdentityRoutes:
    def __init__(self, tokens: IdentityTokens) -> None:
        self._tokens = tokens

    def routes(self) -> list[Route]:
        return [
            Route(DISCOVERY_PATH, self._discovery, methods=["GET"]),
            Route(KEYS_PATH, self._keys, methods=["GET"]),
        ]

    async def _discovery(self, request: Request) -> Response:
        return JSONResponse(self._tokens.discovery())

    async def _keys(self, request: Request) -> Response:
        return JSONResponse(self._tokens.keys())

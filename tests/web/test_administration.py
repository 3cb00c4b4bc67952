"""Routes of the gateway are closed unless they are declared open."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.gateway.api.app import make_container_gateway, make_gateway
from stoker.gateway.api.guard import Guard
from stoker.server.addresses import Ports
from stoker.server.sandboxes import open_runtime
from stoker.server.services import Services
from stoker.server.web import WebParts, make_application, serve_containers
from tests.conftest import free_port

_OPEN = {
    "/healthz": 200,
    "/metrics": 401,  # to other machines
    "/_stoker/blobs/{blob_id}": 403,  # without a signature
    "/_stoker/blobs/{blob_id}/parts/{index:int}": 403,
    "/_stoker/blobs/{blob_id}/complete": 403,
    "/_stoker/volumes/{volume_id}/uploads/{key}/{index:int}/{digest}": 403,
    "/_stoker/volumes/{volume_id}/files/{inode:int}/{start:int}-{end:int}/{how}/{name}": 403,
    "/_stoker/nfs/{nfs_id}/{inode:int}/{size:int}/{name}": 403,
    "/_stoker/token-requests/{page}": 404,
    "/.well-known/openid-configuration": 200,  # the public key of identity tokens
    "/.well-known/jwks.json": 200,
}
"""What anybody may ask, and what is answered without a token, a signature or a secret name. An open route gets here by a decision."""


def walk(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(path, method) of every route."""
    for route in routes:
        if isinstance(route, Mount):
            yield from walk(list(route.routes), prefix + route.path)
        else:
            assert isinstance(route, Route), f"{route} is of a kind that this test does not know"
            yield from ((prefix + route.path, method) for method in route.methods or {"GET"})


async def ask(app: Any, method: str, path: str, headers: dict[str, str] | None = None, kind: str = "http") -> int:
    """The status of the answer to another machine; that of a websocket's close for one that is refused."""
    seen: list[int] = []

    async def send(message: Any) -> None:
        seen.append(message.get("status") or message.get("code") or 0)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    encoded = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": kind, "method": method, "path": path, "query_string": b"", "headers": encoded}
    scope |= {"client": ("203.0.113.7", 1), "server": ("h", 1), "root_path": "", "scheme": "http"}
    await app(scope, receive, send)
    return seen[0]


def filled(path: str) -> str:
    return re.sub(r"\{\w+\}", "x", re.sub(r"\{\w+:int\}", "1", path))


def test_every_route_but_the_open_ones_wants_a_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as cleanup:
            services = await opened(tmp_path, cleanup)
            app = make_application(services, _nothing)
            found = list(walk(list(app.routes)))
            assert {path for path, _ in found} >= set(_OPEN)
            closed = [(path, method) for path, method in found if path not in _OPEN]
            assert len(closed) >= 20
            assert services.new_token is not None
            token = dict(zip(("Modal-Token-Id", "Modal-Token-Secret"), services.new_token, strict=True))
            wrong = token | {"Modal-Token-Secret": "as-wrong"}
            bearer = {"Authorization": "Bearer " + ".".join(services.new_token)}
            for path, method in found:
                expected = _OPEN.get(path, 401)
                assert await ask(app, method, filled(path)) == expected, f"{method} {path}"
                assert await ask(app, method, filled(path), wrong) == expected, f"{method} {path}"
            # With a token they are reached: the answer is whatever they say to a request that makes no sense.
            for headers in (token, bearer):
                assert await ask(app, "GET", "/_stoker/status", headers) == 200
                assert await ask(app, "GET", "/_stoker/tokens", headers) == 200
            assert await ask(app, "GET", "/_stoker/snapshots/x", token) == 404
            # What is no route does not tell so without a token.
            for path in ("/_stoker/nothing", "/_stoker/", "/_stoker/tokens/", "/_stoker//tokens"):
                assert await ask(app, "GET", path) in (401, 307), path
            assert await ask(app, "PROPFIND", "/_stoker/tokens") == 401
            assert await ask(app, "GET", "/_stoker/status", kind="websocket") == 1008

    asyncio.run(main())


async def opened(directory: Path, cleanup: AsyncExitStack) -> Services:
    settings, data, ports = Settings(data=directory, runtime="process"), DataDir(directory), Ports(clients=1)
    data.create()
    services = Services(settings, data, cleanup)
    runtime, builder = await open_runtime(settings, data, ports)
    await services.open(ports=ports, runtime=runtime, builder=builder)
    return services


async def _nothing() -> dict[str, Any]:
    return {}


def test_a_new_route_is_closed_though_it_checks_nothing() -> None:
    called: list[str] = []

    async def careless(request: Request) -> Response:
        called.append(request.state.token)
        return PlainTextResponse("done")

    def authenticate(token_id: str, secret: str, peer: Any) -> Any:
        from stoker.errors import Unauthenticated

        if (token_id, secret) != ("ak-1", "as-1"):
            raise Unauthenticated("No.")
        return "the token"

    async def socket(websocket: Any) -> None:
        called.append("socket")

    nothing: Any = None
    routes: list[BaseRoute] = [
        Route("/new", careless, methods=["GET", "POST"]),
        WebSocketRoute("/socket", socket),
        Mount("/deep", routes=[Route("/down", careless)]),
    ]
    transfer: Any = type("Transfer", (), {"routes": lambda self: []})()
    app = make_gateway(
        transfer=transfer, status=nothing, authenticate=authenticate, metrics=nothing, administration=routes
    )

    async def main() -> None:
        for path, method in (("/_stoker/new", "GET"), ("/_stoker/new", "POST"), ("/_stoker/deep/down", "GET")):
            assert await ask(app, method, path) == 401
        assert await ask(app, "GET", "/_stoker/socket", kind="websocket") == 1008
        assert called == []
        good = {"Modal-Token-Id": "ak-1", "Modal-Token-Secret": "as-1"}
        assert await ask(app, "GET", "/_stoker/new", good) == 200
        assert called == ["the token"]

    asyncio.run(main())


def test_containers_reach_web_endpoints_and_nothing_else_of_what_clients_reach(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as cleanup:
            services = await opened(tmp_path, cleanup)
            parts = WebParts(services, cleanup, lambda: False)
            port = free_port()
            await serve_containers(services, parts, "127.0.0.1", port, cleanup)
            assert services.new_token is not None
            token = dict(zip(("Modal-Token-Id", "Modal-Token-Secret"), services.new_token, strict=True))

            async def answer(method: str, target: str, host: str = "172.21.0.1") -> tuple[int, str]:
                head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": host, **token}.items())
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"{method} {target} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode())
                text = (await reader.read()).decode()
                writer.close()
                return int(text.split()[1]), text

            # Whoever shows a token is answered as everybody: these routes are not there.
            for path, method in walk(list(make_application(services, _nothing).routes)):
                expected = 403 if _OPEN.get(path) == 403 else 404
                for host in ("172.21.0.1", "localhost", "127.0.0.1:7691"):
                    assert (await answer(method, filled(path), host))[0] == expected, f"{method} {path} of {host}"
            for target in (
                "/w/../_stoker/status",
                "/w//_stoker/status",
                "//_stoker/status",
                "http://localhost/_stoker/status",
            ):
                assert (await answer("GET", target))[0] == 404, target
            # Web endpoints are looked for, by a path and by a name.
            for target, host in (
                ("/w/local--a-b/_stoker/status", "172.21.0.1"),
                ("/_stoker/status", "local--a-b.localhost"),
            ):
                status, text = await answer("GET", target, host)
                assert status == 404 and "No running app has the web label 'local--a-b'" in text

    asyncio.run(main())


def test_containers_reach_signed_transfers_alone_besides_web_endpoints() -> None:
    nothing: Any = None
    from stoker.gateway.transfer import Transfer

    app = make_container_gateway(transfer=Transfer(blobs=nothing, files=nothing, network_files=nothing, signer=nothing))
    paths = {path for path, _ in walk(list(app.routes))}
    assert paths == {path for path, status in _OPEN.items() if status == 403}
    assert not any(isinstance(route, Mount) for route in app.routes)
    for path in ("/healthz", "/metrics", "/_stoker/status", "/_stoker/tokens", "/w/label/"):
        assert asyncio.run(ask(app, "GET", path)) == 404


@pytest.mark.parametrize("headers", [{}, {"Modal-Token-Id": "ak-1"}, {"Authorization": "Basic ak-1.as-1"}])
def test_the_guard_lets_nothing_through_by_itself(headers: dict[str, str]) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached")

    def refuse(token_id: str, secret: str, peer: Any) -> Any:
        assert secret == ""
        raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(ask(Guard(inner, refuse), "GET", "/", headers))

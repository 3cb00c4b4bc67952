"""HTTP and websockets for @app.server: passed on as they are to the port of a container, with no call in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from stoker.gateway.exchange import Exchange, HeaderList, Message
from stoker.services.functions import ServerSpec
from stoker.services.servers import Servers, Slot

_KEEP_ALIVE = 4.0  # seconds an idle connection is kept; most servers close theirs after 5, and must not do so first
_QUEUED_MESSAGES = 2  # of a body, between the client and the container
_NO_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_CONNECT_ATTEMPTS = 3
_LOST = "The server in the container closed the connection before it answered; `modal app logs` shows why."


class ServerGateway:
    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def answer(self, exchange: Exchange, spec: ServerSpec) -> None:
        """Raises StokerError when no container can take the request."""
        if exchange.is_websocket:
            first = await exchange.receive()
            if first["type"] != "websocket.connect":
                return
            work = self._websocket(exchange, spec)
            await _until_gone(work, asyncio.Event().wait())
            return
        body: asyncio.Queue[Message] = asyncio.Queue(_QUEUED_MESSAGES)
        await _until_gone(self._http(exchange, spec, body), _watch(exchange, body))

    async def _http(self, exchange: Exchange, spec: ServerSpec, body: asyncio.Queue[Message]) -> None:
        for attempt in range(_CONNECT_ATTEMPTS):
            async with self._servers.slot(exchange.endpoint.function_id, spec) as slot:
                try:
                    await self._exchange(exchange, slot, body)
                except aiohttp.ClientConnectorError:
                    # Nothing was sent yet; the container may be about to end.
                    if attempt + 1 == _CONNECT_ATTEMPTS:
                        await exchange.refuse(502, "The server in the container does not listen on its port any more.")
                except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
                    await exchange.refuse(502, _LOST)
            if exchange.status:
                return

    async def _exchange(self, exchange: Exchange, slot: Slot, body: asyncio.Queue[Message]) -> None:
        request = self._client().request(
            exchange.method,
            _url(exchange, slot, "http"),
            headers=_headers(exchange),
            data=_chunks(body) if _has_body(exchange) else None,
            allow_redirects=False,
            skip_auto_headers=_NO_AUTO_HEADERS,
        )
        async with request as response:
            await exchange.send(
                {"type": "http.response.start", "status": response.status, "headers": list(response.raw_headers)}
            )
            async for chunk in response.content.iter_any():
                await exchange.send({"type": "http.response.body", "body": chunk, "more_body": True})
        await exchange.send({"type": "http.response.body", "body": b""})

    async def _websocket(self, exchange: Exchange, spec: ServerSpec) -> None:
        async with self._servers.slot(exchange.endpoint.function_id, spec) as slot:
            try:
                connection = await self._client().ws_connect(
                    _url(exchange, slot, "ws"),
                    headers=_headers(exchange),
                    protocols=exchange.scope.get("subprotocols", ()),
                    max_msg_size=0,
                    autoping=True,
                )
            except aiohttp.WSServerHandshakeError as error:
                await exchange.refuse(error.status, "The server in the container refused the websocket.")
                return
            except (aiohttp.ClientError, OSError):
                await exchange.refuse(502, _LOST)
                return
            async with connection:
                await exchange.send({"type": "websocket.accept", "subprotocol": connection.protocol, "headers": []})
                await _until_gone(_from_server(exchange, connection), _to_server(exchange, connection))

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=64 << 10,
                max_field_size=64 << 10,
            )
        return self._session


async def _until_gone(work: Any, watch: Any) -> None:
    """Runs `work`, but no longer than `watch`. Raises what `work` raises."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(watch)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]


async def _watch(exchange: Exchange, body: asyncio.Queue[Message]) -> None:
    """Moves the body along; ends when the client is gone."""
    has_body = _has_body(exchange)
    while True:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            return
        if has_body:
            await body.put(message)


async def _chunks(body: asyncio.Queue[Message]) -> AsyncIterator[bytes]:
    while True:
        message = await body.get()
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


async def _from_server(exchange: Exchange, connection: aiohttp.ClientWebSocketResponse) -> None:
    async for message in connection:
        if message.type is aiohttp.WSMsgType.TEXT:
            await exchange.send({"type": "websocket.send", "text": message.data})
        elif message.type is aiohttp.WSMsgType.BINARY:
            await exchange.send({"type": "websocket.send", "bytes": message.data})
    code = connection.close_code or 1011
    await exchange.send({"type": "websocket.close", "code": code if code not in (1005, 1006) else 1000})


async def _to_server(exchange: Exchange, connection: aiohttp.ClientWebSocketResponse) -> None:
    while True:
        message = await exchange.receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code", 1005)
            await connection.close(code=code if code not in (1005, 1006) else 1000)
            return
        with contextlib.suppress(ConnectionError):
            if message.get("text") is not None:
                await connection.send_str(message["text"])
            else:
                await connection.send_bytes(message.get("bytes") or b"")


def _url(exchange: Exchange, slot: Slot, scheme: str) -> URL:
    host = f"[{slot.host}]" if ":" in slot.host else slot.host
    query = exchange.scope["query_string"]
    target = exchange.raw_path + (b"?" + query if query else b"")
    return URL(f"{scheme}://{host}:{slot.port}{target.decode('latin-1')}", encoded=True)


def _headers(exchange: Exchange) -> CIMultiDict[str]:
    headers: HeaderList = exchange.forwarded_headers()
    client = exchange.scope.get("client")
    if client:
        headers.append((b"x-forwarded-for", client[0].encode()))
    headers.append((b"x-forwarded-proto", exchange.scope["scheme"].replace("ws", "http").encode()))
    if exchange.prefix:
        headers.append((b"x-forwarded-prefix", exchange.prefix.encode()))
    return CIMultiDict((n.decode("latin-1"), v.decode("latin-1")) for n, v in headers)


def _has_body(exchange: Exchange) -> bool:
    headers = exchange.headers
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

"""HTTP and websockets for functions: every request becomes a call, its body and its answer flow while the call runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

import anyio

from stoker.errors import Unavailable
from stoker.gateway.web.answers import BODY_SILENCE, STOPPING
from stoker.gateway.web.exchange import CALL_PARAMETER, Exchange, Message
from stoker.gateway.web.heads import HeaderList
from stoker.services.calls.webcalls import WebCall, WebCalls
from stoker.services.functions.spec import WebSpec

_FIRST_BYTES = 1.0  # seconds to wait for the body before the app begins without it
_REDIRECT_AFTER = 150.0  # seconds without an answer until the client is told to ask again

_GONE, _SILENT = "gone", "silent"  # how a client ends

_ENDINGS = {
    "success": (500, "The app ended without an answer."),
    "failure": (500, "The app failed; `modal app logs` shows why."),
    "timeout": (504, "The app did not answer within the timeout of its function."),
    "cancelled": (503, "The request was cancelled: the app is being stopped."),
    "init_failed": (500, "The app could not start; `modal app logs` shows why."),
}


class FunctionGateway:
    """Answers for functions. redirect_after: seconds a client waits for an answer to begin before it gets a 303. is_stopping: whether
    containers take nothing new, so that a request would wait until the server is gone. body_silence: seconds for which a client may send
    nothing of an unfinished body."""

    def __init__(
        self,
        web: WebCalls,
        *,
        redirect_after: float = _REDIRECT_AFTER,
        is_stopping: Callable[[], bool] = lambda: False,
        body_silence: float = BODY_SILENCE,
    ) -> None:
        self._web = web
        self._body_silence = body_silence
        self._is_stopping = is_stopping
        self._redirect_after = redirect_after

    async def answer(self, exchange: Exchange, spec: WebSpec) -> None:
        """Raises StokerError when the request cannot be given to the function."""
        if exchange.is_websocket:
            await self._websocket(exchange, spec)
        elif (call_id := _asked_for(exchange)) and exchange.method in ("GET", "HEAD"):
            await self._follow(exchange, self._web.claim(call_id, exchange.endpoint.label), None)
        else:
            first = await _first_of_body(exchange)
            if first["type"] == "http.disconnect":
                return
            await self._follow(exchange, await self._start(exchange, spec, first), first)

    async def _start(self, exchange: Exchange, spec: WebSpec, first: Message) -> WebCall:
        if self._is_stopping():
            raise Unavailable(STOPPING)
        scope = _scope(exchange, spec)
        return await self._web.start(exchange.endpoint.function_id, spec.method, exchange.endpoint.label, scope, first)

    async def _follow(self, exchange: Exchange, web: WebCall, first: Message | None) -> None:
        """first: the message that began the call; None when this exchange only asks for the answer of an earlier one."""
        exchange.call_id = web.id
        feeder = asyncio.create_task(_feed(exchange, web, first, self._body_silence))
        try:
            if await self._answer_begins(exchange, web, feeder):
                await _pass_on(exchange, web)
                await _conclude(exchange, web, feeder)
            elif first is None and not exchange.complete:
                web.detach()  # whoever asked is gone, and may ask again
        finally:
            self._leave(exchange, web, feeder, {"type": "http.disconnect"})

    async def _answer_begins(self, exchange: Exchange, web: WebCall, feeder: asyncio.Task[str]) -> bool:
        """Waits for the answer; False when nobody is there to read it, or was told to ask for it later."""
        while not web.answered.done():
            either: list[asyncio.Future[Any]] = [web.answered, feeder]
            await asyncio.wait(either, timeout=self._redirect_after, return_when=asyncio.FIRST_COMPLETED)
            if feeder.done() and not web.answered.done():
                if feeder.result() == _SILENT:
                    sentence = f"Nothing was received for {self._body_silence:g} seconds."
                    await exchange.refuse(408, sentence, close=True)
                return False
            if not web.answered.done() and web.body_complete:
                web.detach()
                location = _location(exchange, web.id)
                await exchange.refuse(303, "The answer is not there yet; ask again.", [(b"location", location)])
                return False
        return True

    async def _websocket(self, exchange: Exchange, spec: WebSpec) -> None:
        first = await exchange.receive()
        if first["type"] != "websocket.connect":
            return
        web = await self._start(exchange, spec, first)
        exchange.call_id = web.id
        feeder = asyncio.create_task(_feed_websocket(exchange, web))
        try:
            await _pass_on(exchange, web)
            await _conclude(exchange, web, feeder)
        finally:
            self._leave(exchange, web, feeder, {"type": "websocket.disconnect", "code": 1006})

    def _leave(self, exchange: Exchange, web: WebCall, feeder: asyncio.Task[str], goodbye: Message) -> None:
        feeder.cancel()
        if web.followed and not exchange.complete and not web.over:
            web.hang_up(goodbye)
        self._web.release(web)


async def _pass_on(exchange: Exchange, web: WebCall) -> None:
    async with contextlib.aclosing(web.messages()) as messages:
        async for message in messages:
            await exchange.send(message)
            if exchange.complete:
                break


async def _conclude(exchange: Exchange, web: WebCall, feeder: asyncio.Task[str]) -> None:
    """After the last message: the answer is complete, the client is gone, or the app ended before its time."""
    if exchange.complete:
        web.complete()
    elif not feeder.done():
        kind, _ = await web.ending()
        if exchange.is_websocket and exchange.status and kind == "success":
            await exchange.send({"type": "websocket.close", "code": 1000})
        else:
            status, sentence = _ENDINGS[kind]
            await exchange.refuse(status, sentence)


async def _feed(exchange: Exchange, web: WebCall, first: Message | None, body_silence: float) -> str:
    """Passes the body on until it is complete, then waits for the client to go away."""
    more = first is not None and first.get("more_body", False)
    while True:
        if more:
            with anyio.move_on_after(body_silence) as silence:
                message = await exchange.receive()
            if silence.cancelled_caught:
                web.hang_up({"type": "http.disconnect"})  # or the app would wait for the rest, with its place taken
                return _SILENT
        else:
            message = await exchange.receive()
        if message["type"] == "http.disconnect":
            if first is not None or web.answered.done():
                web.hang_up(message)
            return _GONE
        more = message.get("more_body", False)
        if first is not None:
            await web.send(message)


async def _feed_websocket(exchange: Exchange, web: WebCall) -> str:
    while True:
        message = await exchange.receive()
        if message["type"] == "websocket.disconnect":
            web.hang_up(message)
            return _GONE
        await web.send(message)


async def _first_of_body(exchange: Exchange) -> Message:
    """The first message, with an empty body when none comes soon: the app must begin within seconds of the call."""
    with anyio.move_on_after(_FIRST_BYTES):
        return await exchange.receive()  # which loses nothing when it is broken off
    return {"type": "http.request", "body": b"", "more_body": True}


def _scope(exchange: Exchange, spec: WebSpec) -> Message:
    """The ASGI scope as the app gets it. Plain data only, for it is pickled."""
    scope, prefix = exchange.scope, exchange.prefix
    headers: HeaderList = exchange.forwarded_headers()
    path, raw_path, root_path = scope["path"], scope.get("raw_path") or scope["path"].encode(), prefix
    if spec.proxies:
        # Its proxy in the container makes a URL of the path, so what is quoted must stay so.
        path, raw_path, root_path = exchange.raw_path.decode("latin-1"), exchange.raw_path, ""
        if prefix:
            headers.append((b"x-forwarded-prefix", prefix.encode()))
    elif path == prefix:
        path, raw_path = path + "/", raw_path + b"/"
    made: Message = {
        "type": scope["type"],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": scope["http_version"],
        "scheme": scope["scheme"],
        "path": path,
        "raw_path": raw_path,
        "query_string": scope["query_string"],
        "root_path": root_path,
        "headers": headers,
        "client": list(scope["client"]) if scope.get("client") else None,
        "server": list(scope["server"]) if scope.get("server") else None,
    }
    if exchange.is_websocket:
        made["subprotocols"] = list(scope.get("subprotocols", ()))
    else:
        made["method"] = scope["method"]
    return made


def _asked_for(exchange: Exchange) -> str:
    query: bytes = exchange.scope["query_string"]
    if CALL_PARAMETER.encode() not in query:
        return ""
    return dict(parse_qsl(query.decode("latin-1"))).get(CALL_PARAMETER, "")


def _location(exchange: Exchange, call_id: str) -> bytes:
    """The same place, asking for the answer of the call."""
    scope = exchange.scope
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    pairs = [(name, value) for name, value in pairs if name != CALL_PARAMETER]
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    if path.startswith(b"//"):
        path = b"/." + path  # two slashes at the beginning would be another host
    return path.partition(b"?")[0] + b"?" + urlencode([*pairs, (CALL_PARAMETER, call_id)]).encode()

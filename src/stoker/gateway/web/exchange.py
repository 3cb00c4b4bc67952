"""One HTTP exchange or websocket with a client of a web endpoint: what came, and how it is answered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from stoker.gateway.web.heads import REQUEST_ID, HeaderList, answered, are_valid, forwarded, request_id
from stoker.gateway.web.relocation import relocated
from stoker.services.apps.endpoints import Endpoint, Place

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CALL_PARAMETER = "__modal_function_call_id"

_WEBSOCKET = frozenset(
    b"sec-websocket-key sec-websocket-version sec-websocket-extensions sec-websocket-accept sec-websocket-protocol".split()
)
_SET_BY_US = frozenset((b"date", b"x-request-id", b"modal-function-call-id"))
_MOST_PATH = 500  # characters that the log shows


class BadAnswer(Exception):
    """What an app wants to send is no answer of HTTP. The message says why."""


class Exchange:
    """`receive` and `send` are those of the ASGI server; answers go through `send`, which completes their headers."""

    def __init__(self, scope: Message, receive: Receive, send: Send, place: Place) -> None:
        self.scope = scope
        self.receive = receive
        self.endpoint: Endpoint = place.endpoint
        self.prefix = place.prefix
        self.is_websocket = scope["type"] == "websocket"
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = request_id(self.headers.get(REQUEST_ID, b""))
        self.call_id = ""
        self.status = 0  # of the answer, 0 before it has begun
        self.complete = False  # nothing more can be sent
        self._send = send
        self._begun = time.perf_counter()
        self._length: int | None = None  # of the answer, as its headers tell it
        self._sent = 0
        self._closes = False  # the connection ends with the answer

    @property
    def method(self) -> str:
        return "WEBSOCKET" if self.is_websocket else str(self.scope["method"])

    @property
    def peer(self) -> str:
        """The address of the client, "" when unknown."""
        client = self.scope.get("client")
        return client[0] if client else ""

    @property
    def path(self) -> str:
        """As the endpoint sees it: without the prefix."""
        return self.scope["path"][len(self.prefix) :] or "/"

    @property
    def raw_path(self) -> bytes:
        raw: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        return raw.partition(b"?")[0][len(self.prefix.encode()) :] or b"/"

    def forwarded_headers(self) -> HeaderList:
        """What of the request's headers concerns the endpoint."""
        headers = forwarded(self.scope["headers"])
        return [header for header in headers if header[0] not in _WEBSOCKET] if self.is_websocket else headers

    async def send(self, message: Message) -> None:
        """Raises BadAnswer; nothing of the message was sent then."""
        kind = message["type"]
        if kind == "http.response.start" and not self.is_websocket:
            status, headers = message["status"], self._answer_headers(message.get("headers", ()))
            if not 200 <= status < 600:
                raise BadAnswer(f"The app answered with the status {status}.")
            self._length = _length(headers)
            self.status, message["headers"] = status, headers
        elif kind == "http.response.body" and not self.is_websocket:
            self._sent += len(message.get("body", b""))
            if self._length is not None and self._sent > self._length and self.method != "HEAD":
                raise BadAnswer(f"The app announced {self._length} bytes and sent more.")
            self.complete = not message.get("more_body", False)
        elif kind == "websocket.accept" and self.is_websocket:
            message["headers"] = self._answer_headers(message.get("headers", ()), dropped=_WEBSOCKET)
            if message.get("subprotocol") not in (None, "", *self.scope.get("subprotocols", ())):
                raise BadAnswer("The app chose a subprotocol that the client did not offer.")
            self.status = 101
        elif kind == "websocket.close" and self.is_websocket:
            self.status = self.status or 403
            self.complete = True
        elif kind == "websocket.send" and self.is_websocket:
            self._sent += len(message.get("bytes") or message.get("text") or b"")
        else:
            raise BadAnswer(f"The app sent {kind!r}, which has no place here.")
        await self._send(message)

    async def refuse(
        self, status: int, sentence: str, headers: HeaderList | None = None, *, close: bool = False
    ) -> None:
        """Answers with an error of ours; breaks off an answer that has begun. close: the connection ends with it."""
        if self.complete:
            return
        if self.is_websocket and self.status:
            await self.send({"type": "websocket.close", "code": 1011, "reason": sentence[:120]})
            return
        if self.status:
            return  # an incomplete answer makes the server close the connection, which tells the client
        body = sentence.encode() + b"\n"
        self._closes = close
        all_headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            *(headers or []),
        ]
        if not self.is_websocket:
            await self.send({"type": "http.response.start", "status": status, "headers": all_headers})
            await self.send({"type": "http.response.body", "body": body})
        elif "websocket.http.response" in (self.scope.get("extensions") or {}):
            self.status, self.complete = status, True
            await self._send({"type": "websocket.http.response.start", "status": status, "headers": all_headers})
            await self._send({"type": "websocket.http.response.body", "body": body})
        else:
            await self.send({"type": "websocket.close", "code": 1011})

    def summary(self) -> Message:
        """What the access log says of it."""
        aborted = not self.complete and self._sent != self._length
        return {
            "label": self.endpoint.label,
            "method": self.method,
            "path": self.path[:_MOST_PATH],
            "status": self.status or None,
            "ms": round((time.perf_counter() - self._begun) * 1000, 1),
            "bytes": self._sent,
            "client": self.peer or None,
            "request_id": self.request_id.decode(),
            **({"call": self.call_id} if self.call_id else {}),
            **({"aborted": True} if aborted else {}),
        }

    def _answer_headers(self, headers: Any, dropped: frozenset[bytes] = frozenset()) -> HeaderList:
        """Raises BadAnswer."""
        kept = answered([(bytes(n).lower(), bytes(v)) for n, v in headers])
        kept = [(n, v) for n, v in kept if n not in _SET_BY_US and n not in dropped]
        if not are_valid(kept):
            raise BadAnswer("The app answered with a header that cannot be, such as one with a line break.")
        path = self.scope.get("raw_path") or self.scope["path"].encode()
        kept = relocated(kept, self.prefix.encode(), path, self.headers.get(b"host", b""))
        kept.append((REQUEST_ID, self.request_id))
        if self._closes:
            kept.append((b"connection", b"close"))
        if self.call_id:
            kept.append((b"modal-function-call-id", self.call_id.encode()))
        return kept


def _length(headers: HeaderList) -> int | None:
    """Of the body, as an answer's headers tell it. Raises BadAnswer."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if not lengths:
        return None
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise BadAnswer("The app answered with a content-length that cannot be.")
    return int(lengths[0])

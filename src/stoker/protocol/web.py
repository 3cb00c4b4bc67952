"""Web requests on the wire: ASGI messages as protobuf, and the input that carries the scope of a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from modal_proto import api_pb2

from stoker.protocol.pickling import pickled
from stoker.services.files.blobs import Blobs
from stoker.services.functions.wire import AsgiMessage

_WHOLE_BLOB = 1 << 20  # a message in a blob of up to this size is read at once


class AsgiWire:
    """Implements `services.wire.WebWire`."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def web_input(self, scope: AsgiMessage, method: str) -> bytes:
        message = api_pb2.FunctionInput(args=pickled(((scope,), {})), data_format=api_pb2.DATA_FORMAT_PICKLE)
        if method:
            message.method_name = method
        encoded: bytes = message.SerializeToString()
        return encoded

    def to_container(self, message: AsgiMessage) -> bytes:
        kind = message["type"]
        wire = api_pb2.Asgi()
        if kind == "http.request":
            wire.http_request.body = message.get("body", b"")
            wire.http_request.more_body = message.get("more_body", False)
        elif kind == "http.disconnect":
            wire.http_disconnect.SetInParent()
        elif kind == "websocket.connect":
            wire.websocket_connect.SetInParent()
        elif kind == "websocket.receive":
            if message.get("text") is not None:
                wire.websocket_receive.text = message["text"]
            else:
                wire.websocket_receive.bytes = message.get("bytes") or b""
        elif kind == "websocket.disconnect":
            wire.websocket_disconnect.code = message.get("code") or 1005
        else:
            raise ValueError(f"{kind} never goes to a container")
        encoded: bytes = wire.SerializeToString()
        return encoded

    async def from_container(self, chunk: bytes) -> AsyncIterator[AsgiMessage]:
        """A large message lies in a blob, and comes in pieces."""
        wire = api_pb2.DataChunk.FromString(chunk)
        if not wire.data_blob_id:
            message = _message(api_pb2.Asgi.FromString(wire.data))
            if message is not None:
                yield message
            return
        async for message in self._from_blob(wire.data_blob_id):
            yield message
        await self._blobs.delete([wire.data_blob_id])

    def ending(self, result: bytes) -> tuple[str, str]:
        wire = api_pb2.GenericResult.FromString(result)
        kind = {
            api_pb2.GenericResult.GENERIC_STATUS_SUCCESS: "success",
            api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT: "timeout",
            api_pb2.GenericResult.GENERIC_STATUS_TERMINATED: "cancelled",
            api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE: "init_failed",
        }.get(wire.status, "failure")
        return kind, wire.exception

    async def _from_blob(self, blob_id: str) -> AsyncIterator[AsgiMessage]:
        size = await self._blobs.size(blob_id)
        start, length = _body_place(await _joined(self._blobs.stream(blob_id, 0, 32)))
        if size <= _WHOLE_BLOB or length == 0 or start + length > size:
            message = _message(api_pb2.Asgi.FromString(await self._blobs.read(blob_id)))
            if message is not None:
                yield message
            return
        async for piece in self._blobs.stream(blob_id, start, start + length):
            yield {"type": "http.response.body", "body": piece, "more_body": True}
        rest = await _joined(self._blobs.stream(blob_id, start + length, size))
        yield {
            "type": "http.response.body",
            "body": b"",
            "more_body": api_pb2.Asgi.HttpResponseBody.FromString(rest).more_body,
        }


def _message(wire: Any) -> AsgiMessage | None:
    """The ASGI message, None for one that this wire does not carry."""
    kind = wire.WhichOneof("type")
    if kind == "http_response_body":
        body = wire.http_response_body
        return {"type": "http.response.body", "body": body.body, "more_body": body.more_body}
    if kind == "http_response_start":
        start = wire.http_response_start
        return {"type": "http.response.start", "status": start.status, "headers": _pairs(start.headers)}
    if kind == "websocket_accept":
        accept = wire.websocket_accept
        subprotocol = accept.subprotocol if accept.HasField("subprotocol") else None
        return {"type": "websocket.accept", "subprotocol": subprotocol, "headers": _pairs(accept.headers)}
    if kind == "websocket_send":
        if wire.websocket_send.WhichOneof("content") == "text":
            return {"type": "websocket.send", "text": wire.websocket_send.text}
        return {"type": "websocket.send", "bytes": wire.websocket_send.bytes}
    if kind == "websocket_close":
        close = wire.websocket_close
        code = close.code if close.HasField("code") else 1000
        return {"type": "websocket.close", "code": code, "reason": close.reason}
    return None


def _pairs(flat: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    values = iter(flat)
    return list(zip(values, values, strict=False))


def _body_place(head: bytes) -> tuple[int, int]:
    """Where the body lies in a serialised Asgi{http_response_body{body, ...}} that begins with `head`: (offset, length); (0, 0) when it is
    another message. Lets a body of many MiB be read in pieces."""
    try:
        if head[0] != 0x22:  # field 4, http_response_body
            return 0, 0
        _, at = _varint(head, 1)
        if head[at] != 0x0A:  # field 1, body
            return 0, 0
        length, at = _varint(head, at + 1)
    except IndexError:
        return 0, 0
    return at, length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return value, at + 1
        at, shift = at + 1, shift + 7


async def _joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])

"""Bodies of requests to the server itself."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
from starlette.requests import Request

from stoker.errors import InvalidArgument, Unavailable

_SILENCE = 60.0  # seconds in which something must come
_LEAST_BYTES = 64 << 10  # that must come in that time
_MOST_JSON = 1 << 20


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """A body as it comes. Raises Unavailable when the client falls silent or sends drops, ClientDisconnect when it goes."""
    stream = request.stream().__aiter__()
    waited, came = 0.0, 0  # how long we wait for ourselves does not count
    while True:
        begun = time.monotonic()
        try:
            with anyio.fail_after(_SILENCE):
                piece = await stream.__anext__()
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Unavailable(f"Nothing was received for {_SILENCE:.0f} seconds. Send the upload again.") from None
        waited += time.monotonic() - begun
        came += len(piece)
        if came >= _LEAST_BYTES:
            waited, came = 0.0, 0
        elif waited > _SILENCE:
            raise Unavailable(f"Next to nothing was received for {_SILENCE:.0f} seconds. Send the upload again.")
        yield piece


async def whole(request: Request, limit: int) -> bytes:
    """All of a body. Raises InvalidArgument when it is longer than `limit` bytes, and as `pieces`."""
    body = bytearray()
    async for piece in pieces(request):
        body += piece
        if len(body) > limit:
            raise InvalidArgument(f"The body of this request is longer than {limit} bytes.")
    return bytes(body)


async def json_object(request: Request) -> dict[str, Any]:
    """Raises InvalidArgument when the body is none, and as `whole`."""
    try:
        body = json.loads(await whole(request, _MOST_JSON) or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise InvalidArgument("The body of this request must be a JSON object.")
    return body

"""Domain errors as HTTP answers; the only place where the gateway does that."""

from __future__ import annotations

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from stoker import errors

STOPPING = "The server is stopping. Try again soon."
_STATUS: dict[type[errors.StokerError], int] = {
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.InvalidArgument: 400,
    errors.FailedPrecondition: 409,
    errors.TooManyAttempts: 429,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.ResourceExhausted: 507,
    errors.Unavailable: 503,
    errors.Damaged: 410,
    errors.Unimplemented: 501,
}
_log = structlog.get_logger(__name__)


async def error_response(request: Request, error: Exception) -> Response:
    """The answer to an error of ours: its own sentence as plain text."""
    assert isinstance(error, errors.StokerError)
    status = next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), 409)
    headers: dict[str, str] = {}
    if isinstance(error, (errors.ResourceExhausted, errors.TooManyAttempts)):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    # What is left of a refused upload is not read: the connection cannot be used for another request.
    if request.method in ("PUT", "POST"):
        headers["Connection"] = "close"
    return PlainTextResponse(str(error), status, headers)


async def disconnect_response(request: Request, error: Exception) -> Response:
    """Nobody is there to read it; what was received is gone already."""
    assert isinstance(error, ClientDisconnect)
    _log.debug("upload aborted by the client", path=request.url.path)
    return PlainTextResponse("The connection was closed before the upload was complete.", 400)


BODY_SILENCE = 120.0
"""Seconds for which a client may send nothing of an unfinished body, unless the settings say otherwise."""

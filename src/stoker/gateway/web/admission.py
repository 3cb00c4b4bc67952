"""Who may call a web endpoint, and how errors look over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from stoker import errors
from stoker.gateway.web.heads import HeaderList
from stoker.services.access.attempts import MISSING, WRONG, Attempts, Peer
from stoker.services.apps.endpoints import Endpoint
from stoker.services.functions.spec import ServerSpec
from stoker.services.pools.servers import Servers

CheckToken = Callable[[str, str, str, Peer], bool]
"""Called with the id and the secret of a proxy token, the id of an app, and who shows the token; whether it opens that app's endpoints."""

NO_TOKEN = (
    "This endpoint wants a proxy token: send its parts in the headers Modal-Key and Modal-Secret, or as "
    "`Authorization: Bearer ID.SECRET`. "
    "`modal workspace proxy-tokens create` makes one."
)
_STATUS: tuple[tuple[type[errors.StokerError], int], ...] = (
    (errors.NotFound, 404),
    (errors.InvalidArgument, 400),
    (errors.ResourceExhausted, 429),
    (errors.TooManyAttempts, 429),
    (errors.Unavailable, 503),
    (errors.FailedPrecondition, 503),
    (errors.StokerError, 500),
)


class Admission:
    def __init__(self, servers: Servers, check_token: CheckToken, attempts: Attempts) -> None:
        self._servers = servers
        self._check_token = check_token
        self._attempts = attempts

    def admits(self, endpoint: Endpoint, headers: Mapping[bytes, bytes], address: str) -> bool:
        """Whether a request with these headers (names in lower case) may come in. address: where it comes from. Raises TooManyAttempts."""
        target = endpoint.target
        if not target.needs_token:
            return True
        peer = Peer(address, "web")
        bearer = headers.get(b"modal-authorization", b"").decode("latin-1").removeprefix("Bearer ")
        if bearer and isinstance(target, ServerSpec):
            return self._is_token(endpoint.function_id, bearer, peer)
        key, secret = (headers.get(name, b"").decode("latin-1") for name in (b"modal-key", b"modal-secret"))
        scheme, _, pair = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if not key and scheme.lower() == "bearer":
            key, _, secret = pair.strip().partition(".")
        if not key or not secret:
            self._attempts.failed(peer, MISSING)
            return False
        return self._check_token(key, secret, endpoint.app_id, peer)

    def _is_token(self, function_id: str, token: str, peer: Peer) -> bool:
        """Whether this is a token that the server gave to callers of an @app.server."""
        self._attempts.check(peer, function_id)
        if self._servers.is_token(function_id, token):
            return True
        self._attempts.failed(peer, WRONG, function_id, hashlib.sha256(token.encode()).hexdigest())
        return False


def refusal(error: errors.StokerError) -> tuple[int, HeaderList]:
    """The status and the headers that tell an error of ours."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    if isinstance(error, (errors.ResourceExhausted, errors.TooManyAttempts)):
        return status, [(b"retry-after", b"%d" % max(1, round(error.retry_after)))]
    return status, []

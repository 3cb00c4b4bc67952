"""Signed URLs for bytes that travel over plain HTTP instead of gRPC: blobs and the blocks of volume files."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from urllib.parse import quote, urlencode

from stoker.errors import PermissionDenied

VALID_SECONDS = 86_400.0
"""How long a URL may be used: the last block of a file of many GiB is fetched hours after the URLs were made."""

PREFIX = "/_stoker"


class UrlSigner:
    """Signs and checks (method, path, expiry) with an HMAC, so that the HTTP side needs no session and no look-up."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock

    def sign(self, method: str, path: str, valid_seconds: float = VALID_SECONDS) -> str:
        """`path` (unquoted) with its quoting and signature: what follows the host in a URL."""
        expires = int(self._clock() + valid_seconds)
        query = urlencode({"expires": expires, "signature": self._signature(method, path, expires)})
        return f"{quote(path)}?{query}"

    def check(self, method: str, path: str, expires: str, signature: str) -> None:
        """Raises PermissionDenied unless `sign` made this URL for this method and it has not expired."""
        until = int(expires) if expires.isascii() and expires.isdigit() and len(expires) < 16 else 0
        if not hmac.compare_digest(self._signature(method, path, until).encode(), signature.encode("utf-8", "replace")):
            raise PermissionDenied("The signature of this URL is wrong: use it exactly as the server gave it.")
        if self._clock() > until:
            raise PermissionDenied("This URL has expired. Repeat the operation to get a new one.")

    def _signature(self, method: str, path: str, expires: int) -> str:
        message = f"{method}\n{path}\n{expires}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


class TransferUrls:
    """Complete URLs under a host that the one who asks can reach."""

    def __init__(self, *, signer: UrlSigner, client_host: str, client_port: int, container_base: str) -> None:
        """
        client_host: used when the caller did not tell by which host it reached the server.
        client_port: of the HTTP gateway for clients.
        container_base: "http://host:port" of the gateway as containers see it; "" when they share the host's network.
        """
        self._signer = signer
        self._client_host = client_host
        self._client_port = client_port
        self._container_base = container_base.rstrip("/")
        self.secure_base: Callable[[str], str] = lambda host: ""
        """The beginning of URLs over TLS for a host name, "" when there is no certificate for it."""

    def url(self, method: str, path: str, *, kind: str, host: str = "") -> str:
        """A signed URL for `path`. kind: "client" or "container"; host: by which a client reached the server, "" when unknown."""
        base = self._container_base
        if kind != "container" or not base:
            host = ((host if kind != "container" else "") or self._client_host).strip("[]")
            plain = f"http://{f'[{host}]' if ':' in host else host}:{self._client_port}"
            base = self.secure_base(host) or plain
        return base + self._signer.sign(method, path)

"""The ports a server listens on, and the addresses it writes into URLs."""

from __future__ import annotations

import contextlib
import socket

from stoker.config import Settings
from stoker.errors import FailedPrecondition


def gateway_port(settings: Settings) -> int:
    """`http_port`, or the port after the gRPC one, or any that is free. Raises FailedPrecondition when the host is not ours."""
    if settings.http_port:
        return settings.http_port
    candidates = (settings.port + 1, 0) if settings.port else (0,)
    for candidate in candidates:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, candidate))
            return int(probe.getsockname()[1])
    raise FailedPrecondition(f"No port is free on {settings.host}: is that an address of this machine?")


def identity_issuer(settings: Settings, gateway_port: int) -> str:
    """The URL that identity tokens name as their issuer."""
    if settings.identity_issuer:
        return settings.identity_issuer.rstrip("/")
    if settings.acme_domains:
        return f"https://{settings.acme_domains[0]}" + ("" if settings.tls_port == 443 else f":{settings.tls_port}")
    return f"http://{reachable(settings.host)}:{gateway_port}"


def any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def reachable(host: str) -> str:
    """An address for URLs: one listens on 0.0.0.0 but does not call it."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host

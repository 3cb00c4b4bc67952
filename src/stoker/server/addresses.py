"""The ports a server listens on, and the addresses it writes into URLs."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field

from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.errors import FailedPrecondition
from stoker.runtime.addresses import GATEWAY
from stoker.services.apps.endpoints import is_local

_EVERY_ADDRESS = ("0.0.0.0", "::", "")
_IP_FREEBIND = 15  # <linux/in.h>, which the module socket does not name


@dataclass(frozen=True)
class Ports:
    """Of the HTTP gateways. clients: on the setting `host`. containers, containers_tls: on the address that sandboxes reach; 0 for none.
    redirects: by a port of the host's own addresses, the port that sandboxes are led to instead."""

    clients: int
    containers: int = 0
    containers_tls: int = 0
    redirects: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def choose(settings: Settings, data: DataDir) -> Ports:
        """Raises FailedPrecondition when nothing is free, or the host is not ours."""
        clients = _client_port(settings)
        if settings.runtime != "runsc":
            return Ports(clients)
        containers = _container_port(settings, data, clients)
        if not _is_known_outside(settings):
            return Ports(clients, containers)
        # Whoever follows a public URL of this server from a sandbox comes to the gateway of sandboxes, and so to web endpoints alone.
        if not settings.secure:
            return Ports(clients, containers, 0, {clients: containers})
        secure = _free_for_sandboxes(0)
        return Ports(clients, containers, secure, {clients: containers, settings.tls_port: secure})


def reachable(host: str) -> str:
    """An address for URLs: one listens on 0.0.0.0 but does not call it."""
    return "127.0.0.1" if host in _EVERY_ADDRESS else host


def identity_issuer(settings: Settings, gateway_port: int) -> str:
    """The URL that identity tokens name as their issuer."""
    if settings.identity_issuer:
        return settings.identity_issuer.rstrip("/")
    if settings.acme_domains:
        return f"https://{settings.acme_domains[0]}" + ("" if settings.tls_port == 443 else f":{settings.tls_port}")
    return f"http://{reachable(settings.host)}:{gateway_port}"


def _client_port(settings: Settings) -> int:
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


def _container_port(settings: Settings, data: DataDir, client_port: int) -> int:
    """The one it was at the last start, or the number of the clients' one, or any that is free. Memory snapshots hold URLs with it: where
    it changes, they are made anew."""
    taken = (settings.port, client_port, settings.tls_port) if settings.host in _EVERY_ADDRESS else ()
    for candidate in (data.read_container_port(), client_port, 0):
        if candidate is None or candidate in taken:
            continue
        with contextlib.suppress(OSError):
            port = _free_for_sandboxes(candidate)
            data.write_container_port(port)
            return port
    raise FailedPrecondition(f"No port is free on {GATEWAY}, the address on which sandboxes reach the server.")


def _free_for_sandboxes(port: int) -> int:
    """The port, or one that is free for 0. Raises OSError when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # the address comes only when the runtime opens
        probe.bind((str(GATEWAY), port))
        return int(probe.getsockname()[1])


def _is_known_outside(settings: Settings) -> bool:
    """Whether URLs may have a name or an address of this server that is not only this machine's own."""
    names = (*settings.custom_domains, settings.host, "" if settings.web_domain == "auto" else settings.web_domain)
    return not all(is_local(name) for name in names if name)

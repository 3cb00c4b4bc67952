"""Which addresses sandboxes get, and whom they ask for names."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import FailedPrecondition, ResourceExhausted

GATEWAY = ipaddress.IPv4Address("172.21.0.1")
"""The host as every sandbox sees it: its default route, and the address of the server's HTTP gateway."""

_CANDIDATES = [
    *list(ipaddress.IPv4Network("172.21.0.0/16").subnets(new_prefix=22))[1:],
    *ipaddress.IPv4Network("10.213.0.0/16").subnets(new_prefix=22),
]
_CLAIMS = Path("/run/stoker/blocks")
_UPSTREAM = Path("/run/systemd/resolve/resolv.conf")


class Block:
    """A range of addresses that belongs to this server for as long as it lives (an flock, so a killed server gives it up)."""

    def __init__(self, network: ipaddress.IPv4Network, descriptor: int) -> None:
        self.network = network
        self._descriptor = descriptor
        self._free = list(range(network.num_addresses - 2, 0, -1))

    @staticmethod
    def claim(routes_json: str, preference: int) -> Block:
        """A block that no route of the host touches (`ip -j route show table all`) and no other server holds.

        `preference` spreads servers over the blocks, so that a restarted one gets its old block. Raises FailedPrecondition."""
        taken = _routed(routes_json)
        _CLAIMS.mkdir(parents=True, exist_ok=True)
        start = preference % len(_CANDIDATES)
        for network in _CANDIDATES[start:] + _CANDIDATES[:start]:
            if any(network.overlaps(other) for other in taken):
                continue
            descriptor = os.open(_CLAIMS / str(network.network_address), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            return Block(network, descriptor)
        raise FailedPrecondition(
            "No free block of private addresses is left for sandboxes in 172.21.0.0/16 and 10.213.0.0/16."
        )

    def take(self, most: int) -> list[ipaddress.IPv4Address]:
        """At least one and at most so many. Raises ResourceExhausted when all are in use."""
        if not self._free:
            raise ResourceExhausted(
                f"All {self.network.num_addresses - 2} sandbox addresses of {self.network} are in use."
            )
        return [self.network[self._free.pop()] for _ in range(min(most, len(self._free)))]

    def give_back(self, address: ipaddress.IPv4Address) -> None:
        # To the far end: an address rests as long as possible before another sandbox answers at it.
        self._free.insert(0, int(address) - int(self.network.network_address))

    def release(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True)
class Resolvers:
    """How names are resolved: `seen` stands in the sandbox's resolv.conf. `redirect` is set when the host's resolver cannot be
    reached from a sandbox as it is (127.0.0.53 ...): then the gateway address stands in for it, on port 53 only."""

    seen: tuple[str, ...]
    search: tuple[str, ...]
    redirect: str | None = None

    @staticmethod
    def of_host(text: str | None = None) -> Resolvers:
        """From /etc/resolv.conf, or from what systemd-resolved forwards to when that names only the machine itself."""
        servers, search = _parse(Path("/etc/resolv.conf").read_text() if text is None else text)
        reachable = tuple(server for server in servers if not _special(server))
        if not reachable and text is None and _UPSTREAM.exists():
            upstream, _ = _parse(_UPSTREAM.read_text())
            reachable = tuple(server for server in upstream if not _special(server))
        if reachable:
            return Resolvers(reachable, search)
        if servers:
            return Resolvers((str(GATEWAY),), search, redirect=servers[0])
        return Resolvers((), search)

    def resolv_conf(self) -> str:
        lines = [f"nameserver {server}" for server in self.seen]
        if self.search:
            lines.append("search " + " ".join(self.search))
        return "\n".join(lines) + "\n"


def _parse(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """IPv4 name servers and search domains of a resolv.conf."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                servers.append(str(ipaddress.IPv4Address(words[1])))
            except ValueError:
                continue  # sandboxes have no IPv6
        elif len(words) >= 2 and words[0] in ("search", "domain"):
            search = tuple(words[1:])
    return tuple(servers), search


def _special(server: str) -> bool:
    address = ipaddress.IPv4Address(server)
    return address.is_loopback or address.is_link_local


def _routed(routes_json: str) -> list[ipaddress.IPv4Network]:
    networks = []
    for route in json.loads(routes_json or "[]"):
        destination = str(route.get("dst", "default"))
        if destination == "default":
            continue
        try:
            network = ipaddress.ip_network(destination, strict=False)
        except ValueError:
            continue
        if isinstance(network, ipaddress.IPv4Network) and network.prefixlen > 8 - 1:
            networks.append(network)
    return networks

"""Services of this machine itself that build steps may use: package indexes that its administrator named.

The firewall keeps steps from everything on the host. For each such service one port of the gateway's address is opened, to build steps
only, and what they send there goes to the service."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Collection

import psutil
import structlog

from stoker.aio.cancelling import within
from stoker.runtime.addresses import GATEWAY
from stoker.runtime.firewall import DENIED
from stoker.runtime.network import Network

_CONNECT_SECONDS = 10.0
_CHUNK = 1 << 16
_log = structlog.get_logger(__name__)


class HostServices:
    """`callers` are the addresses of the steps that run now."""

    def __init__(self, network: Network, callers: Collection[str]) -> None:
        self._network = network
        self._callers = callers
        self._relays: dict[str, asyncio.Server] = {}

    async def reachable(self, place: str) -> str:
        """Where steps reach the HTTP service `place` (host or host:port): the same, unless it is on this machine."""
        host, _, port = place.partition(":")
        number = int(port) if port.isdecimal() else 80
        if not await asyncio.to_thread(is_here, host):
            return place
        key = f"{host}:{number}"
        if key not in self._relays:
            await self._open(key, host, number)
        return f"{GATEWAY}:{_port_of(self._relays[key])}"

    async def close(self) -> None:
        for relay in self._relays.values():
            relay.close()
        self._relays.clear()

    async def _open(self, key: str, host: str, port: int) -> None:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, TimeoutError):
                async with _closing(writer):
                    if writer.get_extra_info("peername")[0] in self._callers:
                        await _connect(reader, writer, host, port)

        server = await asyncio.start_server(relay, str(GATEWAY), 0)
        if key in self._relays:  # another build was faster
            server.close()
            return
        self._relays[key] = server
        await self._network.admit(_port_of(server))
        _log.info("build steps may use a service of this machine", service=key)


async def _connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    there, back = await within(asyncio.open_connection(host, port), _CONNECT_SECONDS)
    async with _closing(back):
        ways = [asyncio.ensure_future(way) for way in (_carry(reader, back), _carry(there, writer))]
        try:
            await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK):
        target.write(chunk)
        await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()


def _port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def is_here(host: str) -> bool:
    """Whether the name or address is this machine, or answers to it alone, as a cloud's metadata service does. Blocks."""
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {address.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for address in addresses}
    return any(address in own or _is_special(ipaddress.ip_address(address)) for address in found)


def _is_special(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return _is_special(address.ipv4_mapped)
    denied = address.version == 4 and any(address in ipaddress.ip_network(network) for network in DENIED)
    return denied or address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast

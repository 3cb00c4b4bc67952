"""Network namespaces for sandboxes: each has an `eth0` of its own, reaches the internet by NAT, and nothing of the host but the gateway.

A pool is kept ready, so that a start does not wait for `ip`. A namespace serves one container and is then destroyed: what the last one
left in it (sockets in TIME_WAIT, routes) would be seen by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from stoker.aio.cancelling import finished, within
from stoker.errors import FailedPrecondition, ResourceExhausted, Unavailable
from stoker.runtime import firewall, linux
from stoker.runtime.addresses import GATEWAY, Block, Resolvers

_NAMESPACES = Path("/run/netns")
_GATEWAY_MAC = "02:00:ac:15:00:01"
_SECONDS = 120.0  # for commands that take some milliseconds


@dataclass(frozen=True)
class Namespace:
    """A prepared network namespace; `address` is None for one without a way out."""

    name: str
    link: str
    address: IPv4Address | None

    @property
    def path(self) -> Path:
        return _NAMESPACES / self.name


class Network:
    """All network state of one server. `tag` (6 hexadecimal digits) names everything it creates. `resolvers`: the host's by default. `gateway_port`,
    `redirects`: see `firewall.table`."""

    def __init__(
        self,
        tag: str,
        gateway_port: int,
        pool_size: int,
        resolvers: Resolvers | None = None,
        redirects: Mapping[int, int] | None = None,
    ) -> None:
        self._tag = tag
        self._prefix = f"sk{tag}"
        self._table = f"stoker_{tag}"
        self._gateway_port = gateway_port
        self._redirects = dict(redirects or {})
        self._pool_size = max(1, pool_size)
        self._pool: deque[Namespace] = deque()
        self._refilling: asyncio.Task[None] | None = None
        self._numbers = iter(range(1, 1 << 24))
        self._block: Block | None = None
        self.resolvers = resolvers or Resolvers.of_host()

    async def open(self) -> None:
        """Raises FailedPrecondition when the machine cannot do it."""
        for program in ("ip", "nft"):
            if shutil.which(program) is None:
                raise FailedPrecondition(
                    f"The program `{program}` is missing, without which sandboxes get no network. Run `stoker doctor --fix`, or install "
                    "the packages iproute2 and nftables."
                )
        await self._sweep()
        routes = await _run("ip", "-4", "-j", "route", "show", "table", "all")
        self._block = Block.claim(routes, int(self._tag, 16))
        await _run("nft", "-f", "-", text=self._rules(self._block))
        ruleset = await _run("nft", "-j", "list", "ruleset")
        if script := firewall.admissions(ruleset, self._table, f"{self._prefix}-"):
            await _run("nft", "-f", "-", text=script)
        _set_kernel("ip_forward", "1")
        # The gateway address must be there while no sandbox is, for the server to listen on it.
        await _run(
            "ip",
            "-batch",
            "-",
            text=f"link add {self._prefix}-gw type veth peer name {self._prefix}-gx\n"
            f"addr add {GATEWAY}/32 dev {self._prefix}-gw\n"
            f"link set {self._prefix}-gw up\nlink set {self._prefix}-gx up\n",
        )
        self._refill()

    async def close(self) -> None:
        """Removes everything. All namespaces handed out must have been given back."""
        if self._refilling is not None:
            with contextlib.suppress(Exception):
                await self._refilling
        self._pool.clear()
        await self._sweep()
        if self._block is not None:
            self._block.release()
            self._block = None

    async def take(self) -> Namespace:
        """A namespace for one container. Raises Unavailable, or ResourceExhausted while all addresses are in use."""
        while not self._pool:
            self._refill()
            assert self._refilling is not None
            try:
                await asyncio.shield(self._refilling)
            except FailedPrecondition as error:
                if not self._pool:
                    raise _passing(error) from error
        namespace = self._pool.popleft()
        self._refill()
        return namespace

    async def take_closed(self) -> Namespace:
        """A namespace with an eth0 that leads nowhere. Raises Unavailable."""
        namespace = Namespace(f"stoker-{self._tag}-{next(self._numbers)}", "", None)
        try:
            await finished(_make_closed(namespace.name))
        except BaseException as error:
            await finished(self.give_back(namespace))
            if isinstance(error, FailedPrecondition):
                raise _passing(error) from error
            raise
        return namespace

    async def give_back(self, namespace: Namespace) -> None:
        """Destroys a namespace whose processes are all dead."""
        try:
            if namespace.link:
                await _run("ip", "link", "delete", namespace.link, check=False)
            _unname(namespace.path)
        finally:
            if namespace.address is not None and self._block is not None:
                self._block.give_back(namespace.address)

    async def admit(self, port: int) -> None:
        """Lets sandboxes reach this port of the gateway's address. Raises FailedPrecondition."""
        await _run("nft", "-f", "-", text=firewall.admission(self._table, port))

    def _refill(self) -> None:
        # In batches, and seldom at the moment of a start: its `ip` processes would compete with the sandbox for the CPU.
        if len(self._pool) <= self._pool_size // 2 and (self._refilling is None or self._refilling.done()):
            self._refilling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        while (missing := self._pool_size - len(self._pool)) > 0:
            # Few at a time: someone may be waiting for the first.
            try:
                made = await self._make(min(missing, 4))
            except ResourceExhausted:
                if self._pool:
                    return
                raise
            self._pool.extend(made)

    async def _make(self, count: int) -> list[Namespace]:
        """Up to so many, and at least one."""
        assert self._block is not None
        namespaces = []
        for address in self._block.take(count):
            number = next(self._numbers)
            namespaces.append(Namespace(f"stoker-{self._tag}-{number}", f"{self._prefix}-{number:x}", address))
        try:
            await _run("ip", "-batch", "-", text="".join(_outside(namespace) for namespace in namespaces))
            for namespace in namespaces:
                if self.resolvers.redirect is not None and self.resolvers.redirect.startswith("127."):
                    # The kernel drops what is redirected to a loopback address unless told otherwise, per interface.
                    _set_kernel(f"conf/{namespace.link}/route_localnet", "1")
                await _run("ip", "-n", namespace.name, "-batch", "-", text=_inside(namespace))
        except BaseException:
            for namespace in namespaces:
                await self.give_back(namespace)
            raise
        return namespaces

    def _rules(self, block: Block) -> str:
        return firewall.table(
            self._table,
            prefix=f"{self._prefix}-",
            block=block.network,
            gateway_port=self._gateway_port,
            resolvers=[] if self.resolvers.redirect else self.resolvers.seen,
            resolver=self.resolvers.redirect,
            redirects=self._redirects,
        )

    async def _sweep(self) -> None:
        """Removes every interface, namespace and rule that carries our tag."""
        links = [name for name in os.listdir("/sys/class/net") if name.startswith(f"{self._prefix}-")]
        if links:
            # Deleting one end of a pair deletes the other: -force goes on past those.
            await _run(
                "ip", "-force", "-batch", "-", text="".join(f"link delete {link}\n" for link in links), check=False
            )
        _unname_all(f"stoker-{self._tag}-")
        script = firewall.withdrawals(await _run("nft", "-j", "list", "ruleset"), self._table)
        await _run("nft", "-f", "-", text=script + firewall.removal(self._table))


def _outside(namespace: Namespace) -> str:
    """Lines for `ip -batch` on the host: the namespace, the pair of interfaces, and the way to it."""
    address, link, mac = namespace.address, namespace.link, _mac(namespace.address)
    return (
        f"netns add {namespace.name}\n"
        f"link add {link} address {_GATEWAY_MAC} type veth peer name eth0 address {mac} netns {namespace.name}\n"
        f"link set {link} addrgenmode none up\n"
        # Both ends know each other: no ARP, whatever the host's settings for it.
        f"neigh replace {address} lladdr {mac} dev {link} nud permanent\n"
        f"route add {address}/32 dev {link} src {GATEWAY}\n"
    )


def _inside(namespace: Namespace) -> str:
    """Lines for `ip -batch` in the namespace."""
    return (
        "link set lo up\nlink set eth0 addrgenmode none up\n"
        f"addr add {namespace.address}/32 dev eth0\n"
        f"neigh replace {GATEWAY} lladdr {_GATEWAY_MAC} dev eth0 nud permanent\n"
        f"route add {GATEWAY} dev eth0 scope link\n"
        f"route add default via {GATEWAY} dev eth0\n"
    )


async def _make_closed(name: str) -> None:
    await _run("ip", "netns", "add", name)
    inside = (
        "link set lo up\nlink add eth0 type veth peer name eth0-end\naddr add 192.0.2.2/32 dev eth0\n"
        "link set eth0-end up\nlink set eth0 up\n"
    )
    await _run("ip", "-n", name, "-batch", "-", text=inside)


def _passing(error: FailedPrecondition) -> Unavailable:
    """What fails once the network is set up may go well the next time: a function is not to be given up for it."""
    return Unavailable(str(error))


def _unname(path: Path) -> None:
    """What `ip netns delete` does, without a process."""
    with contextlib.suppress(OSError):
        linux.unmount(path, linux.MNT_DETACH)
    path.unlink(missing_ok=True)


def _unname_all(prefix: str) -> None:
    if _NAMESPACES.is_dir():
        for path in _NAMESPACES.iterdir():
            if path.name.startswith(prefix):
                _unname(path)


def _set_kernel(name: str, value: str) -> None:
    Path("/proc/sys/net/ipv4", name).write_text(value)


def _mac(address: IPv4Address | None) -> str:
    assert address is not None
    return "02:00:" + ":".join(f"{part:02x}" for part in address.packed)


async def _run(*command: str, text: str = "", check: bool = True) -> str:
    # A file and not a pipe: uvloop raises when a program ends before its input is written.
    with tempfile.TemporaryFile() as stdin:
        stdin.write(text.encode())
        stdin.seek(0)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    try:
        output, errors = await within(process.communicate(), _SECONDS)
    except TimeoutError:
        process.kill()
        raise FailedPrecondition(f"`{' '.join(command)}` did not end within {_SECONDS:.0f} s.") from None
    if check and process.returncode:
        reason = re.sub(r"\s+", " ", errors.decode(errors="replace")).strip()
        raise FailedPrecondition(f"The network for sandboxes could not be set up: `{' '.join(command)}` said: {reason}")
    return output.decode()

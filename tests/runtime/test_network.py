"""What a sandbox reaches and what it does not. Every refusal has a positive control next to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import ResourceExhausted
from stoker.runtime import addresses as addresses_module
from stoker.runtime import network as network_module
from stoker.runtime.addresses import Block, Resolvers
from stoker.runtime.network import Network
from tests.runtime.conftest import GATEWAY_PORT, PYTHON, Bench, host_root, runsc_runtime

pytestmark = pytest.mark.anyio

# Prints for each HOST:PORT argument what became of a connection to it.
PROBE = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.5) as s:
            s.sendall(b"hi")
            print("reached", s.recv(9).decode())
    except OSError as error:
        print("refused", type(error).__name__)
"""
SERVE = """
import socket
s = socket.create_server(("0.0.0.0", 8000)); print("up", flush=True)
while True:
    c, _ = s.accept(); c.sendall(c.recv(9)); c.close()
"""


@contextlib.contextmanager
def echo(host: str, port: int) -> Iterator[int]:
    """A TCP service of the host; yields its port."""
    with socket.create_server((host, port)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(connection.recv(9))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def reach(host: str, port: int) -> bytes:
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"hi")
        return connection.recv(9)


def rules(table: str) -> str:
    return subprocess.run(["nft", "list", "table", "ip", table], capture_output=True, text=True, check=True).stdout


def host_addresses() -> list[str]:
    words = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout.split()
    return [words[i + 1].split("/")[0] for i, word in enumerate(words) if word == "inet"]


async def test_interface_is_eth0_with_an_address(sandboxes: Bench) -> None:
    code = """
import fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(socket.inet_ntoa(fcntl.ioctl(s, 0x8915, struct.pack("256s", b"eth0"))[20:24]), sorted(n for _, n in socket.if_nameindex()))
"""
    container, output = await sandboxes.start(PYTHON, "-c", code)
    assert (await container.wait()).code == 0, output.stderr
    assert output.text == f"{container.address} ['eth0', 'lo']\n"


async def test_internet_is_reached_and_link_local_is_not(sandboxes: Bench, elsewhere: tuple[str, str]) -> None:
    public, local = elsewhere
    assert reach(local, 7) == b"hi"
    _, output = await sandboxes.python(PROBE, f"{public}:7", f"{local}:7")
    assert output.text.splitlines() == ["reached hi", "refused TimeoutError"]


async def test_only_the_gateway_port_of_the_host_is_reached(sandboxes: Bench) -> None:
    gateway = sandboxes.runtime.host_address()
    assert gateway is not None
    addresses = [*host_addresses(), gateway]
    with echo("0.0.0.0", 0) as port, echo(gateway, GATEWAY_PORT):
        for address in addresses:
            assert reach(address, port) == b"hi"
        _, output = await sandboxes.python(
            PROBE, f"{gateway}:{GATEWAY_PORT}", *(f"{address}:{port}" for address in addresses)
        )
    answers = output.text.splitlines()
    assert answers[0] == "reached hi" and len(answers) == 1 + len(addresses)
    assert {answer.split()[0] for answer in answers[1:]} == {"refused"}, answers


async def test_sandboxes_do_not_reach_each_other_but_the_host_reaches_them(sandboxes: Bench) -> None:
    server, output = await sandboxes.start(PYTHON, "-c", SERVE)
    await output.first()
    assert server.address is not None
    assert await asyncio.to_thread(reach, server.address, 8000) == b"hi"
    _, probe = await sandboxes.python(PROBE, f"{server.address}:8000")
    await server.kill()
    await server.wait()
    assert probe.text == "refused TimeoutError\n"


async def test_without_network_there_is_an_eth0_that_leads_nowhere(
    sandboxes: Bench, elsewhere: tuple[str, str]
) -> None:
    gateway = sandboxes.runtime.host_address()
    assert gateway is not None
    with echo(gateway, GATEWAY_PORT):
        _, output = await sandboxes.python(
            "import socket; print('eth0' in [n for _, n in socket.if_nameindex()])\n" + PROBE,
            f"{elsewhere[0]}:7",
            f"{gateway}:{GATEWAY_PORT}",
            network=False,
        )
    lines = output.text.splitlines()
    assert lines[0] == "True" and [line.split()[0] for line in lines[1:]] == ["refused", "refused"]


async def test_two_servers_do_not_disturb_each_other(
    sandboxes: Bench, elsewhere: tuple[str, str], tmp_path: Path
) -> None:
    layers, mounts = host_root(tmp_path)
    runtime = runsc_runtime(tmp_path / "state", GATEWAY_PORT + 1)
    await runtime.open()
    second = Bench(runtime, layers, mounts)
    gateway = runtime.host_address()
    assert gateway is not None
    try:
        with echo(gateway, GATEWAY_PORT), echo(gateway, GATEWAY_PORT + 1):
            server, output = await sandboxes.start(PYTHON, "-c", SERVE)
            await output.first()
            targets = (f"{elsewhere[0]}:7", f"{gateway}:{GATEWAY_PORT}", f"{gateway}:{GATEWAY_PORT + 1}")
            (_, first), (_, other) = await asyncio.gather(
                sandboxes.python(PROBE, *targets), second.python(PROBE, *targets, f"{server.address}:8000")
            )
            await server.kill()
            await server.wait()
    finally:
        await runtime.close()
    assert [line.split()[0] for line in first.text.splitlines()] == ["reached", "reached", "refused"]
    assert [line.split()[0] for line in other.text.splitlines()] == ["reached", "refused", "reached", "refused"]
    # And the first goes on after the second was closed.
    with echo(gateway, GATEWAY_PORT):
        _, output = await sandboxes.python(PROBE, f"{gateway}:{GATEWAY_PORT}", f"{elsewhere[0]}:7")
    assert output.text == "reached hi\nreached hi\n"


async def test_firewalls_that_drop_by_default_let_sandboxes_pass_and_keep_their_own_rules(
    elsewhere: tuple[str, str], tmp_path: Path
) -> None:
    def nft(script: str) -> str:
        return subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=True).stdout

    # Like Docker's and ufw's, but deaf to everything that does not concern this test.
    nft(
        f"""table ip stoker_test_other {{
            chain FORWARD {{ type filter hook forward priority filter; policy drop; oifname != "sk-elsewhere" iifname != "sk-elsewhere" accept
                ip daddr {elsewhere[0]} tcp dport 9 drop
            }}
            chain INPUT {{ type filter hook input priority filter; policy drop; tcp dport != {GATEWAY_PORT + 2} accept
            }}
        }}"""
    )
    layers, mounts = host_root(tmp_path)
    runtime = runsc_runtime(tmp_path / "state", GATEWAY_PORT + 2)
    try:
        before = rules("stoker_test_other")
        await runtime.open()
        gateway = runtime.host_address()
        assert gateway is not None
        with echo(gateway, GATEWAY_PORT + 2):
            bench = Bench(runtime, layers, mounts)
            _, output = await bench.python(
                PROBE, f"{gateway}:{GATEWAY_PORT + 2}", f"{elsewhere[0]}:7", f"{elsewhere[0]}:9"
            )
        await runtime.close()
        after = rules("stoker_test_other")
    finally:
        await runtime.close()
        nft("delete table ip stoker_test_other")
    assert output.text.splitlines() == ["reached hi", "reached hi", "refused TimeoutError"]
    assert before and before == after


async def test_resolver_on_the_hosts_loopback_is_reached_on_port_53_only(needs_root: None) -> None:
    resolver = "127.0.0.99"
    network = Network(
        "fe5701", 1, pool_size=1, resolvers=Resolvers.of_host(f"nameserver {resolver}\nsearch example.test\n")
    )
    assert network.resolvers.resolv_conf() == "nameserver 172.21.0.1\nsearch example.test\n"
    code = """
import socket
def ask(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1.5)
    s.sendto(b"who", ("172.21.0.1", port))
    try: print(s.recv(9))
    except OSError as e: print(type(e).__name__)
ask(53); ask(5300)
"""
    await network.open()
    servers = []
    try:
        for address, port in ((resolver, 53), ("0.0.0.0", 5300)):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind((address, port))
            threading.Thread(target=lambda s=server: s.sendto(b"me", s.recvfrom(9)[1]), daemon=True).start()
            servers.append(server)
        namespace = await network.take()
        asked = await asyncio.to_thread(
            subprocess.run,
            ["ip", "netns", "exec", namespace.name, PYTHON, "-c", code],
            capture_output=True,
            text=True,
            timeout=30,
        )
        await network.give_back(namespace)
    finally:
        await network.close()
    # The second server still waits: answer it, so that its thread ends.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"bye", ("127.0.0.1", 5300))
    assert asked.stdout.splitlines() == ["b'me'", "TimeoutError"], asked.stderr


async def test_addresses_that_were_in_use_are_given_out_again(needs_root: None) -> None:
    network = Network("fe5702", 1, pool_size=1)
    await network.open()
    try:
        assert network._refilling is not None and network._block is not None
        await network._refilling
        others = network._block.take(5000)
        namespaces = [await network.take()]
        with pytest.raises(ResourceExhausted):
            await network.take()
        # Fewer are free than the pool would like to have: none of them may be lost by that.
        network._pool_size = 4
        for address in others[:2]:
            network._block.give_back(address)
        namespaces += [await network.take() for _ in range(2)]
        assert {namespace.address for namespace in namespaces[-2:]} == set(others[:2])
        with pytest.raises(ResourceExhausted):
            await network.take()
        for namespace in namespaces:
            await network.give_back(namespace)
    finally:
        await network.close()


@pytest.mark.parametrize("step", [1, 2])
async def test_a_start_that_is_called_off_leaves_no_closed_namespace(
    needs_root: None, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """step: of making it, at whose beginning that happens."""
    network = Network("fe5703", 1, pool_size=1)

    def closed_and_open() -> set[str]:
        return {name for name in os.listdir("/run/netns") if "fe5703" in name}

    await network.open()
    try:
        assert network._refilling is not None
        await network._refilling
        before = closed_and_open()
        run, commands = network_module._run, []

        async def counted(*command: str, **more: Any) -> str:
            commands.append(command)
            if len(commands) == step:
                taking.cancel()
            return await run(*command, **more)

        monkeypatch.setattr(network_module, "_run", counted)
        taking = asyncio.ensure_future(network.take_closed())
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert closed_and_open() == before
    finally:
        await network.close()


def test_resolvers_of_the_host() -> None:
    plain = Resolvers.of_host("nameserver 10.1.2.3\nnameserver fd00::1\nnameserver 127.0.0.1\n")
    assert plain.seen == ("10.1.2.3",) and plain.redirect is None
    cloud = Resolvers.of_host("nameserver 169.254.169.253\n")
    assert cloud.seen == ("172.21.0.1",) and cloud.redirect == "169.254.169.253"
    assert Resolvers.of_host("# empty\n").seen == ()


def test_blocks_avoid_routes_and_other_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A server of a test that runs beside this one may claim what is free on the machine.
    monkeypatch.setattr(addresses_module, "_CLAIMS", tmp_path)
    first = Block.claim("[]", 5)
    second = Block.claim("[]", 5)
    third = Block.claim(f'[{{"dst": "{first.network}"}}, {{"dst": "default"}}, {{"dst": "172.21.0.0/16"}}]', 5)
    try:
        assert not first.network.overlaps(second.network)
        assert third.network.subnet_of(IPv4Network("10.213.0.0/16"))
        addresses = first.take(5000)
        assert len(set(addresses)) == len(addresses) == first.network.num_addresses - 2
        assert all(address in first.network for address in addresses)
        with pytest.raises(ResourceExhausted, match="All 1022"):
            first.take(1)
        first.give_back(addresses[3])
        assert first.take(4) == [addresses[3]]
    finally:
        for block in (first, second, third):
            block.release()
    again = Block.claim("[]", 5)
    again.release()
    assert again.network == first.network

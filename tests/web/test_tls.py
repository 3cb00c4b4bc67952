"""TLS with a certificate of one's own and from an authority, domains of one's own, and the client over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from websockets.asyncio.client import connect

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.gateway.tls import port as tls
from stoker.gateway.tls.acme import Acme
from stoker.gateway.tls.port import Certificate, TlsPort
from stoker.gateway.web.serve import listening_socket
from tests.conftest import RunningServer, free_port, start_server, stop_server
from tests.web.certificates import Authority
from tests.web.conftest import connection_closed, until

_APP = """
import modal
app = modal.App({name!r})

@app.function(serialized=True, image=modal.Image.debian_slim())
@modal.asgi_app({options})
def site():
    async def answer(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({{"type": "websocket.accept"}})
            await send({{"type": "websocket.send", "text": scope["scheme"]}})
            await receive()
            return
        says = {name!r} + " " + scope["scheme"]
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": says.encode()}})
    return answer
"""

# The client trusts the roots that come with it and no others, so its list is replaced.
_CLIENT = """
import certifi
certifi.where = lambda: {root!r}
import os
os.environ["MODAL_SERVER_URL"] = {url!r}
import modal
volume = modal.Volume.from_name("over-tls", create_if_missing=True)
with volume.batch_upload(force=True) as batch:
    batch.put_file({file!r}, "/big")
print(sum(len(chunk) for chunk in volume.read_file("/big")))
"""


class Secure:
    """A server with TLS."""

    def __init__(self, server: RunningServer, port: int, root: Path) -> None:
        self.server = server
        self.port = port
        self.context = ssl.create_default_context(cafile=str(root))

    def get(self, name: str, path: str = "/") -> tuple[int, str]:
        """Asks the server under a host name, whatever that resolves to."""
        connection = http.client.HTTPSConnection(name, self.port, timeout=60)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sock = self.context.wrap_socket(plain, server_hostname=name)
        connection.request("GET", path)
        answer = connection.getresponse()
        with connection_closed(connection):
            return answer.status, answer.read().decode()

    def deploy(self, directory: Path, name: str, options: str) -> str:
        program = directory / "app_file.py"
        program.write_text(_APP.format(name=name, options=options))
        done = self.server.modal("deploy", str(program), check=False)
        return done.stdout + done.stderr


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Secure]:
    authority, port = Authority(tmp_path), free_port()
    names = ("localhost", "*.stoker.test", "api.example.test", "one.shop.test")
    cert, key = authority.issue(*names)
    monkeypatch.setenv("STOKER_TLS_CERT", str(cert))
    monkeypatch.setenv("STOKER_TLS_KEY", str(key))
    monkeypatch.setenv("STOKER_TLS_PORT", str(port))
    monkeypatch.setenv("STOKER_WEB_DOMAIN", "stoker.test")
    monkeypatch.setenv("STOKER_CUSTOM_DOMAINS", '["api.example.test", "*.shop.test"]')
    running = start_server(tmp_path / "data", "process")
    yield Secure(running, port, authority.root)
    stop_server(running)


class _Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(b"hello")
        transport.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_who_says_nothing_in_the_handshake_keeps_nobody_out(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_MOST_HANDSHAKES", 5)
    monkeypatch.setattr(tls, "_RETRY", 0.05)
    authority = Authority(tmp_path)
    certificate = Certificate(*authority.issue("localhost"))
    context = ssl.create_default_context(cafile=str(authority.root))

    class Exhausted:
        """A listening socket of a process that has no file left, for once."""

        def __init__(self, listener: socket.socket) -> None:
            self.fileno, self._listener, self._tries = listener.fileno, listener, 0

        def accept(self) -> object:
            self._tries += 1
            if self._tries == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return self._listener.accept()

        def close(self) -> None:
            self._listener.close()

    async def main() -> None:
        monkeypatch.setattr(tls, "listening_socket", lambda host, port: Exhausted(listening_socket(host, port)))
        port = TlsPort(certificate.context, http=_Greeter, h2=_Greeter)
        port.listen("127.0.0.1", number := free_port())
        crowd = [await asyncio.open_connection("127.0.0.1", number) for _ in range(30)]
        for _ in range(3):
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection("127.0.0.1", number, ssl=context, server_hostname="localhost"), 20
            )
            assert await asyncio.wait_for(reader.read(), 20) == b"hello"
            writer.close()
        assert len(port._handshakes) <= 5
        crowd[-1][1].write(b"GET / HTTP/1.1\r\n\r\n")  # no handshake at all
        port.close()
        for reader, writer in crowd:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) is not None  # all of them end
            writer.close()

    run(main())


def test_a_certificate_of_ones_own_and_domains(secure: Secure, tmp_path: Path) -> None:
    said = secure.deploy(tmp_path, "shop", 'custom_domains=["api.example.test", "One.Shop.test"]')
    assert f"https://local--shop-site.stoker.test:{secure.port}" in said
    assert f"https://api.example.test:{secure.port}" in said
    assert secure.get("api.example.test") == (200, "shop https")
    assert secure.get("one.shop.test") == (200, "shop https")
    assert secure.get("local--shop-site.stoker.test") == (200, "shop https")
    assert secure.get("localhost", "/w/local--shop-site/") == (200, "shop https")
    assert asyncio.run(_first_message(secure, "api.example.test")) == "wss"

    refused = secure.deploy(tmp_path, "elsewhere", 'custom_domains=["www.example.test"]')
    assert "custom_domains" in refused
    assert "'www.example.test'" in refused
    taken = secure.deploy(tmp_path, "second", 'custom_domains=["api.example.test"]')
    assert "'shop'" in taken
    assert secure.get("api.example.test") == (200, "shop https")

    secure.server.modal("app", "stop", "shop", "--yes")
    assert secure.get("one.shop.test")[0] == 404
    assert "https://api.example.test" in secure.deploy(tmp_path, "second", 'custom_domains=["api.example.test"]')
    assert secure.get("api.example.test") == (200, "second https")

    with socket.create_connection(("127.0.0.1", secure.port), timeout=30) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(4096).startswith(b"HTTP")
    assert secure.get("localhost", "/healthz") == (200, "ok")


def test_the_client_over_tls(secure: Secure, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * (9 << 20))
    root = str(tmp_path / "root.pem")
    program = _CLIENT.format(root=root, url=f"https://localhost:{secure.port}", file=str(big))
    assert secure.server.python(program).stdout.split()[-1] == str(9 << 20)


def test_files_that_are_no_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = Authority(tmp_path).issue("localhost")
    with pytest.raises(InvalidArgument, match="is not there"):
        Certificate(tmp_path / "nowhere.pem", key)
    with pytest.raises(InvalidArgument, match="PEM"):
        Certificate(cert, cert)
    certificate = Certificate(cert, key)
    assert certificate.covers("localhost")
    assert not certificate.covers("api.localhost")


def test_a_half_renewed_certificate_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost")
    certificate = Certificate(cert, key)
    old_cert = cert.read_bytes()
    cert.write_bytes(authority.issue("other.test")[0].read_bytes())  # its key comes next
    with pytest.raises(InvalidArgument):
        certificate.load()
    assert certificate.covers("localhost")

    client_context = ssl.create_default_context(cafile=str(authority.root))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    assert ssl.DER_cert_to_PEM_cert(shown).encode() == old_cert


def _acme(directory: Path) -> Acme:
    pytest.importorskip("acme")
    return Acme(directory=directory, domains=["localhost"], email="", authority="https://a.test/")


def test_a_certificate_and_a_key_that_are_not_a_pair_are_no_certificate(tmp_path: Path) -> None:
    acme, authority = _acme(tmp_path / "acme"), Authority(tmp_path)
    cert, key = authority.issue("localhost")
    acme.cert.write_bytes(cert.read_bytes())
    assert not acme._is_fresh()
    acme.key.write_bytes(authority.issue("other.test")[1].read_bytes())  # a renewal was cut off in between
    assert not acme._is_fresh()
    acme.key.write_bytes(key.read_bytes())
    assert acme._is_fresh()


def test_a_port_that_is_taken_at_first_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stoker.gateway.tls import acme as module

    monkeypatch.setattr(module, "_TRY_AGAIN", (0.01, 0.01))
    acme = _acme(tmp_path / "acme")
    cert, key = Authority(tmp_path).issue("localhost")

    def obtain() -> None:
        acme.key.write_bytes(key.read_bytes())
        acme.cert.write_bytes(cert.read_bytes())

    monkeypatch.setattr(acme, "_obtain", obtain)

    async def main() -> None:
        for start in ("the first", "another"):
            calls, served = 0, asyncio.Event()

            async def open_port() -> None:
                nonlocal calls
                calls += 1
                if calls < 3:
                    raise FailedPrecondition("Another program may use the port.")
                served.set()  # noqa: B023

            acme.start(open_port)
            try:
                await asyncio.wait_for(served.wait(), 10)
            except asyncio.TimeoutError:
                pytest.fail(f"{start} start does not serve")
            finally:
                with contextlib.suppress(FailedPrecondition):
                    await acme.close()

    asyncio.run(main())


@pytest.mark.skipif(shutil.which("pebble") is None, reason="pebble, an ACME server for tests, is not installed")
def test_a_certificate_from_an_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("127.0.0.1")
    http_port, tls_port, acme_port, dns_port = (free_port() for _ in range(4))
    config = {
        "pebble": {
            "listenAddress": f"127.0.0.1:{acme_port}",
            "managementListenAddress": f"127.0.0.1:{free_port()}",
            "certificate": str(cert),
            "privateKey": str(key),
            "httpPort": http_port,
            "tlsPort": free_port(),
        }
    }
    (tmp_path / "pebble.json").write_text(json.dumps(config))
    names = ["-dns01", f"127.0.0.1:{dns_port}", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]
    off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{free_port()}"]
    with (
        subprocess.Popen(
            ["pebble-challtestsrv", *names, *off], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as dns,
        subprocess.Popen(
            ["pebble", "-config", str(tmp_path / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns_port}"],
            # By itself it refuses one nonce in twenty; two in a row cost the server a minute until its next attempt.
            env={"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PATH": "/usr/bin"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as pebble,
    ):
        try:
            monkeypatch.setenv("STOKER_ACME_DOMAINS", '["stoker.test"]')
            monkeypatch.setenv("STOKER_ACME_EMAIL", "someone@stoker.test")
            monkeypatch.setenv("STOKER_ACME_DIRECTORY", f"https://127.0.0.1:{acme_port}/dir")
            monkeypatch.setenv("STOKER_ACME_CA", str(authority.root))
            monkeypatch.setenv("STOKER_TLS_PORT", str(tls_port))
            monkeypatch.setenv("STOKER_HTTP_PORT", str(http_port))
            _await_port(acme_port)
            _await_port(dns_port)
            running = start_server(tmp_path / "data", "process")
            try:
                # A first attempt for which the machine was too slow is repeated a minute later.
                until(lambda: (running.data / "acme" / "certificate.pem").exists(), 150)
                first = (running.data / "acme" / "certificate.pem").read_bytes()
                _await_port(tls_port)
                assert ssl.get_server_certificate(("127.0.0.1", tls_port)).encode() in first
                assert (running.data / "acme" / "key.pem").stat().st_mode & 0o077 == 0
                stop_server(running)
                start_server(tmp_path / "data", "process")
                _await_port(tls_port)
                assert (running.data / "acme" / "certificate.pem").read_bytes() == first  # it was not asked for again
            finally:
                stop_server(running)
        finally:
            pebble.terminate()
            dns.terminate()


async def _first_message(secure: Secure, name: str) -> str | bytes:
    """Of a websocket. Not by the client with threads: two threads of one TLS connection of OpenSSL lose its first bytes now and then."""
    context, uri = secure.context, f"wss://{name}:{secure.port}/"
    async with connect(uri, sock=_plain(secure), ssl=context, server_hostname=name) as websocket:
        return await websocket.recv()


def _plain(secure: Secure) -> socket.socket:
    return socket.create_connection(("127.0.0.1", secure.port), timeout=60)


def _await_port(port: int) -> None:
    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens)

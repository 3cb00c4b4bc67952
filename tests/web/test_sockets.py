"""Websockets, and peers that break the rules of HTTP."""

from __future__ import annotations

import base64
import os

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.web.conftest import Web, until


def _connect(web: Web, function: str, path: str, subprotocols: list[str] | None = None) -> ClientConnection:
    url = web.base.replace("http", "ws") + web.path(function, path)
    return connect(url, subprotocols=subprotocols, open_timeout=60, max_size=None)  # type: ignore[arg-type]


def test_messages_go_both_ways(web: Web) -> None:
    with _connect(web, "site", "/echo", ["alpha", "beta"]) as socket:
        assert socket.subprotocol == "alpha"
        socket.send("hello")
        assert socket.recv() == "HELLO"
        socket.send(b"\x01\x02")
        assert socket.recv() == b"\x02\x01"
        large = "ä" * 1_000_000
        socket.send(large)
        assert socket.recv() == large.upper()


def test_the_app_closes(web: Web) -> None:
    with _connect(web, "site", "/echo") as socket:
        socket.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")


def test_the_client_closes(web: Web) -> None:
    with _connect(web, "site", "/echo") as socket:
        socket.send("x")
        socket.recv()
        socket.close(4321)
    until(lambda: web.get("site", "/seen").json().get("socket_code") == 4321)


def test_a_websocket_that_the_app_does_not_want(web: Web) -> None:
    with pytest.raises(InvalidStatus) as refused:
        _connect(web, "site", "/closed")
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as unknown:
        connect(web.base.replace("http", "ws") + "/w/nobody/")
    assert unknown.value.response.status_code in (403, 404)


def test_a_websocket_cut_in_the_middle_of_a_frame(web: Web) -> None:
    before = web.get("site", "/seen").json()["disconnected"]
    with web.raw() as peer:
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET {web.path('site', '/echo')} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        peer.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        assert peer.recv(4096).startswith(b"HTTP/1.1 101")
        peer.sendall(b"\x81\xfe\x01\x00mask")  # promises 256 bytes, brings none
    until(lambda: web.get("site", "/seen").json()["disconnected"] == before + 1)


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\x00 HTTP/9.9\r\n\r\n",
    ],
)
def test_malformed_http_is_refused(web: Web, bytes_sent: bytes) -> None:
    with web.raw() as peer:
        peer.sendall(bytes_sent)
        answer = peer.recv(4096)
    assert answer.split(b" ")[1].startswith(b"4")
    assert web.ask("GET", "/healthz").status == 200


def test_a_head_without_end_is_refused(web: Web) -> None:
    with web.raw() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            while sent < 1 << 20:
                sent += peer.send(b"X-Filler: " + b"f" * 1000 + b"\r\n")
        except ConnectionError:
            pass
        else:
            assert peer.recv(4096).startswith(b"HTTP/1.1 431")
    assert web.ask("GET", "/healthz").status == 200


def test_many_slow_peers_leave_room_for_others(web: Web) -> None:
    peers = [web.raw() for _ in range(100)]
    try:
        for peer in peers[:50]:
            peer.sendall(b"GET / HTTP/1.1\r\nHo")
        for peer in peers[50:]:  # a body that never comes
            peer.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n" % web.path("flasky").encode())
        assert web.get("site", "/seen").status == 200
    finally:
        for peer in peers:
            peer.close()
    until(lambda: web.ask("POST", web.path("flasky"), b"x").text == "POST x")

"""What HTTP allows between a client and an @app.server, what it does not, and that neither leaves anything behind."""

from __future__ import annotations

import base64
import http.client
import os
import socket

import pytest

from tests.web.conftest import MIB, Web, connection_closed, until


def _talk(servers: Web, data: bytes, until_ends_with: bytes) -> bytes:
    """Sends bytes as they are, and reads until the answer ends like that, or the connection."""
    with servers.raw() as peer:
        peer.sendall(data)
        answer = b""
        while not answer.endswith(until_ends_with):
            more = peer.recv(65536)
            if not more:
                break
            answer += more
        return answer


def _target(servers: Web, function: str, path: str) -> bytes:
    return servers.path(function, path).encode()


def test_events_come_one_by_one_and_the_connection_stays(servers: Web) -> None:
    connection, response = servers.open("GET", servers.path("sockets", "/events"))
    with connection_closed(connection):
        assert response.getheader("content-type", "").startswith("text/event-stream")
        assert response.readline() == b"data: 0\n"
        assert not response.isclosed()  # the others are not there yet
        assert response.read() == b"\ndata: 1\n\ndata: 2\n\n"
        same = connection.sock
        connection.request("HEAD", servers.path("open", "/x"))
        head = connection.getresponse()
        assert int(head.getheader("content-length", "0")) > 0
        assert head.read() == b""
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok"
        assert connection.sock is same


def test_a_body_of_unknown_length_goes_in_chunks(servers: Web) -> None:
    headers = {"X-Request-Id": "given-1"}
    sent = servers.ask("POST", servers.path("sockets", "/size"), iter([b"a" * 70_000] * 10), headers)
    assert sent.json() == {"size": 700_000, "id": "given-1"}
    assert sent.headers["x-request-id"] == "given-1"


def test_a_client_that_asks_first_whether_it_may_send(servers: Web) -> None:
    target = _target(servers, "sockets", "/size")
    with servers.raw() as peer:
        peer.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n" % target)
        assert peer.recv(4096).startswith(b"HTTP/1.1 100")
        peer.sendall(b"abc")
        answer = b""
        while b'{"size":3' not in answer:  # head and body may come apart
            piece = peer.recv(4096)
            assert piece, answer
            answer += piece


def test_requests_that_do_not_wait_for_answers_get_them_in_order(servers: Web) -> None:
    slow, fast = _target(servers, "open", "/slow=0.5"), _target(servers, "open", "/fast")
    asks = b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % t for t in (slow, b"/healthz", fast))
    last = b"GET /w/nobody HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = _talk(servers, asks + last, b"\0")
    found = [answers.index(part) for part in (b"GET /slow=0.5", b"ok", b"GET /fast", b"'nobody'")]
    assert found == sorted(found)


def test_old_clients(servers: Web) -> None:
    answer = _talk(servers, b"GET %s HTTP/1.0\r\nHost: x\r\n\r\n" % _target(servers, "sockets", "/events"), b"\0")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Transfer-Encoding: chunked, identity",
        b"Content-Length: +5",
        b"Content-Length : 5",
        b"X: a\r\n folded: b",
    ],
)
def test_requests_that_two_parsers_could_read_differently(servers: Web, headers: bytes) -> None:
    target = _target(servers, "open", "/")
    asked = b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\nhelloGET /inner HTTP/1.1\r\nHost: x\r\n\r\n" % (target, headers)
    answer = _talk(servers, asked, b"\0")
    assert b"/inner" not in answer
    assert answer.split(b" ")[1].startswith(b"4")
    assert servers.get("open").status == 200


def test_an_answer_that_is_no_http(servers: Web) -> None:
    assert servers.get("open", "/garbage").status == 502
    assert servers.get("open").status == 200


def test_a_client_that_leaves_is_missed(servers: Web) -> None:
    before = servers.get("sockets", "/gone").json()
    connection = http.client.HTTPConnection(*servers.address)
    connection.request("GET", servers.path("sockets", "/never"))
    until(lambda: servers.metric("stoker_http_open_requests") == 1)
    connection.close()
    until(lambda: servers.get("sockets", "/gone").json() == before + 1)
    with servers.raw() as peer:
        peer.sendall(_upgrade(servers))
        assert peer.recv(4096).startswith(b"HTTP/1.1 101")
        peer.sendall(b"\x81\xfe\x01\x00mask")  # promises 256 bytes, brings none
    until(lambda: servers.get("sockets", "/gone").json() == before + 2)


def test_a_websocket_that_the_server_does_not_want(servers: Web) -> None:
    wanted = _upgrade(servers).replace(b"/echo", b"/nothing")
    assert b" 403 " in _talk(servers, wanted, b"\0").split(b"\r\n")[0]
    assert servers.get("sockets", "/gone").status == 200


def test_a_storm_of_peers_that_break_off_leaves_nothing(servers: Web) -> None:
    servers.get("open"), servers.get("sockets", "/gone")
    until(lambda: servers.metric("stoker_http_open_requests") == 0)
    tasks, memory = servers.metric("stoker_tasks"), servers.memory()
    download, upload = _target(servers, "open", "/download=50"), _target(servers, "open", "/up")
    never = _target(servers, "sockets", "/never")
    half = [
        b"GET / HTT",
        b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % download,
        b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % never,
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" % upload + b"u" * 100_000,
        _upgrade(servers),
        _upgrade(servers) + b"\x81\xfe\x01",
    ]
    for _ in range(10):
        peers = [servers.raw() for _ in half for _ in range(3)]
        for number, peer in enumerate(peers):
            peer.sendall(half[number % len(half)])
        for number, peer in enumerate(peers):
            if number % 2:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a goodbye
            peer.close()
    until(lambda: servers.metric("stoker_http_open_requests") == 0)
    until(lambda: servers.metric("stoker_http_connections") == 1)  # the one that asks
    until(lambda: servers.metric("stoker_tasks") <= tasks + 2)
    until(lambda: servers.metric("stoker_inputs") == 0)
    assert servers.memory() - memory < 40 * MIB
    assert servers.get("open").status == 200


def _upgrade(servers: Web) -> bytes:
    key = base64.b64encode(os.urandom(16))
    head = b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" % _target(
        servers, "sockets", "/echo"
    )
    return head + b"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n" % key

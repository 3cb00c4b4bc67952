"""@app.server classes: HTTP goes straight to the port of a container."""

from __future__ import annotations

import http.client
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.web.conftest import MIB, Web, until

_TOKEN = """
import modal
from modal._utils.async_utils import synchronizer
from modal.client import _Client
from modal_proto import api_pb2

@synchronizer.create_blocking
async def token(function_id):
    client = await _Client.from_env()
    request = api_pb2.FunctionGetFlashAuthTokenRequest(function_id=function_id)
    return (await client.stub.FunctionGetFlashAuthToken(request)).token

server = modal.Server.from_name("server", "Guarded")
print(server.get_url())
print(token(server.object_id))
"""


def test_requests_reach_the_server_as_they_are(servers: Web) -> None:
    answer = servers.ask("GET", servers.path("open", "/a%2Fb/%20c?x=1&x=2"))
    method, target, size, _, host, forwarded = answer.text.split()
    assert (method, target, size) == ("GET", "/a%2Fb/%20c?x=1&x=2", "0")
    assert host == servers.base.removeprefix("http://")
    assert forwarded == "127.0.0.1"
    assert answer.headers["x-answered-by"] == "app"
    assert servers.ask("DELETE", servers.path("open")).text.startswith("DELETE / 0 ")


def test_large_bodies_flow(servers: Web) -> None:
    servers.get("open")
    before, peak = servers.memory(), 0

    def body() -> object:
        nonlocal peak
        for _ in range(100):
            peak = max(peak, servers.memory())
            yield b"u" * MIB

    sent = servers.ask("PUT", servers.path("open", "/up"), body(), {"Content-Length": str(100 * MIB)})
    assert sent.text.startswith(f"PUT /up {100 * MIB} ")
    connection, response = servers.open("GET", servers.path("open", "/download=100"))
    size = 0
    while chunk := response.read(MIB):
        size += len(chunk)
        peak = max(peak, servers.memory())
    connection.close()
    assert size == 100 * MIB
    assert peak - before < 40 * MIB


def test_a_server_that_breaks_off(servers: Web) -> None:
    answer = servers.get("open", "/break")
    assert answer.status == 502
    assert servers.get("open").status == 200


def test_a_server_that_ends_in_a_container_that_lives_is_replaced(servers: Web) -> None:
    first = servers.get("open").text.split()[3]
    assert servers.get("open", "/die").status == 502
    until = time.monotonic() + 30
    while (after := servers.get("open")).status == 502:  # the old one took the request before it was quite dead
        assert time.monotonic() < until
    assert after.status == 200
    assert after.text.split()[3] != first


def test_a_full_server_says_so_and_a_client_that_leaves_makes_room(servers: Web) -> None:
    assert servers.get("narrow").status == 200
    slow = [http.client.HTTPConnection(*servers.address) for _ in range(2)]
    for connection in slow:
        connection.request("GET", servers.path("narrow", "/slow=30"))
    until(lambda: servers.get("narrow").status == 429)
    full = servers.get("narrow")
    assert "Narrow" in full.text
    assert int(full.headers["retry-after"]) >= 1
    for connection in slow:
        connection.close()
    until(lambda: servers.get("narrow").status == 200)


def test_a_guarded_server_wants_a_token(servers: Web) -> None:
    assert servers.get("guarded").status == 401
    url, token = servers.server.python(_TOKEN).stdout.split()
    assert url == servers.base + servers.path("guarded")
    allowed = {"Modal-Authorization": f"Bearer {token}"}
    assert servers.ask("GET", servers.path("guarded"), headers=allowed).status == 200
    for wrong in (token[:-1] + ("0" if token[-1] != "0" else "1"), "9" + token, "1.x", "x"):
        headers = {"Modal-Authorization": f"Bearer {wrong}"}
        assert servers.ask("GET", servers.path("guarded"), headers=headers).status == 401


def test_guessing_the_token_of_a_server_is_slowed_down_where_it_comes_from(servers: Web) -> None:
    _, token = servers.server.python(_TOKEN).stdout.split()
    path = servers.path("guarded")
    answers = [servers.ask_from("127.0.0.3", path, {"Modal-Authorization": f"Bearer 1.{n}"}) for n in range(40)]
    assert answers[0].status == 401 and answers[-1].status == 429
    assert servers.ask_from("127.0.0.4", path, {"Modal-Authorization": f"Bearer {token}"}).status == 200


def test_a_server_that_never_listens(servers: Web) -> None:
    answer = servers.get("deaf")
    assert answer.status == 503
    assert "Deaf" in answer.text


def test_websockets(servers: Web) -> None:
    url = servers.base.replace("http", "ws") + servers.path("sockets", "/echo")
    with connect(url, open_timeout=60) as socket:
        socket.send("hello")
        assert socket.recv() == "HELLO"
        socket.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4002
    with connect(url) as socket:
        socket.send("x")
        socket.recv()
        socket.close(4003)
    until(lambda: "socket closed 4003" in servers.server.modal("app", "logs", "server", check=False).stdout)


def test_an_idle_server_goes_and_comes_back(servers: Web) -> None:
    first = servers.get("open").text.split()[3]
    until(lambda: not any(f["name"] == "Open" and f["containers"] for f in servers.status()["functions"]))
    assert "exit hook ran" in servers.server.modal("app", "logs", "server").stdout
    assert servers.get("open").text.split()[3] != first


def test_what_cannot_be_served_is_told_at_deployment(servers: Web, tmp_path: object) -> None:
    program = (
        "import modal\n"
        "app = modal.App('h2')\n"
        "@app.server(port=8999, h2_enabled=True, serialized=True)\n"
        "class S:\n"
        "    @modal.enter()\n"
        "    def start(self):\n"
        "        pass\n"
        "with modal.enable_output():\n"
        "    app.deploy()\n"
    )
    done = servers.server.python(program, check=False)
    assert done.returncode == 1 and "h2_enabled" in done.stdout + done.stderr
    assert servers.ask("GET", "/w/local--h2-s", headers={"Modal-Key": "x", "Modal-Secret": "y"}).status == 404

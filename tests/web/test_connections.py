"""What is on the wire between a client, the gateway and a server in a container, byte by byte, without a container."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from stoker.agent.ports import LocalPorts
from stoker.gateway.web import connection as connection_module
from stoker.gateway.web.access import AccessLog
from stoker.gateway.web.connection import Connection
from stoker.gateway.web.endpoint import _location
from stoker.gateway.web.exchange import CALL_PARAMETER
from stoker.gateway.web.heads import with_origin
from stoker.gateway.web.serve import HttpServer
from stoker.gateway.web.server_gateway import ServerGateway
from stoker.services.apps.endpoints import Endpoint, Place
from stoker.services.functions.spec import ServerSpec
from stoker.services.pools.servers import Slot
from stoker.services.telemetry.metrics import Metrics

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET /s/x HTTP/1.1\r\nHost: h\r\n\r\n"
SECONDS = 10  # until a test has failed


class Slots:
    """In place of the scheduler: slots of one container. While it is `cold` there are none."""

    def __init__(self) -> None:
        self.port = 0
        self.taken = 0
        self.given_back = 0
        self.warm = asyncio.Event()
        self.warm.set()

    def take(self, function_id: str, server: ServerSpec, affinity: bytes = b"") -> Slot | None:
        return self._slot() if self.warm.is_set() else None

    async def wait(self, function_id: str, server: ServerSpec) -> Slot:
        await self.warm.wait()
        return self._slot()

    def give_back(self, slot: Slot) -> None:
        self.given_back += 1

    def _slot(self) -> Slot:
        self.taken += 1
        return Slot("ta-1", LocalPorts(lambda task_id: "127.0.0.1"), self.port, f"sr-{self.taken}")


class Gate:
    """A gateway with an @app.server under /s and, for whoever shows no token, under /guarded; anything else is for `application`."""

    def __init__(self, application: Any = None) -> None:
        self.slots = Slots()
        self.heads: list[bytes] = []  # that the server in the container got
        self.bodies: list[bytes] = []
        endpoints = SimpleNamespace(locate=self._locate)
        admission = SimpleNamespace(admits=lambda endpoint, headers, address: endpoint.label == "s")
        self.log = AccessLog(Metrics(), enabled=False)
        self.gateway = ServerGateway(endpoints=endpoints, servers=self.slots, admission=admission, log=self.log)  # type: ignore[arg-type]
        self.http = HttpServer(application or _nothing, self.gateway)
        self.port = 0

    async def talk(self, data: bytes) -> bytes:
        """Sends bytes, and reads until the connection ends."""
        reader, writer = await self.open()
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), SECONDS)
        writer.close()
        return answer

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    @property
    def connections(self) -> list[Connection]:
        assert self.http._server is not None
        return list(self.http._server.server_state.connections)  # type: ignore[arg-type]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The server in the container: notes what it gets."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                head = self.heads[-1].lower()
                if b"transfer-encoding: chunked" in head:
                    self.bodies.append(await reader.readuntil(b"0\r\n\r\n"))
                elif b"content-length: " in head:
                    self.bodies.append(
                        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r")[0]))
                    )
                writer.write(OK)
        writer.close()

    @staticmethod
    def _locate(host: str, path: str) -> Place | None:
        name = path.split("/")[1]
        if name not in ("s", "guarded"):
            return None
        return Place(Endpoint(name, "ap-1", "fu-1", ServerSpec("Server", 8000)), f"/{name}")


@contextlib.asynccontextmanager
async def gate(application: Any = None, handler: Handler | None = None) -> AsyncIterator[Gate]:
    made = Gate(application)
    container = await asyncio.start_server(handler or made.serve, "127.0.0.1", 0)
    made.slots.port = container.sockets[0].getsockname()[1]
    made.port = await made.http.start(["127.0.0.1"], 0)
    try:
        yield made
    finally:
        await made.http.stop(0)
        await made.gateway.close()
        container.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 3 * SECONDS))  # type: ignore[arg-type]


async def _nothing(scope: Any, receive: Any, send: Any) -> None: ...


def test_a_body_keeps_its_length_whatever_the_client_calls_a_matter_of_the_connection() -> None:
    async def main() -> None:
        async with gate() as made:
            inner = b"GET /s/inner HTTP/1.1\r\nHost: h\r\n\r\n"
            head = b"POST /s/x HTTP/1.1\r\nHost: h\r\nConnection: close, Content-Length, Host, X-Own\r\nX-Own: 1\r\n"
            answer = await made.talk(head + b"Content-Length: %d\r\n\r\n" % len(inner) + inner)
            assert answer.startswith(b"HTTP/1.1 200")
            assert len(made.heads) == 1
            assert made.bodies == [inner]
            assert b"host: h\r\n" in made.heads[0]
            assert b"x-own" not in made.heads[0]

    run(main)


def test_a_server_is_told_once_how_a_request_came() -> None:
    async def main() -> None:
        async with gate() as made:
            asked = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n")
            await made.talk(asked)
            assert made.heads[0].lower().count(b"x-forwarded-proto") == 1  # what the proxy in front of us says
            assert b"x-forwarded-proto: https\r\n" in made.heads[0].lower()

    run(main)
    said = [(b"host", b"h"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-prefix", b"/admin")]
    assert with_origin(said, "192.0.2.7", "http") == [
        (b"host", b"h"), (b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-proto", b"http")
    ]  # fmt: skip


def test_what_is_said_after_a_body_is_no_header() -> None:
    async def main() -> None:
        seen: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass
            seen.extend(scope["headers"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        async with gate(application) as made:
            made.slots.warm.clear()
            for path in (b"/s/x", b"/other"):
                head = b"POST %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" % path
                asking = asyncio.ensure_future(made.talk(head + b"3\r\nabc\r\n0\r\nHost: evil\r\nX-Late: 1\r\n\r\n"))
                if path == b"/s/x":
                    await _until(lambda: bool(made.connections and made.connections[0]._current))
                    made.slots.warm.set()
                assert (await asking).startswith(b"HTTP/1.1 200")
            assert b"evil" not in made.heads[0] and b"late" not in made.heads[0]
            assert made.bodies == [b"3\r\nabc\r\n0\r\n\r\n"]
            assert [value for name, value in seen if name == b"host"] == [b"h"]

    run(main)


def test_what_is_said_after_a_body_has_an_end() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def main() -> None:
        async with gate(application) as made:
            _, writer = await made.open()
            writer.write(b"POST /other HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Late: ")
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    writer.write(b"x" * 10_000)
                    await asyncio.wait_for(writer.drain(), SECONDS)
            await _until(lambda: not made.connections)
            writer.close()

    run(main)


def test_a_refused_head_has_no_body() -> None:
    async def main() -> None:
        async with gate() as made:
            head = b"HEAD /guarded/x HTTP/1.1\r\nHost: h\r\n\r\n"
            answer = await made.talk(head + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            first, _, rest = answer.partition(b"\r\n\r\n")
            assert first.startswith(b"HTTP/1.1 401") and b"content-length: " in first
            assert rest.startswith(b"HTTP/1.1 200")

    run(main)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
def test_a_request_that_offers_http_2_keeps_its_body(framing: bytes) -> None:
    bodies: list[bytes] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        offer = b"Host: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n" + framing
        async with gate(application) as made:
            last = b"GET /other HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            asked = b"POST /s/x HTTP/1.1\r\n" + offer + b"POST /other HTTP/1.1\r\n" + offer
            answer = await made.talk(asked + last)
            assert answer.count(b"HTTP/1.1 200") == 3
            assert bodies == [b"hello", b""]
            assert b"hello" in made.bodies[0] and b"upgrade" not in made.heads[0].lower()

            # The parts may come one by one.
            reader, writer = await made.open()
            head, _, body = (b"POST /s/x HTTP/1.1\r\n" + offer).partition(b"\r\n\r\n")
            for part in (head, b"\r\n\r\n", *(body[i : i + 1] for i in range(len(body)))):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            assert (await asyncio.wait_for(reader.readuntil(b"ok"), SECONDS)).startswith(b"HTTP/1.1 200")
            assert len(made.bodies) == 2
            writer.close()

    run(main)


def _upgrade(path: bytes) -> bytes:
    key = base64.b64encode(os.urandom(16))
    head = b"GET %b HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" % path
    return head + b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % key


def test_a_request_for_a_websocket_with_a_body_is_refused() -> None:
    async def main() -> None:
        async with gate() as made:
            wanted = _upgrade(b"/s/x").replace(b"\r\n\r\n", b"\r\nContent-Length: 30\r\n\r\n")
            assert (await made.talk(wanted)).startswith(b"HTTP/1.1 400")
            assert made.heads == []

    run(main)


def test_what_comes_for_a_websocket_waits_until_the_server_has_switched() -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")
        got.append(await reader.read())  # whatever else there is
        writer.close()

    async def main() -> None:
        async with gate(handler=serve) as made:
            made.slots.warm.clear()
            reader, writer = await made.open()
            writer.write(_upgrade(b"/s/x"))
            await _until(lambda: bool(made.connections and made.connections[0]._current))
            passage = made.connections[0]._current
            assert passage is not None
            writer.write(GET)
            await _until(lambda: bool(passage._held))
            made.slots.warm.set()
            assert (await asyncio.wait_for(reader.read(), SECONDS)).startswith(b"HTTP/1.1 403")
            writer.close()
            await _until(lambda: bool(got))
            assert got == [b""]

    run(main)


def test_a_websocket_of_a_function_after_a_request_to_a_server() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    async def main() -> None:
        async with gate(application) as made:
            reader, writer = await made.open()
            writer.write(GET)
            await asyncio.wait_for(reader.readuntil(b"ok"), SECONDS)
            writer.write(_upgrade(b"/other"))
            assert (await asyncio.wait_for(reader.readline(), SECONDS)).startswith(b"HTTP/1.1 101")
            writer.close()

    run(main)


def test_both_ends_leave_in_the_same_moment() -> None:
    async def main() -> None:
        answers = iter([OK])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(next(answers, b""))

        async with gate(handler=serve) as made:
            reader, writer = await made.open()
            writer.write(GET)
            await asyncio.wait_for(reader.readuntil(b"ok"), SECONDS)
            writer.write(GET)
            await _until(lambda: bool(made.connections[0]._current))
            passage = made.connections[0]._current
            assert passage is not None and passage._upstream is not None and passage._upstream.reused
            upstream = passage._upstream
            passage.on_lost()
            passage.on_client_lost()
            upstream.close()
            await asyncio.sleep(0)
            assert made.slots.taken == made.slots.given_back == 2
            writer.close()

    run(main)


def test_a_client_that_leaves_is_missed_also_when_it_has_asked_for_more() -> None:
    left = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async def main() -> None:
        async with gate(application) as made:
            _, writer = await made.open()
            writer.write(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
            await _until(lambda: bool(made.connections and made.connections[0].pipeline))
            writer.close()
            await asyncio.wait_for(left.wait(), SECONDS)

    run(main)


def test_a_late_head_does_not_end_the_answer_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_HEAD_SECONDS", 0.5)
    go_on = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        async with gate(application) as made:
            reader, writer = await made.open()
            writer.write(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\nGET /oth")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
            watch = made.connections[0]._head_timer
            await _until(lambda: made.connections[0]._head_timer is not watch)  # it has looked
            go_on.set()
            assert await asyncio.wait_for(reader.readexactly(2), SECONDS) == b"ok"
            writer.close()

    run(main)


def test_nonsense_behind_a_request_does_not_become_a_part_of_its_answer() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async def main() -> None:
        async with gate(application) as made:
            reader, writer = await made.open()
            writer.write(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"begun"), SECONDS)
            writer.write(b"this is no HTTP\r\n\r\n")
            assert await asyncio.wait_for(reader.read(), SECONDS) == b""
            writer.close()

    run(main)


def test_a_lost_machine_is_noticed() -> None:
    async def main() -> None:
        async with gate() as made:
            assert made.http._sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    run(main)


def test_asking_again_does_not_lead_to_another_host() -> None:
    scope = {"raw_path": b"//elsewhere.test/x", "path": "//elsewhere.test/x", "query_string": b"a=1"}
    exchange: Any = SimpleNamespace(scope=scope)
    assert _location(exchange, "fc-1") == b"/.//elsewhere.test/x?a=1&%b=fc-1" % CALL_PARAMETER.encode()


async def _until(condition: Callable[[], bool]) -> None:
    """Waits until something is true that comes about by itself."""
    with anyio.fail_after(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

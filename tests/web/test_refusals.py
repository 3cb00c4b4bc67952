"""Requests and answers that could be read in two ways, never end, or take more than they should, without a container."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from stoker import connections as connections_module
from stoker.gateway.web import connection as connection_module
from stoker.gateway.web.exchange import Exchange
from stoker.gateway.web.heads import forwarded
from stoker.gateway.web.web import WebGateway
from stoker.services.apps.endpoints import Endpoint, Place
from stoker.services.functions.spec import WebSpec
from tests.web.test_connections import SECONDS, Gate, gate, run

POST = b"POST %b HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = (
    b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
TARGETS = (b"/function", b"/s/x")


class Function:
    """An ASGI application that notes what it gets, and answers with what it is told to."""

    def __init__(self, *answer: dict[str, Any]) -> None:
        self.requests: list[tuple[Any, bytes]] = []
        self._answer = answer or (
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]},
            {"type": "http.response.body", "body": b"ok"},
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["type"] == "http"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.requests.append((scope, body))
        for message in self._answer:
            await send(message)


async def _first_line(made: Gate, request: bytes) -> bytes:
    return (await made.talk(request)).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "request_, status",
    [
        # Its end could be seen at several places.
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhelloX", 400),
        (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
        (POST + b"Content-Length: +5\r\n\r\nhello", 400),
        (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
        (POST + b"Content-Length: -5\r\n\r\nhello", 400),
        (POST + b"Content-Length : 5\r\n\r\nhello", 400),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello", 400),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST %b HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\n Host: h\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\nHost: h\n\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\r\nX\0: b\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\r\n: y\r\n\r\n", 400),
        (b"GET %b\0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET %b a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET %b HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"GET %b HTTP/11.1\r\nHost: h\r\n\r\n", 400),
        # Whose it is would be a matter of opinion.
        (b"GET %b HTTP/1.1\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\r\nHost: g\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        (b"GET http://u:p@other%b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET ftp://other%b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        # A websocket begins where the head ends.
        (WEBSOCKET + b"Content-Length: 5\r\n\r\n", 400),
        (WEBSOCKET + b"Content-Length: 5\r\n\r\nhello", 400),
        (WEBSOCKET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (
            WEBSOCKET.replace(b"websocket\r\n", b"h2c\r\nUpgrade: WebSocket\r\n") + b"Content-Length: 5\r\n\r\nhello",
            400,
        ),
        # Heads that came at once, before anybody could count their bytes.
        (b"GET %b HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"GET %b?" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
        (b"GET %b HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 300 + b"\r\n", 431),
        (b"GET %b HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 30_000 + b"\r\n", 431),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_no_request_is_passed_on_that_others_could_read_differently(
    request_: bytes, status: int, target: bytes
) -> None:
    async def main() -> None:
        function = Function()
        async with gate(function) as made:
            assert (await _first_line(made, request_.replace(b"%b", target))).startswith(b"HTTP/1.1 %d " % status)
            assert not function.requests and not made.heads

    run(main)


@pytest.mark.parametrize(
    "body",
    [
        b"2;a\nhi\r\n0\r\n\r\n",
        b"2\nhi\n0\n\n",
        b"2 \r\nhi\r\n0\r\n\r\n",
        b"0x2\r\nhi\r\n0\r\n\r\n",
        b"2\r\nhi0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_body_whose_pieces_do_not_fit_ends_the_connection(body: bytes, target: bytes) -> None:
    async def main() -> None:
        function = Function()
        async with gate(function) as made:
            inner = b"GET /s/inner HTTP/1.1\r\nHost: h\r\n\r\n"
            answer = await made.talk((CHUNKED % target) + body + inner)
            assert answer.count(b"HTTP/1.1") <= 1
            assert not any(b"/inner" in head for head in made.heads)

    run(main)


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_plain_request_may_be(target: bytes) -> None:
    async def main() -> None:
        function = Function()
        async with gate(function) as made:
            for request in (
                b"GET %b HTTP/1.0\r\n\r\n",
                b"GET %b HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
                b"GET %b HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
                b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + b"a: b\r\n" * 150 + b"\r\n",
                b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: " + b"a" * 60_000 + b"\r\n\r\n",
                POST + b"Connection: close\r\nContent-Length: 5 \r\n\r\nhello",
                POST + b"Connection: close\r\nTransfer-Encoding:\tChunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n",
            ):
                assert (await _first_line(made, request.replace(b"%b", target))).startswith(b"HTTP/1.1 200 "), request[
                    :90
                ]
            if target == b"/s/x":
                assert b"content-length: 5\r\n" in made.heads[-2]
                assert (
                    b"\r\ntransfer-encoding: chunked\r\n" in made.heads[-1]
                    and made.bodies[-1] == b"5\r\nhello\r\n0\r\n\r\n"
                )

    run(main)


@pytest.mark.parametrize("target", TARGETS)
def test_the_host_in_the_target_is_the_one_that_counts(target: bytes) -> None:
    async def main() -> None:
        function = Function()
        async with gate(function) as made:
            await made.talk(b"GET http://other:9%b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)
            hosts = (
                [v for n, v in function.requests[0][0]["headers"] if n == b"host"] if function.requests else made.heads
            )
            assert hosts == [b"other:9"] or b"host: other:9\r\n" in hosts[0]

    run(main)


def test_a_header_that_poses_as_another_is_not_passed_on() -> None:
    given = [
        (b"x_forwarded_for", b"1"),
        (b"content_length", b"7"),
        (b"modal_key", b"k"),
        (b"x_request_id", b"9"),
        (b"transfer_encoding", b"chunked"),
        (b"my_own", b"y"),
        (b"host", b"h"),
    ]
    assert forwarded(given) == given[-2:]


@pytest.mark.parametrize("target", TARGETS)
def test_a_crowd_of_requests_in_one_connection_is_answered_as_far_as_it_was_read(target: bytes) -> None:
    async def main() -> None:
        async with gate(Function()) as made:
            answer = await made.talk((b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target) * 5_000)
            assert answer.count(b"HTTP/1.1 200 OK") == 1 + connection_module._MOST_PIPELINED

    run(main)


def test_a_body_nobody_waits_for_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_REST_SECONDS", 0.2)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 405, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with gate(application) as made:
            reader, writer = await made.open()
            writer.write(CHUNKED % b"/x")
            await reader.readuntil(b"\r\n\r\n")

            async def drip() -> None:
                while True:
                    writer.write(b"1\r\nx\r\n")
                    await asyncio.sleep(0.01)

            dripping = asyncio.ensure_future(drip())
            with contextlib.suppress(
                ConnectionResetError
            ):  # what came last was not read when the connection was closed
                assert await asyncio.wait_for(reader.read(), SECONDS) == b""
            dripping.cancel()

    run(main)


# Answers


def _web(*answer: dict[str, Any]) -> tuple[WebGateway, list[Any]]:
    """A gateway whose one function answers so, and what its log says."""

    class Functions:
        async def answer(self, exchange: Exchange, spec: WebSpec) -> None:
            if exchange.is_websocket:
                await exchange.receive()
            for message in answer:
                await exchange.send(dict(message))

    class Log:
        def begin(self) -> None: ...

        def add(self, line: Any) -> None:
            lines.append(line)

    class Anybody:
        def admits(self, endpoint: Endpoint, headers: Any, address: str) -> bool:
            return True

    class One:
        def locate(self, host: str, path: str) -> Place:
            return Place(Endpoint("l--f", "ap-1", "fu-1", WebSpec("f", "f")), "/w/l--f")

    lines: list[Any] = []
    gateway = WebGateway(None, endpoints=One(), functions=Functions(), admission=Anybody(), log=Log())  # type: ignore[arg-type]
    return gateway, lines


def _start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


BODY = {"type": "http.response.body", "body": b"hello"}


@pytest.mark.parametrize(
    "start",
    [
        _start((b"x-evil", b"a\r\nSet-Cookie: b=c")),
        _start((b"x-evil", b"a\nb")),
        _start((b"x-evil", b"a\0b")),
        _start((b"x evil", b"a")),
        _start((b"x:evil", b"a")),
        _start((b"", b"a")),
        _start((b"content-length", b"5"), (b"content-length", b"5")),
        _start((b"content-length", b"five")),
        _start((b"content-length", b"-5")),
        _start(status=99),
        _start(status=101),
        _start(status=1000),
        {"type": "websocket.accept"},
        {"type": "nonsense"},
    ],
)
def test_an_answer_that_is_none_becomes_a_502(start: dict[str, Any]) -> None:
    async def main() -> None:
        gateway, lines = _web(start, BODY)
        async with gate(gateway) as made:
            answer = await made.talk(b"GET /w/l--f/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 502 ") and b"The app" in answer
            assert lines[0]["status"] == 502
            assert b"Set-Cookie" not in answer

    run(main)


@pytest.mark.parametrize(
    "accept",
    [
        {"type": "websocket.accept", "headers": [(b"x-evil", b"a\r\nSet-Cookie: b=c")]},
        {"type": "websocket.accept", "subprotocol": "other"},
        {"type": "websocket.accept", "subprotocol": "chat\r\nSet-Cookie: b=c"},
        {"type": "websocket.http.response.start", "status": 200, "headers": [(b"x-evil", b"a\r\nSet-Cookie: b=c")]},
        _start(),
    ],
)
def test_a_websocket_is_not_accepted_with_what_cannot_be(accept: dict[str, Any]) -> None:
    async def main() -> None:
        gateway, lines = _web(accept)
        async with gate(gateway) as made:
            answer = await made.talk((WEBSOCKET % b"/w/l--f/x") + b"Sec-WebSocket-Protocol: chat\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 502 ") and b"Set-Cookie" not in answer
            assert lines[0]["status"] == 502

    run(main)


def test_an_answer_longer_than_announced_is_broken_off() -> None:
    async def main() -> None:
        gateway, lines = _web(_start((b"content-length", b"3")), BODY)
        async with gate(gateway) as made:
            answer = await made.talk(b"GET /w/l--f/x HTTP/1.1\r\nHost: h\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ") and b"hello" not in answer
            assert lines[0]["aborted"]

    run(main)


def test_what_an_answer_says_of_its_connection_stays_there() -> None:
    headers = ((b"connection", b"close, x-own"), (b"x-own", b"1"), (b"x-other", b"2"), (b"content-length", b"5"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\nhello")
        writer.close()

    async def main() -> None:
        gateway, _ = _web(_start(*headers), BODY)
        async with gate(gateway, serve) as made:
            for path in (b"/w/l--f/x", b"/s/x"):
                answer = await made.talk(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % path)
                assert b"x-other: 2" in answer and b"x-own" not in answer

    run(main)


def test_a_container_whose_head_does_not_end_is_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                writer.write(b"x: " + b"y" * 10_000 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            ended.set()

    ended = asyncio.Event()

    async def main() -> None:
        async with gate(handler=serve) as made:
            answer = await made.talk(b"GET /s/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 502 ")
            await asyncio.wait_for(ended.wait(), SECONDS)

    run(main)


# Connections


def test_who_takes_nothing_of_an_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "LOOK_SECONDS", 0.05)
    gone = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (sending := asyncio.ensure_future(send({**BODY, "body": bytes(1 << 20), "more_body": True}))) is not None:
            await sending
            if scope["path"] == "/unread" and not made.http._kept:
                gone.set()
                return

    async def main() -> None:
        global made
        async with gate(application) as made:
            for connection in (made.http._connection, made.http._websocket):
                connection.keywords["stall"] = 0.3
            _, writer = await made.open()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /unread HTTP/1.1\r\nHost: h\r\n\r\n")
            await asyncio.wait_for(gone.wait(), SECONDS)
            writer.close()

    run(main)


def test_who_comes_when_all_connections_are_taken_gets_that_of_an_idle_one() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/busy":
            await busy.wait()
        await Function()(scope, receive, send)

    busy = asyncio.Event()

    async def main() -> None:
        async with gate(application) as made:
            made.http._kept._most = 5
            at_work, writer = await made.open()
            writer.write(b"GET /busy HTTP/1.1\r\nHost: h\r\n\r\n")
            crowd = [await made.open() for _ in range(20)]
            answer = await made.talk(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            busy.set()
            assert (await asyncio.wait_for(at_work.readuntil(b"\r\n"), SECONDS)).startswith(b"HTTP/1.1 200 ")
            assert sum(reader.at_eof() or bool(reader._buffer) for reader, _ in crowd) >= 14  # type: ignore[attr-defined]
            for _, one in crowd:
                one.close()
            writer.close()

    run(main)


def test_a_message_of_a_websocket_in_endless_pieces_ends_it() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def main() -> None:
        async with gate(application) as made:
            reader, writer = await made.open()
            writer.write((WEBSOCKET % b"/x") + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x02\x80\0\0\0\0")  # the first piece of a message, and then more, of no bytes
            for _ in range(20):
                writer.write(b"\x00\x80\0\0\0\0" * 1_000)
                await asyncio.sleep(0)
            with contextlib.suppress(ConnectionError):
                assert b"\x03\xf1" in await asyncio.wait_for(reader.read(), SECONDS)  # 1009
            writer.close()

    run(main)

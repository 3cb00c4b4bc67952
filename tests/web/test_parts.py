"""The parts alone: the pickle writer, pipes, and the bounds on a connection's head."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import socket
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.agent.ports import LocalPorts
from stoker.errors import FailedPrecondition, Unauthenticated, Unavailable
from stoker.gateway.api.app import make_gateway
from stoker.gateway.transfer import Transfer
from stoker.gateway.web import connection
from stoker.gateway.web.access import AccessLog
from stoker.gateway.web.endpoint import FunctionGateway
from stoker.gateway.web.heads import asking_for
from stoker.gateway.web.serve import HttpServer
from stoker.gateway.web.server_gateway import ServerGateway
from stoker.gateway.web.upstream import Upstreams
from stoker.protocol.pickling import pickled
from stoker.services.access.attempts import Peer
from stoker.services.calls.pipes import Pipe
from stoker.services.functions.spec import WebSpec
from stoker.services.telemetry.metrics import Metrics

_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.text(st.characters(codec="utf-8"), max_size=300)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
    ),
)


@settings(max_examples=60)
@given(_PLAIN)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    assert pickle.loads(pickled(value)) == value


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        pickled(2**31)


async def _read(pipe: Pipe, after: int, count: int) -> list[int]:
    found = []
    stream = pipe.follow(after)
    async for index, _ in stream:
        found.append(index)
        if len(found) == count:
            break
    await stream.aclose()
    return found


def test_a_writer_waits_for_the_reader() -> None:
    async def main() -> None:
        pipe = Pipe(10)
        await pipe.put(1, b"x" * 8)
        writing = asyncio.ensure_future(pipe.put(2, b"y" * 8))
        await asyncio.sleep(0)
        assert not writing.done()
        pipe.put_now(2, b"other")  # a repeat changes nothing
        assert await _read(pipe, 0, 2) == [1, 2]
        await asyncio.wait_for(writing, 5)
        with pytest.raises(FailedPrecondition):
            await _read(pipe, 0, 1)  # gone

    asyncio.run(main())


def test_what_may_be_replayed_stays_until_told_otherwise() -> None:
    async def main() -> None:
        pipe = Pipe(10, replayable=True)
        await pipe.put(1, b"a")
        await pipe.put(2, b"b")
        assert await _read(pipe, 0, 2) == [1, 2]
        assert await _read(pipe, 0, 2) == [1, 2]
        pipe.forget_read()
        with pytest.raises(FailedPrecondition):
            await _read(pipe, 0, 1)
        pipe.finish()
        assert await _read(pipe, 1, 5) == [2]

    asyncio.run(main())


def test_a_writer_whose_reader_is_gone_never_waits() -> None:
    async def main() -> None:
        pipe = Pipe(1)
        writing = asyncio.ensure_future(pipe.put(1, b"abc"))
        await asyncio.sleep(0)
        pipe.discard()
        await asyncio.wait_for(writing, 5)
        await asyncio.wait_for(pipe.put(2, b"abc"), 5)
        assert await _read(pipe, 0, 1) == []

    asyncio.run(main())


def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.6)  # an answer may take longer than a head
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def talk(port: int) -> tuple[bytes, bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHos")
            refused = slow.recv(4096)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok"):
                answer += peer.recv(4096)
            peer.sendall(b"GET / HTTP/1.1\r\nHos")  # the second request of a connection is watched too
            return refused, peer.recv(4096)

    async def main() -> None:
        server = HttpServer(app)
        port = await server.start(["127.0.0.1"], 0)
        try:
            for refused in await asyncio.to_thread(talk, port):
                assert refused.startswith(b"HTTP/1.1 408")
        finally:
            await server.stop()

    asyncio.run(main())


def test_the_access_log_is_json_like_the_other_lines() -> None:
    async def main() -> str:
        stream = io.StringIO()
        log = AccessLog(Metrics(), stream=stream)
        log.begin()
        log.begin()
        log.add({"label": "a", "status": 200, "ms": 1.5, "request_id": "ab"})
        assert log.open == 1
        assert stream.getvalue() == ""  # lines are gathered for a moment
        await asyncio.sleep(0.2)
        return stream.getvalue()

    (line,) = asyncio.run(main()).splitlines()
    entry = json.loads(line)
    assert datetime.fromisoformat(entry.pop("timestamp").replace("Z", "+00:00")).tzinfo is not None
    assert entry == {
        "label": "a", "status": 200, "ms": 1.5, "request_id": "ab", "event": "web request", "level": "info"
    }  # fmt: skip


def test_other_machines_need_a_token_for_the_metrics() -> None:
    def authenticate(token_id: str, secret: str, peer: Peer) -> Any:
        if (token_id, secret) != ("ak-1", "as-1"):
            raise Unauthenticated("No.")

    async def status() -> dict[str, Any]:
        return {}

    app = make_gateway(
        transfer=Transfer(blobs=None, files=None, network_files=None, signer=None),  # type: ignore[arg-type]
        status=status,
        authenticate=authenticate,
        metrics=Metrics().text,
    )

    def ask(client: str, *headers: tuple[bytes, bytes]) -> int:
        seen: list[int] = []

        async def send(message: Any) -> None:
            seen.append(message.get("status", 0))

        async def receive() -> Any:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": list(headers)}
        asyncio.run(
            app(scope | {"client": (client, 1), "root_path": "", "server": ("h", 1), "scheme": "http"}, receive, send)
        )
        return seen[0]

    assert ask("127.0.0.1") == 200
    assert ask("10.0.0.1") == 401
    assert ask("10.0.0.1", (b"authorization", b"Bearer ak-1.as-2")) == 401
    assert ask("10.0.0.1", (b"authorization", b"Bearer ak-1.as-1")) == 200


def test_a_proxy_on_this_machine_says_for_whom_it_asks() -> None:
    assert asking_for("127.0.0.1", b"203.0.113.9, 198.51.100.7") == "198.51.100.7"
    assert asking_for("::1", b"198.51.100.7") == "198.51.100.7"
    assert asking_for("127.0.0.1", b"") == asking_for("127.0.0.1", b"a, ") == "127.0.0.1"
    assert asking_for("198.51.100.7", b"203.0.113.9") == "198.51.100.7"  # others could say anything


def test_a_connection_that_is_called_off_at_any_moment_is_not_made() -> None:
    async def run() -> None:
        server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        ports, port = LocalPorts(lambda task_id: "127.0.0.1"), server.sockets[0].getsockname()[1]
        called_off = 0
        for turns in range(40):
            opening = asyncio.ensure_future(Upstreams().connect(ports, ("ta-1", port)))
            for _ in range(turns):
                await asyncio.sleep(0)
            if opening.cancel():
                called_off += 1
                await asyncio.wait([opening])
                assert opening.cancelled(), f"the connection was made {turns} turns after its begin"
        assert called_off
        server.close()

    asyncio.run(run())


def test_a_server_that_stops_takes_no_more_requests() -> None:
    nothing: Any = None
    servers = ServerGateway(
        endpoints=nothing, servers=nothing, admission=nothing, log=nothing, is_stopping=lambda: True
    )
    with pytest.raises(Unavailable):
        servers.check_open()

    class Asked:
        is_websocket, method, scope = False, "GET", {"query_string": b""}

        async def receive(self) -> Any:
            return {"type": "http.request"}

    exchange: Any = Asked()
    with pytest.raises(Unavailable):
        asyncio.run(FunctionGateway(nothing, is_stopping=lambda: True).answer(exchange, WebSpec("site")))

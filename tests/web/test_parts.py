"""The parts alone: the pickle writer, pipes, and the bounds on a connection's head."""

from __future__ import annotations

import asyncio
import pickle
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.errors import FailedPrecondition
from stoker.gateway import connection
from stoker.gateway.serve import HttpServer
from stoker.protocol.pickling import pickled
from stoker.services.pipes import Pipe

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


@settings(max_examples=60, deadline=None)
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

"""Connections to the servers in containers: which are used again."""

from __future__ import annotations

import asyncio
from typing import Any

from stoker.agent.ports import LocalPorts
from stoker.gateway.web.upstream import Upstreams

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SECONDS = 10  # until a test has failed


class Nobody:
    """Takes an answer."""

    def __init__(self) -> None:
        self.over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.status = 0

    def on_head(self, status: int, phrase: bytes, headers: Any) -> bool:
        self.status = status
        return False

    def on_end(self) -> None:
        self.over.set_result(self.status)

    def on_lost(self) -> None:
        self.over.set_result(0)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_connection_is_used_again_after_a_client_that_was_slow_to_the_end() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.readline():
                writer.write(OK)
            writer.close()

        container = await asyncio.start_server(serve, "127.0.0.1", 0)
        upstreams, address = Upstreams(), ("ta-1", container.sockets[0].getsockname()[1])
        upstream = await upstreams.connect(LocalPorts(lambda task_id: "127.0.0.1"), address)
        for _ in range(2):
            answer = Nobody()
            upstream.carry(answer)
            upstream.write(b"ask\n")
            assert await asyncio.wait_for(answer.over, SECONDS) == 200
            upstream.pause(True)  # the last bytes filled what waits for the client
            upstream.release(True)
            assert upstreams.idle(address) is upstream
        upstreams.close()
        upstream.close()
        container.close()

    asyncio.run(asyncio.wait_for(main(), 3 * SECONDS))


def test_a_connection_with_a_rest_of_a_request_is_not_used_again() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")  # and reads nothing

        container = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1)
        upstreams, address = Upstreams(), ("ta-1", container.sockets[0].getsockname()[1])
        upstream, answer = await upstreams.connect(LocalPorts(lambda task_id: "127.0.0.1"), address), Nobody()
        upstream.carry(answer)
        upstream.write(b"u" * (64 << 20))
        assert await asyncio.wait_for(answer.over, SECONDS) == 413
        upstream.release(True)
        assert upstreams.idle(address) is None
        assert upstream.transport.get_write_buffer_size() == 0  # nothing waits for a server that does not read
        container.close()

    asyncio.run(asyncio.wait_for(main(), 3 * SECONDS))

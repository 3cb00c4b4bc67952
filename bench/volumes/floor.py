"""What the client needs by itself: `modal volume put` and `get` against a server that throws blocks away and sends them from memory.

No server can be faster with this client on this machine. `python bench/volumes/floor.py SIZE_MIB` prints seconds as one JSON document.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from modal_proto import api_pb2

from stoker.rpc.methods import Caller, methods_of, rpc
from stoker.rpc.transport import Transport

BLOCK_BYTES = 8 << 20
_LENGTH = b"content-length:"


class Instant:
    """The two RPCs of a transfer, answered from the request alone. `size` is that of the only file it has."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._size = size

    def authenticate(self, token_id: str, token_secret: str) -> None:
        pass

    @rpc("VolumeGetOrCreate")
    async def volume(
        self, request: api_pb2.VolumeGetOrCreateRequest, caller: Caller
    ) -> api_pb2.VolumeGetOrCreateResponse:
        version = api_pb2.VOLUME_FS_VERSION_V2
        metadata = api_pb2.VolumeMetadata(version=version, name="v")
        return api_pb2.VolumeGetOrCreateResponse(volume_id="vo-1", version=version, metadata=metadata)

    @rpc("VolumePutFiles2")
    async def put(self, request: api_pb2.VolumePutFiles2Request, caller: Caller) -> api_pb2.VolumePutFiles2Response:
        response = api_pb2.VolumePutFiles2Response()
        for number, file in enumerate(request.files):
            for index, block in enumerate(file.blocks):
                if not block.put_response:
                    response.missing_blocks.add(file_index=number, block_index=index, put_url=self._url)
        return response

    @rpc("VolumeListFiles2")
    async def list(self, request: api_pb2.VolumeListFiles2Request, caller: Caller) -> api_pb2.VolumeListFiles2Response:
        entry = api_pb2.FileEntry(path="f", type=api_pb2.FileEntry.FILE, size=self._size)
        yield api_pb2.VolumeListFiles2Response(entries=[entry])

    @rpc("VolumeGetFile2")
    async def get(self, request: api_pb2.VolumeGetFile2Request, caller: Caller) -> api_pb2.VolumeGetFile2Response:
        urls = [self._url] * (self._size // BLOCK_BYTES)
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=self._size, len=self._size)


class Sink(asyncio.Protocol):
    """As much of HTTP as the transfers of the client need: answers a PUT when its body has passed, and a GET with one block."""

    block = os.urandom(BLOCK_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._head = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self._head = self._head[:end].lower(), self._head[end + 4 :], b""
            if head.startswith(b"get"):
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BLOCK_BYTES)
                self._transport.write(self.block)
                return
            self._left = int(head.split(_LENGTH, 1)[1].split(b"\r\n", 1)[0])
        self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def measure(mib: int, directory: Path) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    sink = await loop.create_server(Sink, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{sink.sockets[0].getsockname()[1]}/"
    instant = Instant(url, mib << 20)
    transport = Transport(methods_of([instant]), instant)
    port = await transport.listen("127.0.0.1", 0)
    env = os.environ | {
        "MODAL_SERVER_URL": f"http://127.0.0.1:{port}",
        "MODAL_TOKEN_ID": "ak-1",
        "MODAL_TOKEN_SECRET": "as-1",
    }
    source = directory / "f"
    with source.open("wb") as file:
        for _ in range(mib // 8):
            file.write(os.urandom(BLOCK_BYTES))

    async def client(*arguments: str) -> float:
        begin = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "modal", "volume", *arguments, env=env, stdout=asyncio.subprocess.DEVNULL
        )
        if await process.wait():
            raise SystemExit("the client failed")
        return time.perf_counter() - begin

    seconds = {
        "put": await client("put", "v", str(source), "/f"),
        "get": await client("get", "v", "f", str(directory / "back")),
    }
    await transport.close()
    sink.close()
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="stoker-floor-", dir=os.environ.get("STOKER_BENCH_DIR")) as directory:
        print(json.dumps(asyncio.run(measure(int(sys.argv[1]), Path(directory)))))


if __name__ == "__main__":
    main()

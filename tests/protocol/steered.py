"""RPCs whose answers and ends a test decides about, and small things that tests of limits share."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from modal_proto import api_pb2

from stoker.rpc.methods import Caller, rpc
from tests.protocol.peer import SECONDS, Served

MIB = 1 << 20


class Servicer:
    """RPCs whose answers and ends a test decides about."""

    def __init__(self) -> None:
        self.running = 0
        self.most_running = 0
        self.go_on = asyncio.Event()

    @rpc("TokenFlowCreate", open=True)
    async def open_one(
        self, request: api_pb2.TokenFlowCreateRequest, caller: Caller
    ) -> api_pb2.TokenFlowCreateResponse:
        return api_pb2.TokenFlowCreateResponse()

    @rpc("TokenFlowWait", open=True, waits=True)
    async def open_wait(self, request: api_pb2.TokenFlowWaitRequest, caller: Caller) -> api_pb2.TokenFlowWaitResponse:
        await self.go_on.wait()
        return api_pb2.TokenFlowWaitResponse()

    @rpc("MountPutFile")
    async def put(self, request: api_pb2.MountPutFileRequest, caller: Caller) -> api_pb2.MountPutFileResponse:
        return api_pb2.MountPutFileResponse(exists=True)

    @rpc("BlobGet")
    async def get(self, request: api_pb2.BlobGetRequest, caller: Caller) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url="x" * int(request.blob_id))

    @rpc("AppHeartbeat", waits=True)
    async def poll(self, request: api_pb2.AppHeartbeatRequest, caller: Caller) -> api_pb2.AppCreateResponse:
        await self.go_on.wait()
        return api_pb2.AppCreateResponse()

    @rpc("AppStop")
    async def change(self, request: api_pb2.AppStopRequest, caller: Caller) -> api_pb2.AppCreateResponse:
        """Runs to its end, whether its caller is there or not."""
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await self.go_on.wait()
        self.running -= 1
        return api_pb2.AppCreateResponse()

    @rpc("AppGetLogs")
    async def logs(self, request: api_pb2.AppGetLogsRequest, caller: Caller) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        while True:
            yield api_pb2.TaskLogsBatch(items=[api_pb2.TaskLogs(data="y" * MIB)])


def run(test: Callable[[Servicer], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Servicer())

    asyncio.run(main())


async def is_served(served: Served) -> None:
    """An honest client gets an answer meanwhile."""
    honest = await served.client()
    honest.call(1, "MountPutFile", api_pb2.MountPutFileRequest(data=b"x"))
    await honest.until(lambda: honest.statuses.get(1) == "0")
    await honest.close()


def prefix(size: int) -> bytes:
    return struct.pack(">BI", 0, size)


def framed(size: int) -> bytes:
    """A message of at least `size` bytes, framed."""
    data = api_pb2.MountPutFileRequest(data=bytes(size)).SerializeToString()
    return prefix(len(data)) + data


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is true that comes about by itself."""
    with anyio.fail_after(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

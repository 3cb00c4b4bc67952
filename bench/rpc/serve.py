"""One gRPC server with one method, in a process of its own: `python serve.py stoker|grpclib|grpcio`. Prints its port, and serves until it is ended.

All three have the same event loop (uvloop), read and write the same messages, and do nothing in between.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvloop
from modal_proto import api_pb2

SERVICE, METHOD = "modal.client.ModalClient", "MountPutFile"


def answer(request: api_pb2.MountPutFileRequest) -> api_pb2.MountPutFileResponse:
    return api_pb2.MountPutFileResponse(exists=bool(request.sha256_hex))


async def stoker() -> int:
    from stoker.rpc.methods import Caller, methods_of, rpc
    from stoker.rpc.transport import Transport

    class Servicer:
        @rpc(METHOD)
        async def put(self, request: api_pb2.MountPutFileRequest, caller: Caller) -> api_pb2.MountPutFileResponse:
            return answer(request)

    class Anybody:
        def authenticate(self, token_id: str, token_secret: str, peer: object) -> None: ...

    return await Transport(methods_of([Servicer()]), Anybody()).listen("127.0.0.1", 0)


async def grpclib() -> int:
    from grpclib.const import Cardinality, Handler
    from grpclib.server import Server

    class Servicer:
        async def put(self, stream: Any) -> None:
            await stream.send_message(answer(await stream.recv_message()))

        def __mapping__(self) -> dict[str, Handler]:
            kinds = api_pb2.MountPutFileRequest, api_pb2.MountPutFileResponse
            return {f"/{SERVICE}/{METHOD}": Handler(self.put, Cardinality.UNARY_UNARY, *kinds)}

    listener = socket.create_server(("127.0.0.1", 0))
    server = Server([Servicer()])
    await server.start(sock=listener)
    _kept.append(server)
    return int(listener.getsockname()[1])


async def grpcio() -> int:
    import grpc

    async def put(request: api_pb2.MountPutFileRequest, context: object) -> api_pb2.MountPutFileResponse:
        return answer(request)

    kinds = api_pb2.MountPutFileRequest.FromString, api_pb2.MountPutFileResponse.SerializeToString
    handler = grpc.unary_unary_rpc_method_handler(put, *kinds)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})])
    port: int = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _kept.append(server)
    return port


_kept: list[object] = []


async def main(name: str) -> None:
    port = await {"stoker": stoker, "grpclib": grpclib, "grpcio": grpcio}[name]()
    print(port, flush=True)
    await asyncio.Event().wait()


uvloop.run(main(sys.argv[1]))

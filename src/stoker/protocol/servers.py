"""@app.server on the wire: a container tells that it serves, a client asks how to reach it."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.errors import InvalidArgument
from stoker.protocol import scopes
from stoker.rpc.methods import Caller, rpc
from stoker.services.functions.functions import Functions
from stoker.services.functions.spec import ServerSpec
from stoker.services.pools.servers import Servers


class ServerServicer:
    def __init__(self, *, servers: Servers, functions: Functions) -> None:
        self._servers = servers
        self._functions = functions

    @rpc("ContainerServerLifecycleReady", clients=False, containers=scopes.ANYTHING, restricted=scopes.ANYTHING)
    async def ready(self, request: api_pb2.ContainerServerLifecycleReadyRequest, caller: Caller) -> Empty:
        self._servers.ready(caller.task_id)
        return Empty()

    @rpc("FunctionGetFlashAuthToken", containers=scopes.ANYTHING)
    async def token(
        self, request: api_pb2.FunctionGetFlashAuthTokenRequest, caller: Caller
    ) -> api_pb2.FunctionGetFlashAuthTokenResponse:
        self._server(request.function_id)
        return api_pb2.FunctionGetFlashAuthTokenResponse(token=self._servers.token(request.function_id))

    @rpc("FlashContainerList", containers=scopes.FUNCTION_OF_OWN_ENVIRONMENT)
    async def list(
        self, request: api_pb2.FlashContainerListRequest, caller: Caller
    ) -> api_pb2.FlashContainerListResponse:
        port = self._server(request.function_id).port
        response = api_pb2.FlashContainerListResponse()
        for task_id, host in self._servers.places(request.function_id):
            response.containers.add(task_id=task_id, host=host, port=port)
        return response

    def _server(self, function_id: str) -> ServerSpec:
        function = self._functions.get(function_id)
        server = function.active.spec.server
        if server is None:
            raise InvalidArgument(f"{function.name} is no @app.server class.")
        return server

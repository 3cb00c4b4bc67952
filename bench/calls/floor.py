"""What the client and the container need by themselves: the same client and entrypoint against a server that does nothing.

A sequential `.remote()` can take no less than the client's floor plus the container's, and no map can be faster than the client alone.
Prints one JSON document, in milliseconds per call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import modal
from google.protobuf.empty_pb2 import Empty
from modal._serialization import serialize
from modal_proto import api_pb2

from stoker.rpc.methods import Caller, methods_of, rpc
from stoker.rpc.transport import Transport

CALLS = 500
MAPPED = 5_000
VALUE = serialize(1)


class Instant:
    """Answers a caller and a container without doing anything in between."""

    def __init__(self) -> None:
        self.given = 0
        self.first = 0.0
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.mapped: list[int] = []  # inputs of the map that have not been answered
        self.put_some = asyncio.Event()
        self.answers = 0

    def authenticate(self, token_id: str, token_secret: str) -> None:
        pass

    @rpc("FunctionGet")
    async def get(self, request: api_pb2.FunctionGetRequest, caller: Caller) -> api_pb2.FunctionGetResponse:
        response = api_pb2.FunctionGetResponse(function_id="fu-1")
        response.handle_metadata.function_name = "f"
        response.handle_metadata.function_type = api_pb2.Function.FUNCTION_TYPE_FUNCTION
        response.function.ranked_functions.add()
        return response

    @rpc("FunctionMap")
    async def map(self, request: api_pb2.FunctionMapRequest, caller: Caller) -> api_pb2.FunctionMapResponse:
        accepted = self._accept(request.pipelined_inputs)
        return api_pb2.FunctionMapResponse(
            function_call_id="fc-1", pipelined_inputs=accepted, max_inputs_outstanding=1000
        )

    @rpc("FunctionPutInputs")
    async def put_inputs(
        self, request: api_pb2.FunctionPutInputsRequest, caller: Caller
    ) -> api_pb2.FunctionPutInputsResponse:
        return api_pb2.FunctionPutInputsResponse(inputs=self._accept(request.inputs))

    def _accept(self, items: Iterable[Any]) -> list[Any]:
        accepted = [
            api_pb2.FunctionPutInputsResponseItem(idx=i.idx, input_id=f"in-{i.idx}", input_jwt="a.b.c") for i in items
        ]
        self.mapped += [item.idx for item in accepted]
        self.put_some.set()
        return accepted

    @rpc("FunctionGetOutputs", waits=True)
    async def outputs(
        self, request: api_pb2.FunctionGetOutputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetOutputsResponse:
        """All that is there: the usual answer to a busy map."""
        if request.timeout and not self.mapped:
            self.put_some.clear()
            await self.put_some.wait()
        indexes, self.mapped = self.mapped, []
        result = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, data=VALUE)
        outputs = [
            api_pb2.FunctionGetOutputsItem(
                result=result, idx=idx, input_id=f"in-{idx}", data_format=api_pb2.DATA_FORMAT_PICKLE
            )
            for idx in indexes
        ]
        self.answers += 1
        return api_pb2.FunctionGetOutputsResponse(outputs=outputs, idxs=indexes, last_entry_id=f"{self.answers}-0")

    @rpc("FunctionFinishInputs")
    async def finish_inputs(self, request: api_pb2.FunctionFinishInputsRequest, caller: Caller) -> Empty:
        return Empty()

    @rpc("ContainerHello")
    async def hello(self, request: Empty, caller: Caller) -> Empty:
        return Empty()

    @rpc("ContainerHeartbeat", waits=True)
    async def heartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest, caller: Caller
    ) -> api_pb2.ContainerHeartbeatResponse:
        await asyncio.sleep(10)
        return api_pb2.ContainerHeartbeatResponse()

    @rpc("FunctionGetInputs", waits=True)
    async def inputs(
        self, request: api_pb2.FunctionGetInputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetInputsResponse:
        response = api_pb2.FunctionGetInputsResponse()
        if self.given == 50:
            self.first = time.perf_counter()  # the first ones warm up
        if self.given == CALLS + 50:
            self.done.set_result((time.perf_counter() - self.first) / CALLS * 1e3)
            response.inputs.add(kill_switch=True)
        else:
            item = response.inputs.add(input_id=f"in-{self.given}", function_call_id="fc-1")
            item.input.args = serialize(((1,), {}))
            item.input.data_format = api_pb2.DATA_FORMAT_PICKLE
        self.given += 1
        return response

    @rpc("FunctionPutOutputs")
    async def put(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller) -> Empty:
        return Empty()

    @rpc("TaskResult")
    async def result(self, request: api_pb2.TaskResultRequest, caller: Caller) -> Empty:
        raise SystemExit(f"the container failed: {request.result.traceback}")


async def client_floor(port: int) -> tuple[float, float]:
    """Milliseconds of one `.remote()`, and of one input of a `.map()`, that are answered at once."""

    def call() -> tuple[float, float]:
        os.environ["MODAL_SERVER_URL"] = f"http://127.0.0.1:{port}"
        from modal.config import config

        config.override_locally("server_url", os.environ["MODAL_SERVER_URL"])
        function = modal.Function.from_name("floor", "f", client=modal.Client.from_credentials("ak-1", "as-1"))
        for _ in range(50):
            function.remote(1)
        start = time.perf_counter()
        for _ in range(CALLS):
            function.remote(1)
        middle = time.perf_counter()
        assert list(function.map(range(MAPPED))) == [1] * MAPPED
        return (middle - start) / CALLS * 1e3, (time.perf_counter() - middle) / MAPPED * 1e3

    return await asyncio.to_thread(call)


async def container_floor(transport: Transport, instant: Instant, directory: Path) -> float:
    """Milliseconds a container as a plain process takes for one input after the other."""
    await transport.listen_container("ta-1", directory / "socket")
    (directory / "floor_app.py").write_text(
        "import modal\napp = modal.App('floor')\n@app.function()\ndef f(x):\n    return x\n"
    )
    arguments = api_pb2.ContainerArguments(task_id="ta-1", function_id="fu-1", app_id="ap-1")
    definition = arguments.function_def
    definition.module_name, definition.function_name = "floor_app", "f"
    definition.definition_type = api_pb2.Function.DEFINITION_TYPE_FILE
    definition.function_type = api_pb2.Function.FUNCTION_TYPE_FUNCTION
    definition.object_dependencies.add(object_id="im-1")
    arguments.app_layout.objects.add(object_id="im-1")
    (directory / "arguments").write_bytes(arguments.SerializeToString())
    env = os.environ | {
        "PYTHONPATH": str(directory),
        "MODAL_CONTAINER_ARGUMENTS_PATH": str(directory / "arguments"),
        "MODAL_SERVER_URL": f"unix://{directory}/socket",
        "MODAL_IS_REMOTE": "1",
        "MODAL_TASK_ID": "ta-1",
    }
    command = (sys.executable, "-m", "modal._container_entrypoint")
    process = await asyncio.create_subprocess_exec(*command, env=env, cwd=directory)
    try:
        return await asyncio.wait_for(instant.done, 120)
    finally:
        await asyncio.wait_for(process.wait(), 30)


async def main() -> None:
    instant = Instant()
    transport = Transport(methods_of([instant]), instant)
    port = await transport.listen("127.0.0.1", 0)
    client_ms, mapped_ms = await client_floor(port)
    with tempfile.TemporaryDirectory() as directory:
        container_ms = await container_floor(transport, instant, Path(directory))
    await transport.close()
    print(json.dumps({"client_ms": client_ms, "mapped_ms": mapped_ms, "container_ms": container_ms}))


asyncio.run(main())

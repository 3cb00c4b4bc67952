"""Calls on the wire, as a caller sees them (also one inside a container)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, cast

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.errors import FailedPrecondition, InvalidArgument, Unimplemented
from stoker.protocol import scopes
from stoker.protocol.metadata import Metadata
from stoker.protocol.values import at_most, cursor
from stoker.rpc.methods import Caller, rpc
from stoker.services.calls.call_records import Call, Input, Output
from stoker.services.calls.calls import Calls
from stoker.services.calls.streams import Chunk, Streams
from stoker.services.calls.webcalls import WebCalls
from stoker.services.files.blobs import Blobs
from stoker.services.functions.functions import Functions

_MOST_INPUTS = 10_000  # in one request; the client sends some fifty
_RESULT = api_pb2.GenericResult
_LONGEST_POLL = 55.0
_NEWEST = 10  # inputs of each kind that are named one by one
_KEEP_STREAMS = 300.0  # seconds after the end of the call
_SUCCESS = _RESULT.GENERIC_STATUS_SUCCESS
_LONGEST_METHOD, _SHOWN = 256, 60  # characters
_OUTSTANDING = 1000  # inputs of one map under way, the client's own default
_SPAWNED = (
    api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
    api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC_LEGACY,
)
_OWN_CHUNKS = scopes.RUNNING_CALL & scopes.known_blobs("data_chunks", "data_blob_id")


class CallServicer:
    def __init__(
        self,
        *,
        calls: Calls,
        functions: Functions,
        metadata: Metadata,
        streams: Streams,
        blobs: Blobs,
        web: WebCalls,
    ) -> None:
        self._calls = calls
        self._functions = functions
        self._metadata = metadata
        self._streams = streams
        self._blobs = blobs
        self._web = web

    @rpc(
        "FunctionMap",
        once=True,
        containers=scopes.TRUE_PARENT & scopes.known_blobs("pipelined_inputs", "input", "args_blob_id"),
    )
    async def map(self, request: api_pb2.FunctionMapRequest, caller: Caller) -> api_pb2.FunctionMapResponse:
        kind = "map" if request.function_call_type == api_pb2.FUNCTION_CALL_TYPE_MAP else "unary"
        spawned = request.from_spawn_map or request.function_call_invocation_type in _SPAWNED
        call, inputs = await self._calls.start(
            request.function_id,
            kind,
            request.function_call_invocation_type,
            request.parent_input_id,
            _payloads(request.pipelined_inputs),
            spawned=spawned,
            key=f"{caller.name}/{caller.idempotency_key}" if caller.idempotency_key else "",
            repeated=caller.repeats,
            task_id=caller.task_id,
            caller_app_id=caller.container.app_id if caller.container is not None else "",
            methods=_methods(request.pipelined_inputs),
        )
        policy = self._functions.get(request.function_id).active.spec.pool.retry
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id,
            pipelined_inputs=_accepted(inputs),
            function_call_jwt=_jwt({"fc": call.id}),
            sync_client_retries_enabled=False,  # retries happen here, also for callers that went away
            max_inputs_outstanding=_OUTSTANDING,
            retry_policy=api_pb2.FunctionRetryPolicy(
                retries=policy.retries,
                backoff_coefficient=policy.backoff_coefficient,
                initial_delay_ms=int(policy.initial_delay * 1000),
                max_delay_ms=int(policy.max_delay * 1000),
            ),
        )

    @rpc(
        "FunctionPutInputs",
        once=True,
        containers=scopes.MADE_CALL & scopes.known_blobs("inputs", "input", "args_blob_id"),
    )
    async def put(self, request: api_pb2.FunctionPutInputsRequest, caller: Caller) -> api_pb2.FunctionPutInputsResponse:
        call = self._calls.get(request.function_call_id)
        inputs = await self._calls.put(
            call.id,
            _payloads(request.inputs),
            spawned=call.invocation in _SPAWNED,
            methods=_methods(request.inputs),
        )
        return api_pb2.FunctionPutInputsResponse(inputs=_accepted(inputs))

    @rpc("FunctionFinishInputs", containers=scopes.MADE_CALL)
    async def finish_inputs(self, request: api_pb2.FunctionFinishInputsRequest, caller: Caller) -> Empty:
        self._calls.get(request.function_call_id)
        return Empty()

    @rpc("FunctionRetryInputs", containers=scopes.ANYTHING)
    async def retry(self, request: api_pb2.FunctionRetryInputsRequest, caller: Caller) -> Any:
        raise Unimplemented("This server retries inputs itself; clients are told not to.")

    @rpc("FunctionGetOutputs", containers=scopes.NEAR_CALL, waits=True)
    async def outputs(
        self, request: api_pb2.FunctionGetOutputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self._calls.get(request.function_call_id)
        if request.clear_on_success and request.timeout == 0 and call.kind == "map":
            # The end of a map: the client has everything and says so. Answering with outputs would send all of them again.
            return api_pb2.FunctionGetOutputsResponse(last_entry_id=request.last_entry_id)
        indexes = (request.start_idx, request.end_idx) if request.HasField("start_idx") else None
        loop, timeout = asyncio.get_running_loop(), min(request.timeout, _LONGEST_POLL)
        deadline = loop.time() + timeout
        self._streams.alive(call.id)
        found, unfinished = await self._calls.outputs(
            call.id,
            cursor(request.last_entry_id.partition("-")[0]),
            timeout,
            indexes,
            request.max_values if call.kind == "unary" else 0,
            caller.task_id,
        )
        if any(o.status != _SUCCESS for o in found) and not await self._streams.delivered(
            call.id, deadline - loop.time()
        ):
            found, unfinished = [], len(found)  # it is told when its caller has what came before
        last = f"{found[-1].seq}-0" if found else request.last_entry_id or "0-0"
        outputs = [_output(o) for o in found]
        for output in outputs:
            caller.tell(output.result.data_blob_id)
        return api_pb2.FunctionGetOutputsResponse(
            outputs=outputs,
            idxs=[o.idx for o in found],
            last_entry_id=last,
            num_unfinished_inputs=unfinished,
        )

    @rpc("FunctionCallFromId", containers=scopes.NEAR_CALL)
    async def from_id(
        self, request: api_pb2.FunctionCallFromIdRequest, caller: Caller
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self._calls.get(request.function_call_id)
        handle = api_pb2.FunctionCallHandleMetadata(app_id=call.app_id, function_id=call.function_id)
        return api_pb2.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=call.total, metadata=handle)

    @rpc("FunctionCallGetInfo", containers=scopes.NEAR_CALL)
    async def info(
        self, request: api_pb2.FunctionCallGetInfoRequest, caller: Caller
    ) -> api_pb2.FunctionCallGetInfoResponse:
        return api_pb2.FunctionCallGetInfoResponse(info=_info(self._calls.get(request.function_call_id)))

    @rpc("FunctionGetCallGraph", containers=scopes.OWN_CALL)
    async def graph(
        self, request: api_pb2.FunctionGetCallGraphRequest, caller: Caller
    ) -> api_pb2.FunctionGetCallGraphResponse:
        graph = self._calls.graph(request.function_call_id)
        response = api_pb2.FunctionGetCallGraphResponse(truncated=graph.truncated)
        for item in graph.inputs:
            response.inputs.add(
                input_id=item.id,
                function_call_id=item.call_id,
                task_id=item.task_id,
                status=cast(api_pb2.GenericResult.GenericStatus.ValueType, item.status),
            )
        functions = {id: self._functions.get(id) for id in {call.function_id for call in graph.calls}}
        modules = {id: self._metadata.module_name(function) for id, function in functions.items()}
        for call in graph.calls:
            response.function_calls.add(
                function_call_id=call.id,
                parent_input_id=call.parent_input_id,
                function_name=functions[call.function_id].name,
                module_name=modules[call.function_id],
            )
        return response

    @rpc("FunctionCallCancel", containers=scopes.OWN_CALL)
    async def cancel(self, request: api_pb2.FunctionCallCancelRequest, caller: Caller) -> Empty:
        await self._calls.cancel(request.function_call_id, terminate_containers=request.terminate_containers)
        return Empty()

    @rpc("FunctionCallGetDataOut", containers=scopes.NEAR_CALL)
    async def data_out(
        self, request: api_pb2.FunctionCallGetDataRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.DataChunk]:
        self._calls.get(request.function_call_id)
        async with contextlib.aclosing(self._streams.follow(request.function_call_id, request.last_index)) as chunks:
            async for data in chunks:
                chunk = api_pb2.DataChunk.FromString(data)
                caller.tell(chunk.data_blob_id)
                yield chunk

    @rpc("FunctionCallGetDataIn", clients=False, containers=scopes.RUNNING_CALL, restricted=scopes.RUNNING_CALL)
    async def data_in(
        self, request: api_pb2.FunctionCallGetDataRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.DataChunk]:
        web = self._web.find(request.function_call_id)
        if web is None:
            self._calls.get(request.function_call_id)
            raise FailedPrecondition("Only requests to web endpoints have data that comes in while they run.")
        async with contextlib.aclosing(web.inward.follow(request.last_index)) as messages:
            async for index, message in messages:
                yield api_pb2.DataChunk(index=index, data=message, data_format=api_pb2.DATA_FORMAT_ASGI)

    @rpc("FunctionCallPutDataOut", clients=False, containers=_OWN_CHUNKS, restricted=_OWN_CHUNKS, waits=True)
    async def put_data_out(self, request: api_pb2.FunctionCallPutDataRequest, caller: Caller) -> Empty:
        web = self._web.find(request.function_call_id)
        if web is not None:
            for chunk in request.data_chunks:
                await web.receive(chunk.index, chunk.SerializeToString())
            return Empty()
        call = self._calls.get(request.function_call_id)
        if not call.open_inputs:
            return Empty()  # it ended meanwhile, or the chunks come from an attempt that is over
        await self._streams.put(call.id, [await self._chunk(chunk) for chunk in request.data_chunks])
        return Empty()

    def finished(self, call: Call) -> None:
        """Event: a call is over. What its generator yielded is dropped when its caller has surely read it."""
        if call.id in self._streams:
            self._streams.finish(call.id, failed=any(output.status != _SUCCESS for output in call.outputs))
            asyncio.get_running_loop().call_later(_KEEP_STREAMS, self._streams.forget, call.id)

    async def _chunk(self, chunk: Any) -> Chunk:
        size = await self._blobs.size(chunk.data_blob_id) if chunk.data_blob_id else 0
        return Chunk(chunk.index, chunk.SerializeToString(), chunk.data_blob_id, size)


def _payloads(items: Sequence[Any]) -> list[tuple[int, bytes]]:
    payloads = []
    for item in at_most(items, _MOST_INPUTS, "inputs"):
        if item.input.WhichOneof("args_oneof") is None:
            raise InvalidArgument(f"The input with index {item.idx} came without arguments.")
        payloads.append((item.idx, item.input.SerializeToString()))
    if len({index for index, _ in payloads}) < len(payloads):
        raise InvalidArgument("Two inputs came with the same index.")
    return payloads


def _methods(items: Sequence[Any]) -> dict[int, str]:
    """The methods of a class that inputs are for, by index."""
    return {item.idx: _method(item.input.method_name) for item in items if item.input.method_name}


def _method(name: str) -> str:
    if not name.isidentifier() or len(name) > _LONGEST_METHOD:
        raise InvalidArgument(
            f"{name[:_SHOWN]!r} cannot name a method: an identifier of up to {_LONGEST_METHOD} characters can."
        )
    return name


def _accepted(inputs: Iterable[Input]) -> list[Any]:
    return [
        api_pb2.FunctionPutInputsResponseItem(idx=i.idx, input_id=i.id, input_jwt=_jwt({"idx": i.idx, "in": i.id}))
        for i in inputs
    ]


def _output(output: Output) -> Any:
    result = api_pb2.GenericResult.FromString(output.result)
    result.status = cast(
        api_pb2.GenericResult.GenericStatus.ValueType, output.status
    )  # all that is kept of a web request
    return api_pb2.FunctionGetOutputsItem(
        result=result,
        idx=output.idx,
        input_id=output.input_id,
        data_format=cast(api_pb2.DataFormat.ValueType, output.data_format),
        task_id=output.task_id,
        input_started_at=output.started_at,
        output_created_at=output.created_at,
        retry_count=0,  # a map drops outputs of attempts it does not know of
    )


def _info(call: Call) -> Any:
    """FunctionCallInfo: how many inputs ended in which way, and the newest of each."""
    info = api_pb2.FunctionCallInfo(function_call_id=call.id, created_at=call.created_at, total_inputs=call.total)
    started = [output.started_at for output in call.outputs if output.started_at]
    info.scheduled_at = min(started, default=0.0)
    kinds = {
        _SUCCESS: info.succeeded_inputs,
        _RESULT.GENERIC_STATUS_TIMEOUT: info.timeout_inputs,
        _RESULT.GENERIC_STATUS_TERMINATED: info.cancelled_inputs,
    }
    for output in reversed(call.outputs):
        kind = kinds.get(cast(api_pb2.GenericResult.GenericStatus.ValueType, output.status), info.failed_inputs)
        kind.total += 1
        if len(kind.latest) < _NEWEST:
            kind.latest.add(
                input_id=output.input_id,
                idx=output.idx,
                task_id=output.task_id,
                started_at=output.started_at,
                finished_at=output.created_at,
            )
    info.pending_inputs.total = len(call.open_inputs)
    for item in itertools.islice(call.open_inputs.values(), _NEWEST):
        info.pending_inputs.latest.add(input_id=item.id, idx=item.idx)
    return info


_HEADER = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()


def _jwt(payload: dict[str, object]) -> str:
    """The client only looks into these; identity is proven elsewhere."""
    body = base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()
    return f"{_HEADER}.{body}."

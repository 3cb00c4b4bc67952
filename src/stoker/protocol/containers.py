"""What a container says to the server. Its identity is the socket it calls through (`caller.task_id`)."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.errors import NotFound
from stoker.protocol import scopes
from stoker.protocol.values import at_most
from stoker.rpc.methods import Caller, rpc
from stoker.services.calls.calls import Calls, Report
from stoker.services.containers.checkpoints import Checkpoints
from stoker.services.pools.heartbeats import Heartbeats
from stoker.services.pools.scheduler import Scheduler
from stoker.services.watch.history import History

_HOLD_HEARTBEAT = 12.0  # seconds; the container's own deadline is 15.1
_MOST_OUTPUTS = 10_000  # in one request; a container has at most 1,000 inputs
_OWN_OUTPUTS = scopes.known_blobs("outputs", "result", "data_blob_id", words="inputs it runs")
_OWN_RESULT = scopes.known_blobs("result", "data_blob_id")
_FAILURE = api_pb2.GenericResult.GENERIC_STATUS_FAILURE


class ContainerServicer:
    def __init__(
        self, *, calls: Calls, scheduler: Scheduler, checkpoints: Checkpoints, history: History, heartbeats: Heartbeats
    ) -> None:
        self._calls = calls
        self._checkpoints = checkpoints
        self._history = history
        self._heartbeats = heartbeats
        self._scheduler = scheduler

    @rpc("ContainerHello", clients=False, containers=scopes.ANYTHING, restricted=scopes.ANYTHING)
    async def hello(self, request: Empty, caller: Caller) -> Empty:
        return Empty()

    @rpc("ContainerHeartbeat", clients=False, containers=scopes.ANYTHING, restricted=scopes.ANYTHING, waits=True)
    async def heartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest, caller: Caller
    ) -> api_pb2.ContainerHeartbeatResponse:
        """Held open, so that a cancellation reaches the container at once."""
        self._heartbeats.beat(caller.task_id)
        input_ids = await self._scheduler.heartbeat(caller.task_id, _HOLD_HEARTBEAT)
        response = api_pb2.ContainerHeartbeatResponse()
        if input_ids:
            response.cancel_input_event.input_ids.extend(input_ids)
        return response

    @rpc("FunctionGetInputs", clients=False, containers=scopes.OWN_FUNCTION, restricted=scopes.OWN_FUNCTION, waits=True)
    async def get_inputs(
        self, request: api_pb2.FunctionGetInputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetInputsResponse:
        delivery = await self._scheduler.next_inputs(caller.task_id, max(1, request.batch_max_size))
        response = api_pb2.FunctionGetInputsResponse()
        if delivery.exit:
            response.inputs.add(kill_switch=True)
            return response
        for input_id, retry_count in delivery.inputs:
            item = self._calls.find_input(input_id)
            if item is None:  # it ended between hand-over and answer, and no output of it will come
                self._scheduler.report(caller.task_id, input_id, failed=False)
                continue
            call = self._calls.get(item.call_id)
            entry = response.inputs.add(
                input_id=item.id,
                function_call_id=item.call_id,
                function_call_invocation_type=call.invocation,
                retry_count=retry_count,
                function_map_idx=item.idx,
            )
            entry.input.ParseFromString(item.payload)
            caller.tell(entry.input.args_blob_id)
        if delivery.final and response.inputs:
            response.inputs[-1].input.final_input = True
        return response

    @rpc("FunctionPutOutputs", clients=False, containers=_OWN_OUTPUTS, restricted=_OWN_OUTPUTS)
    async def put_outputs(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller) -> Empty:
        reports = [
            Report(
                input_id=item.input_id,
                result=item.result.SerializeToString(),
                data_format=item.data_format,
                status=item.result.status,
                failed=item.result.status == _FAILURE,
                started_at=item.input_started_at,
                created_at=item.output_created_at,
            )
            for item in at_most(request.outputs, _MOST_OUTPUTS, "outputs")
        ]
        await self._calls.report(caller.task_id, reports)
        return Empty()

    @rpc("TaskResult", clients=False, containers=_OWN_RESULT, restricted=_OWN_RESULT)
    async def task_result(self, request: api_pb2.TaskResultRequest, caller: Caller) -> Empty:
        """Importing the app or an @enter method failed; the container exits with code 0 after this."""
        self._scheduler.init_failed(caller.task_id, request.result.SerializeToString(), request.result.status)
        return Empty()

    @rpc("ContainerCheckpoint", clients=False, containers=scopes.ANYTHING, restricted=scopes.ANYTHING)
    async def checkpoint(self, request: api_pb2.ContainerCheckpointRequest, caller: Caller) -> Empty:
        """It may be saved now: after the answer it closes its connections and waits for the file that lets it go on."""
        task = self._scheduler.task(caller.task_id)
        if task is None:
            raise NotFound("This container is stopping.")
        self._checkpoints.request(task, request.checkpoint_id)
        return Empty()

    @rpc("FunctionGetDynamicConcurrency", clients=False, containers=scopes.OWN_FUNCTION, restricted=scopes.OWN_FUNCTION)
    async def dynamic_concurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, caller: Caller
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        """The container may always burst to its maximum: the autoscaler aims at the target."""
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    @rpc("ContainerStop", containers=scopes.OWN_TASK, restricted=scopes.OWN_TASK)
    async def stop(self, request: api_pb2.ContainerStopRequest, caller: Caller) -> api_pb2.ContainerStopResponse:
        """By a user, or by a container that wants no more inputs."""
        if self._scheduler.task(request.task_id) is None:
            # One that has ended meanwhile is what its caller wants; one that never was is not.
            self._history.task(request.task_id)
            return api_pb2.ContainerStopResponse()
        self._scheduler.stop_task(request.task_id, graceful=request.graceful or caller.container is not None)
        return api_pb2.ContainerStopResponse()

"""RPCs that look back: past calls, counts and times of functions and apps, containers that are gone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.protocol.app_metadata import AppMetadata
from stoker.protocol.values import seconds
from stoker.rpc.methods import Caller, rpc
from stoker.services.apps.apps import Apps
from stoker.services.apps.deployments import Deployments
from stoker.services.containers.endings import Ending
from stoker.services.functions.functions import Functions
from stoker.services.watch.history import History, InputRecord, Totals
from stoker.services.watch.server_requests import ServerRequests

_RESULT = api_pb2.GenericResult
_INPUT_STATUS = {
    _RESULT.GENERIC_STATUS_SUCCESS: api_pb2.FUNCTION_CALL_INPUT_STATUS_SUCCESS,
    _RESULT.GENERIC_STATUS_FAILURE: api_pb2.FUNCTION_CALL_INPUT_STATUS_FAILURE,
    _RESULT.GENERIC_STATUS_TERMINATED: api_pb2.FUNCTION_CALL_INPUT_STATUS_TERMINATED,
    _RESULT.GENERIC_STATUS_TIMEOUT: api_pb2.FUNCTION_CALL_INPUT_STATUS_TIMEOUT,
    _RESULT.GENERIC_STATUS_INIT_FAILURE: api_pb2.FUNCTION_CALL_INPUT_STATUS_INIT_FAILURE,
    _RESULT.GENERIC_STATUS_INTERNAL_FAILURE: api_pb2.FUNCTION_CALL_INPUT_STATUS_INTERNAL_FAILURE,
    _RESULT.GENERIC_STATUS_KERNEL_OOM_KILL: api_pb2.FUNCTION_CALL_INPUT_STATUS_KERNEL_OOM_KILL,
}
_DEFAULT_SPAN = 3_600.0  # seconds looked at when a request names no beginning
_MOST = 10_000  # inputs of one answer
_ENDINGS = {
    Ending.STOPPED: _RESULT.GENERIC_STATUS_SUCCESS,
    Ending.CRASHED: _RESULT.GENERIC_STATUS_FAILURE,
    Ending.OOM: _RESULT.GENERIC_STATUS_KERNEL_OOM_KILL,
    Ending.INIT_FAILED: _RESULT.GENERIC_STATUS_INIT_FAILURE,
    Ending.NOT_STARTED: _RESULT.GENERIC_STATUS_INIT_FAILURE,
}


class HistoryServicer:
    def __init__(
        self,
        *,
        history: History,
        requests: ServerRequests,
        functions: Functions,
        apps: Apps,
        deployments: Deployments,
        metadata: AppMetadata,
    ) -> None:
        self._history = history
        self._requests = requests
        self._functions = functions
        self._apps = apps
        self._deployments = deployments
        self._metadata = metadata

    @rpc("TaskGetInfo")
    async def task(self, request: api_pb2.TaskGetInfoRequest, caller: Caller) -> api_pb2.TaskGetInfoResponse:
        task = self._history.task(request.task_id)
        info = api_pb2.TaskInfo(
            id=task.id,
            enqueued_at=task.enqueued_at,
            started_at=task.started_at or 0.0,
            finished_at=task.finished_at or 0.0,
        )
        if task.ending is not None:
            info.result.status = _ENDINGS[task.ending]
            info.result.exception = "" if task.ending is Ending.STOPPED else task.detail
        return api_pb2.TaskGetInfoResponse(app_id=task.app_id, info=info)

    @rpc("FunctionCallFetch")
    async def fetch_calls(
        self, request: api_pb2.FunctionCallFetchRequest, caller: Caller
    ) -> api_pb2.FunctionCallFetchResponse:
        ids = self._ids(request.function_id, request.all_variants)
        if request.HasField("range"):
            since, until = span(request.range)
            found = await self._history.between(ids, since, until, min(request.range.limit or _MOST, _MOST))
        else:
            found = await self._history.newest(ids, min(request.tail.count or 100, _MOST))
        return api_pb2.FunctionCallFetchResponse(function_call_inputs=[_input(r) for r in found])

    @rpc("FunctionCallCount")
    async def count_calls(
        self, request: api_pb2.FunctionCallCountRequest, caller: Caller
    ) -> api_pb2.FunctionCallCountResponse:
        since, until = span(request)
        ids = self._ids(request.function_id, request.all_variants)
        response = api_pb2.FunctionCallCountResponse()
        for start, count in (await self._history.counts(ids, since, until, request.bucket_secs or 60)).items():
            bucket = response.buckets.add(count=count)
            bucket.bucket_start_at.FromNanoseconds(int(start * 1e9))
        return response

    @rpc("FunctionGetTimeRangeStats", containers=scopes.FUNCTION_OF_OWN_ENVIRONMENT)
    async def function_totals(
        self, request: api_pb2.FunctionGetTimeRangeStatsRequest, caller: Caller
    ) -> api_pb2.FunctionGetTimeRangeStatsResponse:
        since, until = span(request)
        variants = self._history.variants(request.function_id)
        ids = [request.function_id, *variants] if request.rollup else [request.function_id]
        totals = await self._history.totals(ids, since, until, request.container_id)
        success, timeout, failure = _sums(totals)
        response = api_pb2.FunctionGetTimeRangeStatsResponse(
            input_success_count=success,
            input_failure_count=failure,
            input_timeout_count=timeout,
            input_running_at_end_count=totals.unfinished,
            container_started_count=totals.containers_started,
            container_error_count=totals.containers_failed,
            container_creating_at_end_count=totals.containers_starting,
            container_total_count=totals.containers,
            variant_count=len(variants),
        )
        response.since.FromNanoseconds(int(since * 1e9))
        response.until.FromNanoseconds(int(until * 1e9))
        fill_percentiles(response.input_percentile_stats, "Execution time (s)", totals.run_times)
        fill_percentiles(response.input_percentile_stats, "Queueing time (s)", totals.wait_times)
        fill_percentiles(response.container_percentile_stats, "Startup time (s)", totals.start_times)
        return response

    @rpc("AppGetTimeRangeStats", containers=scopes.OWN_APP)
    async def app_totals(
        self, request: api_pb2.AppGetTimeRangeStatsRequest, caller: Caller
    ) -> api_pb2.AppGetTimeRangeStatsResponse:
        app = self._apps.get(request.app_id)
        since, until = span(request)
        versions = self._deployments.history(app.id)
        response = api_pb2.AppGetTimeRangeStatsResponse(
            deployment_count=sum(since <= d.deployed_at < until for d in versions),
            lifecycle=self._metadata.lifecycle(app),
        )
        response.since.FromNanoseconds(int(since * 1e9))
        response.until.FromNanoseconds(int(until * 1e9))
        for name, function_id in app.function_ids.items():
            totals = await self._history.totals([function_id, *self._history.variants(function_id)], since, until)
            definition = self._functions.get(function_id).latest
            group: Any = response.functions
            if definition is not None and definition.spec.server is not None:
                group = response.servers
            entry = group.by_name[name]
            entry.object_id = function_id
            for counts in (entry.counts, group.total):
                _count(counts, totals)
            if group is response.servers:
                answered = (await self._requests.totals(function_id, since, until)).statuses
                for counts in (entry.counts, group.total):
                    _count_requests(counts.requests, answered)
        return response

    @rpc("FunctionListVariants", containers=scopes.FUNCTION_OF_OWN_APP)
    async def variants(
        self, request: api_pb2.FunctionListVariantsRequest, caller: Caller
    ) -> api_pb2.FunctionListVariantsResponse:
        ids = self._history.variants(request.function_id)
        after = request.cursor.function_id
        start = ids.index(after) + 1 if after in ids else 0
        page = ids[start : start + (request.limit or 100)]
        response = api_pb2.FunctionListVariantsResponse()
        for function_id in page:
            binding = api_pb2.FunctionBindParamsRequest.FromString(self._functions.get(function_id).binding)
            entry = response.infos.add(function_id=function_id, serialized_params=binding.serialized_params)
            if binding.HasField("function_options"):
                entry.function_options.CopyFrom(binding.function_options)
        if page and page[-1] != ids[-1]:
            response.next_cursor.function_id = page[-1]
        return response

    def _ids(self, function_id: str, all_variants: bool) -> Sequence[str]:
        variants = self._history.variants(function_id)
        return [function_id, *variants] if all_variants else [function_id]


def span(request: Any) -> tuple[float, float]:
    """[since, until) of a request, in seconds since the epoch."""
    until = seconds(request.until) if request.HasField("until") else time.time()
    since = seconds(request.since) if request.HasField("since") else until - _DEFAULT_SPAN
    return since, until


def _input(record: InputRecord) -> Any:
    if record.status:
        status = _INPUT_STATUS.get(record.status, api_pb2.FUNCTION_CALL_INPUT_STATUS_UNSPECIFIED)  # type: ignore[call-overload]
    elif record.running:
        status = api_pb2.FUNCTION_CALL_INPUT_STATUS_RUNNING
    else:
        status = api_pb2.FUNCTION_CALL_INPUT_STATUS_PENDING
    info = api_pb2.FunctionCallInputInfo(function_call_id=record.call_id, status=status)
    info.enqueued_at.FromNanoseconds(int(record.enqueued_at * 1e9))
    if record.method:
        info.service_method_name = record.method
    if record.task_id:
        info.container_id = record.task_id
    if record.started_at is not None:
        info.started_at.FromNanoseconds(int(record.started_at * 1e9))
        if record.finished_at is not None:
            info.execution_time_seconds = max(0.0, record.finished_at - record.started_at)
    return info


def _sums(totals: Totals) -> tuple[int, int, int]:
    """(succeeded, timed out, failed in any other way)."""
    success = totals.statuses[_RESULT.GENERIC_STATUS_SUCCESS]
    timeout = totals.statuses[_RESULT.GENERIC_STATUS_TIMEOUT]
    return success, timeout, totals.statuses.total() - success - timeout


def _count(counts: Any, totals: Totals) -> None:
    """Adds to AppFunctionCounts or AppServerCounts."""
    counts.containers.container_active_count += totals.containers
    counts.containers.container_errors += totals.containers_failed
    if isinstance(counts, api_pb2.AppFunctionCounts):
        success, timeout, failure = _sums(totals)
        counts.calls.total += success + timeout + failure  # of those that ended, as the client has it
        counts.calls.succeeded += success
        counts.calls.failed += timeout + failure


def _count_requests(counts: api_pb2.AppRequestCounts, statuses: Counter[int]) -> None:
    """statuses: of HTTP. The client takes 4xx for failures, too."""
    ok = sum(times for status, times in statuses.items() if status < HTTPStatus.BAD_REQUEST)
    counts.total += statuses.total()
    counts.ok += ok
    counts.failed += statuses.total() - ok


def fill_percentiles(target: Any, name: str, values: dict[float, float]) -> None:
    if not values:
        return
    target[name].unit = "seconds"
    for share, value in values.items():
        target[name].percentiles.add(percentile_basis_points=round(share * 10_000), value=value)

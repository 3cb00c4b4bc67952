"""RPCs that look back at the requests of servers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.protocol.history import fill_percentiles, span
from stoker.rpc.methods import Caller, rpc
from stoker.services.functions.functions import Functions
from stoker.services.watch.history import History
from stoker.services.watch.server_requests import ServerRequest, ServerRequests

_MOST = 10_000  # requests of one answer
_CLASS = 100  # status codes are counted by their first digit


class ServerHistoryServicer:
    def __init__(self, *, requests: ServerRequests, history: History, functions: Functions) -> None:
        self._requests = requests
        self._history = history
        self._functions = functions

    @rpc("ServerRequestFetch")
    async def fetch(
        self, request: api_pb2.ServerRequestFetchRequest, caller: Caller
    ) -> api_pb2.ServerRequestFetchResponse:
        server = self._functions.get(request.function_id).id
        if request.HasField("range"):
            since, until = span(request.range)
            limit = min(request.range.limit or _MOST, _MOST)
            found = await self._requests.between(server, since, until, limit)
        else:
            found = await self._requests.newest(server, min(request.tail.count or 100, _MOST))
        return api_pb2.ServerRequestFetchResponse(requests=map(_info, found))

    @rpc("ServerCountRequests")
    async def count(
        self, request: api_pb2.ServerCountRequestsRequest, caller: Caller
    ) -> api_pb2.ServerCountRequestsResponse:
        since, until = span(request)
        server = self._functions.get(request.function_id).id
        response = api_pb2.ServerCountRequestsResponse()
        counts = await self._requests.counts(server, since, until, request.bucket_secs or 60)
        for start, count in counts.items():
            response.buckets.add(count=count).bucket_start_at.FromNanoseconds(int(start * 1e9))
        return response

    @rpc("ServerGetTimeRangeStats", containers=scopes.FUNCTION_OF_OWN_ENVIRONMENT)
    async def totals(
        self, request: api_pb2.ServerGetTimeRangeStatsRequest, caller: Caller
    ) -> api_pb2.ServerGetTimeRangeStatsResponse:
        since, until = span(request)
        server = self._functions.get(request.function_id).id
        answered = await self._requests.totals(server, since, until, request.container_id)
        lived = await self._history.totals([server], since, until, request.container_id)
        count = answered.statuses.total()
        response = api_pb2.ServerGetTimeRangeStatsResponse(
            request_count=count,
            request_rate_per_second=count / max(until - answered.since, 1e-6),
            container_started_count=lived.containers_started,
            container_error_count=lived.containers_failed,
            container_creating_at_end_count=lived.containers_starting,
            container_total_count=lived.containers,
        )
        response.since.FromNanoseconds(int(answered.since * 1e9))
        response.until.FromNanoseconds(int(until * 1e9))
        by_class: Counter[int] = Counter()
        for status, times in answered.statuses.items():
            by_class[status // _CLASS * _CLASS] += times
        for status, times in sorted(by_class.items()):
            response.request_count_by_status_code.add(status_code=status, count=times)
        fill_percentiles(response.request_percentile_stats, "Execution time (s)", answered.run_times)
        fill_percentiles(response.request_percentile_stats, "Queueing time (s)", answered.wait_times)
        fill_percentiles(response.container_percentile_stats, "Startup time (s)", lived.start_times)
        return response


def _info(line: ServerRequest) -> Any:
    info = api_pb2.ServerRequestInfo(
        route=line.route,
        container_id=line.task_id,
        duration_seconds=line.ended_at - line.arrived_at,
        status=line.status,
    )
    info.timestamp.FromNanoseconds(int(line.arrived_at * 1e9))
    return info

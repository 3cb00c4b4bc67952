"""Apps on the wire."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.errors import NotFound
from stoker.ids import is_id
from stoker.protocol import scopes
from stoker.protocol.app_metadata import STATES, WIRE_STATES, AppMetadata
from stoker.protocol.metadata import Metadata
from stoker.protocol.values import cursor, seconds
from stoker.rpc.methods import Caller, rpc
from stoker.services.apps import apps as states
from stoker.services.apps.apps import App, Apps, Publication
from stoker.services.apps.deployments import STAGED
from stoker.services.apps.endpoints import Audience
from stoker.services.environments.environments import Environments
from stoker.services.images.images import Images
from stoker.services.pools.scheduler import Scheduler
from stoker.services.telemetry.logs import LogEntry, LogFilter, Logs
from stoker.services.watch.history import History

_MOST_ENTRIES = 20_000  # of one answer
_LONGEST_STREAM = 55.0  # seconds; the client opens the next one


class AppServicer:
    def __init__(
        self,
        *,
        apps: Apps,
        environments: Environments,
        images: Images,
        logs: Logs,
        metadata: Mapping[Audience, Metadata],
        app_metadata: AppMetadata,
        history: History,
        scheduler: Scheduler,
        page_url: str,
    ) -> None:
        self._apps = apps
        self._environments = environments
        self._images = images
        self._logs = logs
        self._metadata = metadata
        self._app_metadata = app_metadata
        self._history = history
        self._scheduler = scheduler
        self._page_url = page_url

    @rpc("AppCreate", once=True)
    async def create(self, request: api_pb2.AppCreateRequest, caller: Caller) -> api_pb2.AppCreateResponse:
        environment = self._environments.resolve(request.environment_name)
        state = STATES.get(request.app_state, states.INITIALIZING)
        app = await self._apps.create(environment.id, request.description, state, tags=dict(request.tags))
        url = self._url(app)
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url=url, app_logs_url=url)

    @rpc("AppGetOrCreate", once=True, containers=scopes.CREATED_AT_HOME)
    async def get_or_create(
        self, request: api_pb2.AppGetOrCreateRequest, caller: Caller
    ) -> api_pb2.AppGetOrCreateResponse:
        environment = self._environments.resolve(request.environment_name)
        if is_id(request.app_name, "ap"):
            app: App | None = self._apps.get(request.app_name)
        else:
            app = self._apps.by_name(environment.id, request.app_name)
        if app is None:
            if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise NotFound(f"App {request.app_name!r} not found in the environment {environment.name!r}.")
            app = await self._apps.deployed(environment.id, request.app_name)
        return api_pb2.AppGetOrCreateResponse(app_id=app.id, handle_metadata=self._app_metadata.handle(app))

    @rpc("AppGetByDeploymentName", containers=scopes.ANY_ENVIRONMENT)
    async def get_by_name(
        self, request: api_pb2.AppGetByDeploymentNameRequest, caller: Caller
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        environment = self._environments.resolve(request.environment_name)
        app = self._apps.by_name(environment.id, request.name)
        previous = None if app or not request.name else self._apps.last_stopped(environment.id, request.name)
        shown = app or previous
        return api_pb2.AppGetByDeploymentNameResponse(
            app_id=app.id if app else "",
            previous_app_id=previous.id if previous else "",
            environment_name=environment.name,
            lifecycle=self._app_metadata.lifecycle(shown) if shown else None,
        )

    @rpc("AppGetLifecycle", containers=scopes.ANYTHING)
    async def lifecycle(
        self, request: api_pb2.AppGetLifecycleRequest, caller: Caller
    ) -> api_pb2.AppGetLifecycleResponse:
        return api_pb2.AppGetLifecycleResponse(lifecycle=self._app_metadata.lifecycle(self._apps.get(request.app_id)))

    @rpc("AppGetLayout", containers=scopes.ANYTHING)
    async def layout(self, request: api_pb2.AppGetLayoutRequest, caller: Caller) -> api_pb2.AppGetLayoutResponse:
        return api_pb2.AppGetLayoutResponse(app_layout=self._metadata[caller.audience].layout(request.app_id))

    @rpc("AppPublish", once=True)
    async def publish(self, request: api_pb2.AppPublishRequest, caller: Caller) -> api_pb2.AppPublishResponse:
        details: dict[str, object] = {"commit": request.commit_info.SerializeToString().hex()}
        if request.staged:
            details["kind"] = STAGED
        publication = Publication(
            state=STATES.get(request.app_state, ""),
            name=request.name,
            function_ids=dict(request.function_ids),
            class_ids=dict(request.class_ids),
            definition_ids=dict(request.definition_ids),
            client_version=request.client_version or caller.client_version,
            tag=request.deployment_tag,
            tags=dict(request.tags),
            details=details,
            request=caller.idempotency_key,
        )
        if request.staged:
            app = await self._apps.stage(request.app_id, publication)
            return api_pb2.AppPublishResponse(url=self._url(app), deployed_at=time.time())
        app = await self._apps.publish(request.app_id, publication)
        return api_pb2.AppPublishResponse(url=self._url(app), deployed_at=app.deployed_at or 0.0)

    @rpc("AppHeartbeat")
    async def heartbeat(self, request: api_pb2.AppHeartbeatRequest, caller: Caller) -> Empty:
        if not self._apps.get(request.app_id).is_over:
            self._apps.heartbeat(request.app_id)
        return Empty()

    @rpc("AppClientDisconnect")
    async def disconnect(self, request: api_pb2.AppClientDisconnectRequest, caller: Caller) -> Empty:
        reason = api_pb2.AppDisconnectReason.Name(request.reason)
        await self._apps.disconnect(request.app_id, reason)
        return Empty()

    @rpc("AppStop", containers=scopes.OWN_APP)
    async def stop(self, request: api_pb2.AppStopRequest, caller: Caller) -> Empty:
        await self._apps.stop(request.app_id, by=self._app_metadata.user)
        return Empty()

    @rpc("AppList", containers=scopes.OWN_ENVIRONMENT)
    async def list(self, request: api_pb2.AppListRequest, caller: Caller) -> api_pb2.AppListResponse:
        environment = self._environments.resolve(request.environment_name)
        response = api_pb2.AppListResponse()
        for app in self._apps.all(environment.id):
            if app.state == states.INITIALIZING:
                continue
            response.apps.add(
                app_id=app.id,
                description=app.description,
                name=app.name,
                state=WIRE_STATES[app.state],
                created_at=app.created_at,
                stopped_at=app.stopped_at or 0.0,
                n_running_tasks=len(self._scheduler.tasks(app.id)),
                # Functions of apps that are over are not in memory, and a list is no reason to read them all.
                metadata=self._app_metadata.handle(app, members=not app.is_over),
            )
        return response

    @rpc("AppGetLogs", containers=scopes.OWN_APP)
    async def follow_logs(
        self, request: api_pb2.AppGetLogsRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """Of an app, or of a container alone, whose end is the end of the stream."""
        after = cursor(request.last_entry_id)
        timeout = min(request.timeout or _LONGEST_STREAM, _LONGEST_STREAM)
        wanted = replace(_filter(request, request.file_descriptor), input_id=request.input_id)
        if request.task_id and not request.app_id:
            task = self._history.task(request.task_id)
            app_id, ended = task.app_id, task.finished_at is not None
        else:
            app_id, ended = request.app_id, False
        app = self._apps.get(app_id)
        if ended:
            for entry in self._logs.fetch(app_id, wanted, _MOST_ENTRIES):
                if entry.seq > after:
                    yield _batch(entry)
            yield api_pb2.TaskLogsBatch(app_done=True)
            return
        over = app.state == states.STOPPED
        async for following in self._logs.follow(app_id, after, timeout, wanted, over=over):
            yield _batch(following) if following is not None else api_pb2.TaskLogsBatch(app_done=True)

    @rpc("AppFetchLogs", containers=scopes.OWN_LOG)
    async def fetch_logs(self, request: api_pb2.AppFetchLogsRequest, caller: Caller) -> api_pb2.AppFetchLogsResponse:
        entries = self._entries(request.app_id, _fetch_filter(request), request.limit or 1000)
        return api_pb2.AppFetchLogsResponse(batches=[_batch(e) for e in entries])

    @rpc("AppCountLogs", containers=scopes.OWN_LOG)
    async def count_logs(self, request: api_pb2.AppCountLogsRequest, caller: Caller) -> api_pb2.AppCountLogsResponse:
        wanted = _fetch_filter(request)
        width = request.bucket_secs or 60
        response = api_pb2.AppCountLogsResponse(app_id=request.app_id)
        buckets: dict[int, Any] = {}
        for entry in self._entries(request.app_id, wanted, 100_000):
            start = int(entry.timestamp // width * width)
            bucket = buckets.get(start)
            if bucket is None:
                bucket = buckets[start] = response.buckets.add()
                bucket.bucket_start_at.FromSeconds(start)
            name = {1: "stdout_logs", 2: "stderr_logs"}.get(entry.fd, "system_logs")
            setattr(bucket, name, getattr(bucket, name) + 1)
        return response

    def _entries(self, app_id: str, wanted: LogFilter, limit: int) -> Sequence[LogEntry]:
        """The log of an app, or of the build of an image, whose id may stand in its place (see ImageBuildChainGet)."""
        if not is_id(app_id, "im"):
            self._apps.get(app_id)
            return self._logs.fetch(app_id, wanted, limit)
        started, text = self._images.build_log(app_id)
        entries = [
            LogEntry(number, app_id, "", "", 1, line, started + number * 1e-6)
            for number, line in enumerate(text.splitlines(keepends=True), 1)
        ]
        return [entry for entry in entries if wanted.matches(entry)][-limit:]

    def _url(self, app: App) -> str:
        return f"{self._page_url}/apps/{app.id}"


def _filter(request: Any, source: int) -> LogFilter:
    """What the requests for logs have in common."""
    return LogFilter(
        function_id=request.parametrized_function_id or request.function_id,
        # There are no sandboxes here, so nothing is of one.
        task_id=request.task_id or request.sandbox_id,
        call_id=request.function_call_id,
        fd=source,
        search=request.search_text,
    )


def _fetch_filter(request: Any) -> LogFilter:
    since = seconds(request.since) if request.HasField("since") else 0.0
    until = seconds(request.until) if request.HasField("until") else 0.0
    return replace(_filter(request, request.source), since=since, until=until)


def _batch(entry: LogEntry) -> api_pb2.TaskLogsBatch:
    item = api_pb2.TaskLogs(
        data=entry.data,
        file_descriptor=cast(api_pb2.FileDescriptor.ValueType, entry.fd),
        timestamp=entry.timestamp,
        timestamp_ns=int(entry.timestamp * 1e9),
        function_call_id=entry.call_ids[0] if len(entry.call_ids) == 1 else "",
        input_id=entry.input_id,
        container_id=entry.task_id,
    )
    return api_pb2.TaskLogsBatch(
        task_id=entry.task_id,
        function_id=entry.function_id,
        input_id=entry.input_id,
        entry_id=str(entry.seq),
        items=[item],
    )

"""The workspace and the small questions a client asks about itself."""

from __future__ import annotations

import base64
import json
import time

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.protocol.rpc import Caller, rpc
from stoker.services.apps import Apps
from stoker.services.environments import Environments
from stoker.services.scheduler import Scheduler

_TOKEN_LIFETIME = 1200


class WorkspaceServicer:
    def __init__(
        self, *, workspace: str, dashboard_url: str, apps: Apps, environments: Environments, scheduler: Scheduler
    ) -> None:
        self._workspace = workspace
        self._dashboard_url = dashboard_url
        self._apps = apps
        self._environments = environments
        self._scheduler = scheduler

    @rpc("ClientHello")
    async def hello(self, request: Empty, caller: Caller) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse()

    @rpc("WorkspaceNameLookup")
    async def name(self, request: Empty, caller: Caller) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=self._workspace, username=self._workspace)

    @rpc("TokenInfoGet")
    async def token_info(self, request: api_pb2.TokenInfoGetRequest, caller: Caller) -> api_pb2.TokenInfoGetResponse:
        response = api_pb2.TokenInfoGetResponse(token_id=caller.token_id, workspace_name=self._workspace)
        response.user_identity.username = self._workspace
        return response

    @rpc("AuthTokenGet")
    async def auth_token(self, request: api_pb2.AuthTokenGetRequest, caller: Caller) -> api_pb2.AuthTokenGetResponse:
        """A token for planes this server does not have; the client wants one of the right shape and a lifetime."""
        parts = ({"alg": "none"}, {"exp": int(time.time()) + _TOKEN_LIFETIME})
        encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts]
        return api_pb2.AuthTokenGetResponse(token=".".join([*encoded, ""]))

    @rpc("WorkspaceDashboardUrlGet")
    async def dashboard(
        self, request: api_pb2.WorkspaceDashboardUrlRequest, caller: Caller
    ) -> api_pb2.WorkspaceDashboardUrlResponse:
        return api_pb2.WorkspaceDashboardUrlResponse(url=self._dashboard_url)

    @rpc("TaskList")
    async def tasks(self, request: api_pb2.TaskListRequest, caller: Caller) -> api_pb2.TaskListResponse:
        environment_id = self._environments.resolve(request.environment_name).id if request.environment_name else ""
        response = api_pb2.TaskListResponse()
        for task in self._scheduler.tasks(request.app_id):
            app = self._apps.get(task.app_id)
            if environment_id and app.environment_id != environment_id:
                continue
            response.tasks.add(
                task_id=task.id,
                app_id=task.app_id,
                app_description=app.description or app.name,
                started_at=task.started_at or 0.0,
                enqueued_at=task.enqueued_at,
            )
        return response

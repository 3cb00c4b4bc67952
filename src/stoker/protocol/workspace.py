"""The workspace and the small questions a client asks about itself."""

from __future__ import annotations

import base64
import json
import time

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.rpc.methods import Caller, rpc
from stoker.services.access.tokens import Tokens
from stoker.services.apps.apps import Apps
from stoker.services.environments.environments import Environments
from stoker.services.pools.scheduler import Scheduler

_TOKEN_LIFETIME = 1200


class WorkspaceServicer:
    def __init__(
        self,
        *,
        workspace: str,
        dashboard_url: str,
        apps: Apps,
        environments: Environments,
        scheduler: Scheduler,
        tokens: Tokens,
    ) -> None:
        self._tokens = tokens
        self._workspace = workspace
        self._dashboard_url = dashboard_url
        self._apps = apps
        self._environments = environments
        self._scheduler = scheduler

    @rpc("ClientHello", containers=scopes.ANYTHING, restricted=scopes.ANYTHING)
    async def hello(self, request: Empty, caller: Caller) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse()

    @rpc("WorkspaceNameLookup", containers=scopes.ANYTHING)
    async def name(self, request: Empty, caller: Caller) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=self._workspace, username=self._workspace)

    @rpc("AuthTokenGet", containers=scopes.ANYTHING)
    async def auth_token(self, request: api_pb2.AuthTokenGetRequest, caller: Caller) -> api_pb2.AuthTokenGetResponse:
        """A token for planes this server does not have; the client wants one of the right shape and a lifetime."""
        parts = ({"alg": "none"}, {"exp": int(time.time()) + _TOKEN_LIFETIME})
        encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts]
        return api_pb2.AuthTokenGetResponse(token=".".join([*encoded, ""]))

    @rpc("WorkspaceDashboardUrlGet", containers=scopes.ANYTHING)
    async def dashboard(
        self, request: api_pb2.WorkspaceDashboardUrlRequest, caller: Caller
    ) -> api_pb2.WorkspaceDashboardUrlResponse:
        return api_pb2.WorkspaceDashboardUrlResponse(url=self._dashboard_url)

    @rpc("WorkspaceMembersList")
    async def members(self, request: Empty, caller: Caller) -> api_pb2.WorkspaceMembersListResponse:
        """One member, who is everybody that has a token."""
        tokens = self._tokens.all()
        response = api_pb2.WorkspaceMembersListResponse()
        response.members.add(
            member_id=self._workspace,
            member_displayname=self._workspace,
            member_role=api_pb2.MEMBER_ROLE_OWNER,
            joined_at=min((t.created_at for t in tokens), default=0.0),
            last_active_at=max((t.last_used_at or 0.0 for t in tokens), default=0.0),
            user_id=self._workspace,
        )
        return response

    @rpc("WorkspaceSettings", containers=scopes.ANYTHING)
    async def settings(self, request: Empty, caller: Caller) -> api_pb2.WorkspaceSettingsResponse:
        default = self._environments.default()
        return api_pb2.WorkspaceSettingsResponse(
            default_environment_name=default.name,
            image_builder_version=self._environments.image_builder_version(default, caller.client_version),
        )

    @rpc("WorkspaceSetDefaultEnvironment")
    async def set_default_environment(
        self, request: api_pb2.WorkspaceSetDefaultEnvironmentRequest, caller: Caller
    ) -> Empty:
        await self._environments.set_default(request.environment_name)
        return Empty()

    @rpc("WorkspaceSetImageBuilderVersion")
    async def set_image_builder_version(
        self, request: api_pb2.WorkspaceSetImageBuilderVersionRequest, caller: Caller
    ) -> api_pb2.WorkspaceSetImageBuilderVersionResponse:
        await self._environments.set_image_builder_version(request.new_image_builder_version)
        return api_pb2.WorkspaceSetImageBuilderVersionResponse(image_builder_version=request.new_image_builder_version)

    @rpc("TaskList", containers=scopes.OWN_APP)
    async def tasks(self, request: api_pb2.TaskListRequest, caller: Caller) -> api_pb2.TaskListResponse:
        """Of an app, or of an environment: without either, of the default one."""
        by_environment = bool(request.environment_name or not request.app_id)
        environment = self._environments.resolve(request.environment_name) if by_environment else None
        response = api_pb2.TaskListResponse()
        for task in self._scheduler.tasks(request.app_id):
            app = self._apps.get(task.app_id)
            if environment is not None and app.environment_id != environment.id:
                continue
            response.tasks.add(
                task_id=task.id,
                app_id=task.app_id,
                app_description=app.description or app.name,
                started_at=task.started_at or 0.0,
                enqueued_at=task.enqueued_at,
            )
        return response

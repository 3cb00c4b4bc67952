"""RPCs about an app as a whole: its versions, its functions, its tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.protocol.app_metadata import AppMetadata
from stoker.protocol.definitions import ranked_functions
from stoker.rpc.methods import Caller, rpc
from stoker.services.apps import deployments as kinds
from stoker.services.apps.apps import App, Apps
from stoker.services.apps.deployments import Deployment, Deployments
from stoker.services.functions.functions import Functions
from stoker.services.functions.spec import Function

_KINDS = {
    kinds.STANDARD: api_pb2.DEPLOYMENT_TYPE_STANDARD,
    kinds.ROLLBACK: api_pb2.DEPLOYMENT_TYPE_ROLLBACK,
    kinds.ROLLOVER: api_pb2.DEPLOYMENT_TYPE_ROLLOVER,
    kinds.STAGED: api_pb2.DEPLOYMENT_TYPE_STAGED,
    kinds.PROMOTION: api_pb2.DEPLOYMENT_TYPE_PROMOTION,
}


class DeploymentServicer:
    def __init__(
        self,
        *,
        deployments: Deployments,
        apps: Apps,
        functions: Functions,
        metadata: AppMetadata,
        user: str,
        page_url: Callable[[App], str],
    ) -> None:
        self._deployments = deployments
        self._apps = apps
        self._functions = functions
        self._metadata = metadata
        self._user = user
        self._page_url = page_url

    @rpc("AppDeploymentHistory", containers=scopes.OWN_APP)
    async def history(
        self, request: api_pb2.AppDeploymentHistoryRequest, caller: Caller
    ) -> api_pb2.AppDeploymentHistoryResponse:
        found, current = self._deployments.history(request.app_id), self._deployments.current(request.app_id)
        return api_pb2.AppDeploymentHistoryResponse(
            app_deployment_histories=[self._entry(d) for d in found],
            production_app_version=current.version if current else 0,
        )

    @rpc("AppRollback", once=True)
    async def roll_back(self, request: api_pb2.AppRollbackRequest, caller: Caller) -> api_pb2.AppRollbackResponse:
        app = await self._deployments.roll_back(request.app_id, request.version, request=caller.idempotency_key)
        return api_pb2.AppRollbackResponse(url=self._page_url(app), deployed_at=app.deployed_at or 0.0)

    @rpc("AppPromote", once=True)
    async def promote(self, request: api_pb2.AppPromoteRequest, caller: Caller) -> api_pb2.AppPromoteResponse:
        app = await self._deployments.promote(request.app_id, request.version, request=caller.idempotency_key)
        return api_pb2.AppPromoteResponse(url=self._page_url(app), deployed_at=app.deployed_at or 0.0)

    @rpc("AppRollover", once=True)
    async def roll_over(self, request: api_pb2.AppRolloverRequest, caller: Caller) -> api_pb2.AppRolloverResponse:
        app = await self._deployments.roll_over(request.app_id, request=caller.idempotency_key)
        return api_pb2.AppRolloverResponse(url=self._page_url(app), deployed_at=app.deployed_at or 0.0)

    @rpc("AppGetInfo", containers=scopes.OWN_APP)
    async def info(self, request: api_pb2.AppGetInfoRequest, caller: Caller) -> api_pb2.AppGetInfoResponse:
        app = self._apps.get(request.app_id)
        response = api_pb2.AppGetInfoResponse(info=self._metadata.handle(app))
        for function_id in app.function_ids.values():
            definitions = _definitions(self._functions.get(function_id))
            if definitions:
                response.function_info_summaries[function_id].CopyFrom(_summary(definitions))
        return response

    @rpc("AppGetTags", containers=scopes.OWN_APP)
    async def tags(self, request: api_pb2.AppGetTagsRequest, caller: Caller) -> api_pb2.AppGetTagsResponse:
        return api_pb2.AppGetTagsResponse(tags=self._apps.get(request.app_id).tags)

    @rpc("AppSetTags")
    async def set_tags(self, request: api_pb2.AppSetTagsRequest, caller: Caller) -> Empty:
        await self._apps.set_tags(request.app_id, dict(request.tags))
        return Empty()

    def _entry(self, deployment: Deployment) -> api_pb2.AppDeploymentHistory:
        commit = bytes.fromhex(str(deployment.details.get("commit", "")))
        return api_pb2.AppDeploymentHistory(
            app_id=deployment.app_id,
            version=deployment.version,
            client_version=deployment.client_version,
            deployed_at=deployment.deployed_at,
            deployed_by=self._user,
            tag=deployment.tag,
            rollback_version=deployment.from_version,
            rollback_allowed=deployment.kind != kinds.STAGED,
            commit_info=api_pb2.CommitInfo.FromString(commit) if commit else None,
            deployment_type=_KINDS[deployment.kind],
        )


def _definitions(function: Function) -> list[Any]:
    """The definitions of a function by rank, none before it has one."""
    latest = function.latest
    return ranked_functions(api_pb2.FunctionCreateRequest.FromString(latest.content)) if latest else []


def _summary(definitions: list[Any]) -> Any:
    first = definitions[0]
    is_web = first.webhook_config.type != api_pb2.WEBHOOK_TYPE_UNSPECIFIED
    summary = api_pb2.AppGetInfoResponse.FunctionInfoSummary(
        gpu_config=[d.resources.gpu_config for d in definitions if d.resources.gpu_config.count],
        schedule=first.schedule if first.HasField("schedule") else None,
        web_function=is_web,
        is_sessioned=first.is_sessioned,
    )
    if is_web:
        summary.requires_proxy_auth = first.webhook_config.requires_proxy_auth
    elif first.is_server:
        summary.requires_proxy_auth = not first.http_config.unauthenticated
    return summary

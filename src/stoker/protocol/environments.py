"""Environment RPCs."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.rpc.methods import Caller, rpc
from stoker.services.environments.environments import Environment, Environments


class EnvironmentServicer:
    def __init__(self, *, environments: Environments) -> None:
        self._environments = environments

    @rpc("EnvironmentGetOrCreate", containers=scopes.EXISTING_ENVIRONMENT)
    async def get_or_create(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, caller: Caller
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        name = request.deployment_name
        exists = not name or any(e.name == name for e in self._environments.all())
        kind = request.object_creation_type
        if kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS or (
            kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING and not exists
        ):
            environment = await self._environments.create(name)
        else:
            environment = self._environments.resolve(name)
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=environment.id,
            metadata=api_pb2.EnvironmentMetadata(
                name=environment.name,
                settings=api_pb2.EnvironmentSettings(
                    image_builder_version=self._environments.image_builder_version(environment, caller.client_version),
                    webhook_suffix=environment.web_suffix,
                ),
            ),
        )

    @rpc("EnvironmentList")
    async def list(self, request: Empty, caller: Caller) -> api_pb2.EnvironmentListResponse:
        return api_pb2.EnvironmentListResponse(items=[self._item(e) for e in self._environments.all()])

    @rpc("EnvironmentCreate", once=True)
    async def create(self, request: api_pb2.EnvironmentCreateRequest, caller: Caller) -> Empty:
        await self._environments.create(request.name)
        return Empty()

    @rpc("EnvironmentUpdate")
    async def update(self, request: api_pb2.EnvironmentUpdateRequest, caller: Caller) -> api_pb2.EnvironmentListItem:
        environment = await self._environments.update(
            request.current_name,
            new_name=request.name.value if request.HasField("name") else None,
            web_suffix=request.web_suffix.value if request.HasField("web_suffix") else None,
            image_builder_version=request.image_builder_version if request.HasField("image_builder_version") else None,
        )
        return self._item(environment)

    @rpc("EnvironmentDelete", once=True)
    async def delete(self, request: api_pb2.EnvironmentDeleteRequest, caller: Caller) -> Empty:
        await self._environments.delete(request.name)
        return Empty()

    def _item(self, environment: Environment) -> api_pb2.EnvironmentListItem:
        return api_pb2.EnvironmentListItem(
            name=environment.name,
            webhook_suffix=environment.web_suffix,
            created_at=environment.created_at,
            default=self._environments.is_default(environment),
            environment_id=environment.id,
            image_builder_version=environment.image_builder_version or None,
        )

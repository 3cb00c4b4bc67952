"""Secret RPCs. No answer ever holds a value."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.protocol.named import by_creation_type
from stoker.rpc.methods import Caller, rpc
from stoker.services.environments.environments import Environments
from stoker.services.state.secrets import Secret, Secrets


class SecretServicer:
    def __init__(self, *, secrets: Secrets, environments: Environments, user: str) -> None:
        """user: who has made all secrets: everybody with a token goes by one name."""
        self._secrets = secrets
        self._environments = environments
        self._user = user

    @rpc("SecretGetOrCreate", once=True, containers=scopes.NEW_AT_HOME)
    async def get_or_create(
        self, request: api_pb2.SecretGetOrCreateRequest, caller: Caller
    ) -> api_pb2.SecretGetOrCreateResponse:
        environment = self._environments.resolve(request.environment_name)
        name, values = request.deployment_name, dict(request.env_dict)
        secret = await by_creation_type(
            request.object_creation_type,
            find=lambda: self._secrets.find(environment.id, name, list(request.required_keys)),
            create=lambda if_exists: self._secrets.create(environment.id, name, values, if_exists=if_exists),
            create_nameless=lambda: self._secrets.create_anonymous(environment.id, values),
        )
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.id, metadata=self._metadata(secret))

    @rpc("SecretList", containers=scopes.OWN_ENVIRONMENT)
    async def list(self, request: api_pb2.SecretListRequest, caller: Caller) -> api_pb2.SecretListResponse:
        environment = self._environments.resolve(request.environment_name)
        page = request.pagination
        items = [
            api_pb2.SecretListItem(
                label=secret.name or "",
                created_at=secret.created_at,
                last_used_at=secret.last_used_at or 0.0,
                environment_name=environment.name,
                secret_id=secret.id,
                metadata=self._metadata(secret),
            )
            for secret in self._secrets.named(environment.id, page.max_objects, page.created_before)
        ]
        return api_pb2.SecretListResponse(items=items, environment_name=environment.name)

    @rpc("SecretGetInfo", containers=scopes.of_own_environment("secret_id"))
    async def get_info(self, request: api_pb2.SecretGetInfoRequest, caller: Caller) -> api_pb2.SecretGetInfoResponse:
        return api_pb2.SecretGetInfoResponse(metadata=self._metadata(self._secrets.get(request.secret_id)))

    @rpc("SecretUpdate")
    async def update(self, request: api_pb2.SecretUpdateRequest, caller: Caller) -> Empty:
        changes = {u.key: u.value if u.HasField("value") else None for u in request.updates}
        await self._secrets.update(request.secret_id, changes)
        return Empty()

    @rpc("SecretDelete", once=True)
    async def delete(self, request: api_pb2.SecretDeleteRequest, caller: Caller) -> Empty:
        await self._secrets.delete(request.secret_id)
        return Empty()

    def _metadata(self, secret: Secret) -> api_pb2.SecretMetadata:
        return api_pb2.SecretMetadata(
            name=secret.name or "",
            keys=secret.keys,
            creation_info=api_pb2.CreationInfo(created_at=secret.created_at, created_by=self._user),
            environment_name=self._environments.get(secret.environment_id).name,
            last_used_at=secret.last_used_at or 0.0,
        )

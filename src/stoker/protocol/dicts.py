"""Dict RPCs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.protocol.named import get_or_create
from stoker.rpc.methods import Caller, rpc
from stoker.services.environments.environments import Environments
from stoker.services.environments.named import Named
from stoker.services.state.dicts import Dicts


class DictServicer:
    def __init__(self, *, dicts: Dicts, environments: Environments, user: str) -> None:
        """user: who has made all dicts: everybody with a token goes by one name."""
        self._dicts = dicts
        self._objects = dicts.objects
        self._environments = environments
        self._user = user

    @rpc("DictGetOrCreate", once=True, containers=scopes.CREATED_AT_HOME)
    async def get_or_create(
        self, request: api_pb2.DictGetOrCreateRequest, caller: Caller
    ) -> api_pb2.DictGetOrCreateResponse:
        environment = self._environments.resolve(request.environment_name)
        found, new = await get_or_create(
            self._objects, environment.id, request.deployment_name, request.object_creation_type
        )
        if new and request.data:
            await self._dicts.update(found.id, [(e.key, e.value) for e in request.data])
        return api_pb2.DictGetOrCreateResponse(dict_id=found.id, metadata=self._metadata(found))

    @rpc("DictGetById", containers=scopes.ANYTHING)
    async def get_by_id(self, request: api_pb2.DictGetByIdRequest, caller: Caller) -> api_pb2.DictGetByIdResponse:
        found = self._objects.get(request.dict_id)
        return api_pb2.DictGetByIdResponse(dict_id=found.id, metadata=self._metadata(found))

    @rpc("DictHeartbeat", containers=scopes.ANYTHING)
    async def heartbeat(self, request: api_pb2.DictHeartbeatRequest, caller: Caller) -> Empty:
        await self._objects.heartbeat(request.dict_id)
        return Empty()

    @rpc("DictList", containers=scopes.OWN_ENVIRONMENT)
    async def list(self, request: api_pb2.DictListRequest, caller: Caller) -> api_pb2.DictListResponse:
        environment = self._environments.resolve(request.environment_name)
        page = request.pagination
        items = [
            api_pb2.DictListResponse.DictInfo(
                name=found.name or "", created_at=found.created_at, dict_id=found.id, metadata=self._metadata(found)
            )
            for found in self._objects.named(environment.id, page.max_objects, page.created_before)
        ]
        return api_pb2.DictListResponse(dicts=items, environment_name=environment.name)

    @rpc("DictDelete", once=True, containers=scopes.of_own_environment("dict_id"))
    async def delete(self, request: api_pb2.DictDeleteRequest, caller: Caller) -> Empty:
        await self._objects.delete(request.dict_id)
        return Empty()

    @rpc("DictGet", containers=scopes.ANYTHING)
    async def get(self, request: api_pb2.DictGetRequest, caller: Caller) -> api_pb2.DictGetResponse:
        value = self._dicts.get(request.dict_id, request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    @rpc("DictContains", containers=scopes.ANYTHING)
    async def contains(self, request: api_pb2.DictContainsRequest, caller: Caller) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=self._dicts.contains(request.dict_id, request.key))

    @rpc("DictLen", containers=scopes.ANYTHING)
    async def length(self, request: api_pb2.DictLenRequest, caller: Caller) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=self._dicts.length(request.dict_id))

    @rpc("DictUpdate", once=True, containers=scopes.ANYTHING)
    async def update(self, request: api_pb2.DictUpdateRequest, caller: Caller) -> api_pb2.DictUpdateResponse:
        entries = [(e.key, e.value) for e in request.updates]
        created = await self._dicts.update(
            request.dict_id, entries, if_absent=request.if_not_exists, request=_name(caller)
        )
        return api_pb2.DictUpdateResponse(created=created)

    @rpc("DictPop", once=True, containers=scopes.ANYTHING)
    async def pop(self, request: api_pb2.DictPopRequest, caller: Caller) -> api_pb2.DictPopResponse:
        value = await self._dicts.pop(request.dict_id, request.key, request=_name(caller))
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    @rpc("DictClear", once=True, containers=scopes.ANYTHING)
    async def clear(self, request: api_pb2.DictClearRequest, caller: Caller) -> Empty:
        await self._dicts.clear(request.dict_id)
        return Empty()

    @rpc("DictContents", containers=scopes.ANYTHING)
    async def contents(self, request: api_pb2.DictContentsRequest, caller: Caller) -> AsyncIterator[api_pb2.DictEntry]:
        after = b""
        while True:
            page, after = await self._dicts.contents(request.dict_id, after, values=request.values)
            for key, value in page:
                yield api_pb2.DictEntry(key=key if request.keys else b"", value=value)
            if not after:
                return

    def _metadata(self, found: Named) -> api_pb2.DictMetadata:
        creation = api_pb2.CreationInfo(created_at=found.created_at, created_by=self._user)
        return api_pb2.DictMetadata(name=found.name or "", creation_info=creation)


def _name(caller: Caller) -> str:
    """Of a request, for its repeats after a restart of the server; the others are answered before they come here."""
    return f"{caller.name}/{caller.idempotency_key}" if caller.idempotency_key else ""

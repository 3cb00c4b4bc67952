"""Queue RPCs."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.protocol.named import get_or_create
from stoker.protocol.values import cursor
from stoker.rpc.methods import Caller, rpc
from stoker.services.environments.environments import Environments
from stoker.services.environments.named import Named
from stoker.services.state.queues import Queues

_LONGEST_POLL = 50.0  # seconds; the client asks again


class QueueServicer:
    def __init__(self, *, queues: Queues, environments: Environments, user: str) -> None:
        """user: who has made all queues: everybody with a token goes by one name."""
        self._queues = queues
        self._objects = queues.objects
        self._environments = environments
        self._user = user

    @rpc("QueueGetOrCreate", once=True, containers=scopes.CREATED_AT_HOME)
    async def get_or_create(
        self, request: api_pb2.QueueGetOrCreateRequest, caller: Caller
    ) -> api_pb2.QueueGetOrCreateResponse:
        environment = self._environments.resolve(request.environment_name)
        found, _ = await get_or_create(
            self._objects, environment.id, request.deployment_name, request.object_creation_type
        )
        return api_pb2.QueueGetOrCreateResponse(queue_id=found.id, metadata=self._metadata(found))

    @rpc("QueueGetById", containers=scopes.ANYTHING)
    async def get_by_id(self, request: api_pb2.QueueGetByIdRequest, caller: Caller) -> api_pb2.QueueGetByIdResponse:
        found = self._objects.get(request.queue_id)
        return api_pb2.QueueGetByIdResponse(queue_id=found.id, metadata=self._metadata(found))

    @rpc("QueueHeartbeat", containers=scopes.ANYTHING)
    async def heartbeat(self, request: api_pb2.QueueHeartbeatRequest, caller: Caller) -> Empty:
        await self._objects.heartbeat(request.queue_id)
        return Empty()

    @rpc("QueueList", containers=scopes.OWN_ENVIRONMENT)
    async def list(self, request: api_pb2.QueueListRequest, caller: Caller) -> api_pb2.QueueListResponse:
        environment = self._environments.resolve(request.environment_name)
        page = request.pagination
        response = api_pb2.QueueListResponse(environment_name=environment.name)
        for found in self._objects.named(environment.id, page.max_objects, page.created_before):
            total, partitions = self._queues.total(found.id)
            response.queues.add(
                name=found.name or "",
                created_at=found.created_at,
                num_partitions=partitions,
                total_size=min(total, request.total_size_limit or total),
                queue_id=found.id,
                metadata=self._metadata(found),
            )
        return response

    @rpc("QueueDelete", once=True, containers=scopes.of_own_environment("queue_id"))
    async def delete(self, request: api_pb2.QueueDeleteRequest, caller: Caller) -> Empty:
        await self._objects.delete(request.queue_id)
        return Empty()

    @rpc("QueuePut", once=True, containers=scopes.ANYTHING)
    async def put(self, request: api_pb2.QueuePutRequest, caller: Caller) -> Empty:
        await self._queues.put(
            request.queue_id,
            request.partition_key,
            list(request.values),
            ttl=request.partition_ttl_seconds,
            key=caller.idempotency_key,
            repeated=caller.repeats,
        )
        return Empty()

    @rpc("QueueGet", containers=scopes.ANYTHING, waits=True)
    async def get(self, request: api_pb2.QueueGetRequest, caller: Caller) -> api_pb2.QueueGetResponse:
        """Not `once`: a caller that goes must not take items along. Repeats are known by what the database keeps of them."""
        values = await self._queues.get(
            request.queue_id,
            request.partition_key,
            request.n_values,
            min(request.timeout, _LONGEST_POLL),
            key=caller.idempotency_key,
            repeated=caller.repeats,
        )
        return api_pb2.QueueGetResponse(values=values)

    @rpc("QueueNextItems", containers=scopes.ANYTHING, waits=True)
    async def next_items(
        self, request: api_pb2.QueueNextItemsRequest, caller: Caller
    ) -> api_pb2.QueueNextItemsResponse:
        after = cursor(request.last_entry_id)
        timeout = min(request.item_poll_timeout, _LONGEST_POLL)
        items = await self._queues.items(request.queue_id, request.partition_key, after, timeout)
        return api_pb2.QueueNextItemsResponse(
            items=[api_pb2.QueueItem(value=item.value, entry_id=str(item.seq)) for item in items]
        )

    @rpc("QueueLen", containers=scopes.ANYTHING)
    async def length(self, request: api_pb2.QueueLenRequest, caller: Caller) -> api_pb2.QueueLenResponse:
        if request.total:
            return api_pb2.QueueLenResponse(len=self._queues.total(request.queue_id)[0])
        return api_pb2.QueueLenResponse(len=self._queues.length(request.queue_id, request.partition_key))

    @rpc("QueueClear", once=True, containers=scopes.ANYTHING)
    async def clear(self, request: api_pb2.QueueClearRequest, caller: Caller) -> Empty:
        await self._queues.clear(request.queue_id, None if request.all_partitions else request.partition_key)
        return Empty()

    def _metadata(self, found: Named) -> api_pb2.QueueMetadata:
        creation = api_pb2.CreationInfo(created_at=found.created_at, created_by=self._user)
        return api_pb2.QueueMetadata(name=found.name or "", creation_info=creation)

"""RPCs of the legacy network file systems, which the wire calls shared volumes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.batches import batches
from stoker.protocol import scopes
from stoker.protocol.entries import file_entries
from stoker.protocol.named import get_or_create
from stoker.rpc.methods import Caller, rpc
from stoker.services.environments.environments import Environments
from stoker.services.files.network_files import NetworkFiles


class NetworkFileServicer:
    def __init__(self, *, files: NetworkFiles, environments: Environments) -> None:
        self._files = files
        self._objects = files.objects
        self._environments = environments

    @rpc("SharedVolumeGetOrCreate", once=True, containers=scopes.CREATED_AT_HOME)
    async def get_or_create(
        self, request: api_pb2.SharedVolumeGetOrCreateRequest, caller: Caller
    ) -> api_pb2.SharedVolumeGetOrCreateResponse:
        environment = self._environments.resolve(request.environment_name)
        found, _ = await get_or_create(
            self._objects, environment.id, request.deployment_name, request.object_creation_type
        )
        return api_pb2.SharedVolumeGetOrCreateResponse(shared_volume_id=found.id)

    @rpc("SharedVolumeHeartbeat", containers=scopes.ANYTHING)
    async def heartbeat(self, request: api_pb2.SharedVolumeHeartbeatRequest, caller: Caller) -> Empty:
        await self._objects.heartbeat(request.shared_volume_id)
        return Empty()

    @rpc("SharedVolumeList", containers=scopes.OWN_ENVIRONMENT)
    async def list(self, request: api_pb2.SharedVolumeListRequest, caller: Caller) -> api_pb2.SharedVolumeListResponse:
        environment = self._environments.resolve(request.environment_name)
        items = [
            api_pb2.SharedVolumeListItem(label=o.name or "", shared_volume_id=o.id, created_at=o.created_at)
            for o in self._objects.named(environment.id)
        ]
        return api_pb2.SharedVolumeListResponse(items=items, environment_name=environment.name)

    @rpc("SharedVolumeDelete", once=True, containers=scopes.of_own_environment("shared_volume_id"))
    async def delete(self, request: api_pb2.SharedVolumeDeleteRequest, caller: Caller) -> Empty:
        await self._objects.delete(request.shared_volume_id)
        return Empty()

    @rpc("SharedVolumeListFiles", containers=scopes.ANYTHING)
    async def list_files(
        self, request: api_pb2.SharedVolumeListFilesRequest, caller: Caller
    ) -> api_pb2.SharedVolumeListFilesResponse:
        found = await self._files.list(request.shared_volume_id, request.path)
        return api_pb2.SharedVolumeListFilesResponse(entries=file_entries(found))

    @rpc("SharedVolumeListFilesStream", containers=scopes.ANYTHING)
    async def list_files_stream(
        self, request: api_pb2.SharedVolumeListFilesRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.SharedVolumeListFilesResponse]:
        found = await self._files.list(request.shared_volume_id, request.path)
        for batch in batches(found):
            yield api_pb2.SharedVolumeListFilesResponse(entries=file_entries(batch))

    @rpc("SharedVolumePutFile", once=True, containers=scopes.known_blobs("data_blob_id"))
    async def put_file(
        self, request: api_pb2.SharedVolumePutFileRequest, caller: Caller
    ) -> api_pb2.SharedVolumePutFileResponse:
        """The file is there when this answers; clients ask again until they are told so."""
        if request.data_blob_id:
            await self._files.write_blob(
                request.shared_volume_id, request.path, request.data_blob_id, request.sha256_hex
            )
        else:
            await self._files.write(request.shared_volume_id, request.path, request.data)
        return api_pb2.SharedVolumePutFileResponse(exists=True)

    @rpc("SharedVolumeGetFile", containers=scopes.ANYTHING)
    async def get_file(
        self, request: api_pb2.SharedVolumeGetFileRequest, caller: Caller
    ) -> api_pb2.SharedVolumeGetFileResponse:
        """`data_blob_id` of a large file goes back to us with BlobGet."""
        found = await self._files.read(request.shared_volume_id, request.path)
        if isinstance(found, bytes):
            return api_pb2.SharedVolumeGetFileResponse(data=found)
        caller.tell(found)
        return api_pb2.SharedVolumeGetFileResponse(data_blob_id=found)

    @rpc("SharedVolumeRemoveFile", once=True, containers=scopes.ANYTHING)
    async def remove_file(self, request: api_pb2.SharedVolumeRemoveFileRequest, caller: Caller) -> Empty:
        await self._files.remove(request.shared_volume_id, request.path, recursive=request.recursive)
        return Empty()

"""Volume RPCs. Version 1 and 2 of the file RPCs differ in how uploads travel, not in what they do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.errors import FailedPrecondition
from stoker.protocol import scopes
from stoker.protocol.blobs import url_for
from stoker.protocol.entries import file_entries
from stoker.protocol.named import by_creation_type
from stoker.protocol.values import in_turns
from stoker.rpc.methods import Caller, rpc
from stoker.services.environments.environments import Environments
from stoker.services.files.transfer import TransferUrls
from stoker.services.files.volume_files import FilePlan, VolumeFiles
from stoker.services.files.volumes import Volume, Volumes

_DEFAULT_MODE = 0o644
OpenFiles = Callable[[str, str], Awaitable[Sequence[str]]]


class VolumeServicer:
    def __init__(
        self,
        *,
        volumes: Volumes,
        files: VolumeFiles,
        environments: Environments,
        urls: TransferUrls,
        open_files: OpenFiles,
        user: str,
    ) -> None:
        """user: who has made all volumes: everybody with a token goes by one name. open_files: the files of a volume that a container holds open, by the ids of the container and the volume."""
        self._open_files = open_files
        self._volumes = volumes
        self._files = files
        self._environments = environments
        self._urls = urls
        self._user = user

    @rpc("VolumeGetOrCreate", once=True, containers=scopes.CREATED_AT_HOME)
    async def get_or_create(
        self, request: api_pb2.VolumeGetOrCreateRequest, caller: Caller
    ) -> api_pb2.VolumeGetOrCreateResponse:
        environment = self._environments.resolve(request.environment_name)
        name, version = request.deployment_name, request.version or api_pb2.VOLUME_FS_VERSION_V2
        volume = await by_creation_type(
            request.object_creation_type,
            find=lambda: self._volumes.find(environment.id, name),
            create=lambda if_exists: self._volumes.create(environment.id, name, version, if_exists=if_exists),
            create_nameless=lambda: self._volumes.create_ephemeral(environment.id, version),
        )
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.id,
            version=volume.version,  # type: ignore[arg-type]
            metadata=volume_metadata(volume, self._user),
        )

    @rpc("VolumeGetById", containers=scopes.ANYTHING)
    async def get_by_id(self, request: api_pb2.VolumeGetByIdRequest, caller: Caller) -> api_pb2.VolumeGetByIdResponse:
        volume = self._volumes.get(request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=volume.id, metadata=volume_metadata(volume, self._user))

    @rpc("VolumeHeartbeat", containers=scopes.ANYTHING)
    async def heartbeat(self, request: api_pb2.VolumeHeartbeatRequest, caller: Caller) -> Empty:
        await self._volumes.heartbeat(request.volume_id)
        return Empty()

    @rpc("VolumeList", containers=scopes.OWN_ENVIRONMENT)
    async def list(self, request: api_pb2.VolumeListRequest, caller: Caller) -> api_pb2.VolumeListResponse:
        environment = self._environments.resolve(request.environment_name)
        page = request.pagination
        items = [
            api_pb2.VolumeListItem(
                label=volume.name or "",
                volume_id=volume.id,
                created_at=volume.created_at,
                metadata=volume_metadata(volume, self._user),
            )
            for volume in self._volumes.named(environment.id, page.max_objects, page.created_before)
        ]
        return api_pb2.VolumeListResponse(items=items, environment_name=environment.name)

    @rpc("VolumeRename", containers=scopes.of_own_environment("volume_id"))
    async def rename(self, request: api_pb2.VolumeRenameRequest, caller: Caller) -> Empty:
        await self._volumes.rename(request.volume_id, request.name)
        return Empty()

    @rpc("VolumeDelete", once=True, containers=scopes.of_own_environment("volume_id"))
    async def delete(self, request: api_pb2.VolumeDeleteRequest, caller: Caller) -> Empty:
        await self._volumes.delete(request.volume_id)
        return Empty()

    @rpc("VolumeCommit", containers=scopes.ANYTHING, restricted=scopes.MOUNTED_VOLUME)
    async def commit(self, request: api_pb2.VolumeCommitRequest, caller: Caller) -> api_pb2.VolumeCommitResponse:
        """Nothing to do: containers write to the volume's own directory."""
        self._volumes.get(request.volume_id)
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    @rpc("VolumeReload", containers=scopes.ANYTHING, restricted=scopes.MOUNTED_VOLUME)
    async def reload(self, request: api_pb2.VolumeReloadRequest, caller: Caller) -> Empty:
        """A container sees every change at once. What holds a file open fails all the same, as it must on other servers, which replace
        the whole mount: an app that relies on more would not be portable."""
        self._volumes.get(request.volume_id)
        found = await self._open_files(caller.task_id, request.volume_id) if caller.task_id else []
        if found:
            others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise FailedPrecondition(f"there are open files preventing the operation: {found[0]} is open{others}")
        return Empty()

    @rpc("VolumeListFiles", containers=scopes.ANYTHING)
    async def list_files(
        self, request: api_pb2.VolumeListFilesRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        found = self._files.list(
            request.volume_id, request.path, recursive=request.recursive, limit=request.max_entries
        )
        async for batch in found:
            yield api_pb2.VolumeListFilesResponse(entries=file_entries(batch))

    @rpc("VolumeListFiles2", containers=scopes.ANYTHING)
    async def list_files2(
        self, request: api_pb2.VolumeListFiles2Request, caller: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        found = self._files.list(
            request.volume_id, request.path, recursive=request.recursive, limit=request.max_entries
        )
        async for batch in found:
            yield api_pb2.VolumeListFiles2Response(entries=file_entries(batch))

    @rpc("VolumePutFiles", once=True, containers=scopes.ANYTHING)
    async def put_files(self, request: api_pb2.VolumePutFilesRequest, caller: Caller) -> Empty:
        files = [(f.filename, f.sha256_hex, _mode(f)) async for f in in_turns(request.files)]
        overwrite = not request.disallow_overwrite_existing_files
        await self._files.put_contents(request.volume_id, files, overwrite=overwrite)
        return Empty()

    @rpc("VolumePutFiles2", once=True, containers=scopes.ANYTHING)
    async def put_files2(
        self, request: api_pb2.VolumePutFiles2Request, caller: Caller
    ) -> api_pb2.VolumePutFiles2Response:
        plans = [
            FilePlan(f.path, f.size, _mode(f), tuple(block.contents_sha256.hex() for block in f.blocks))
            async for f in in_turns(request.files)
        ]
        overwrite = not request.disallow_overwrite_existing_files
        sent = False
        async for file in in_turns(request.files):
            sent = sent or any(block.put_response for block in file.blocks)
        missing = await self._files.put(request.volume_id, plans, overwrite=overwrite, sent=sent)
        return api_pb2.VolumePutFiles2Response(
            missing_blocks=[
                api_pb2.VolumePutFiles2Response.MissingBlock(
                    file_index=block.file_index,
                    block_index=block.block_index,
                    put_url=url_for(self._urls, "PUT", block.put_path, caller),
                )
                for block in missing
            ]
        )

    @rpc("VolumeGetFile2", containers=scopes.ANYTHING)
    async def get_file2(self, request: api_pb2.VolumeGetFile2Request, caller: Caller) -> api_pb2.VolumeGetFile2Response:
        found = await self._files.locate(
            request.volume_id, request.path, request.start, request.len, may_trim=request.client_pads_blocks
        )
        return api_pb2.VolumeGetFile2Response(
            get_urls=[url_for(self._urls, "GET", path, caller) for path in found.get_paths],
            size=found.size,
            start=found.start,
            len=found.length,
        )

    @rpc("VolumeRemoveFile", once=True, containers=scopes.ANYTHING)
    async def remove_file(self, request: api_pb2.VolumeRemoveFileRequest, caller: Caller) -> Empty:
        await self._files.remove(request.volume_id, request.path, recursive=request.recursive)
        return Empty()

    @rpc("VolumeRemoveFile2", once=True, containers=scopes.ANYTHING)
    async def remove_file2(self, request: api_pb2.VolumeRemoveFile2Request, caller: Caller) -> Empty:
        await self._files.remove(request.volume_id, request.path, recursive=request.recursive)
        return Empty()

    @rpc("VolumeCopyFiles", once=True, containers=scopes.ANYTHING)
    async def copy_files(self, request: api_pb2.VolumeCopyFilesRequest, caller: Caller) -> Empty:
        sources: Sequence[str] = request.src_paths
        await self._files.copy(request.volume_id, sources, request.dst_path, recursive=request.recursive)
        return Empty()

    @rpc("VolumeCopyFiles2", once=True, containers=scopes.ANYTHING)
    async def copy_files2(self, request: api_pb2.VolumeCopyFiles2Request, caller: Caller) -> Empty:
        sources: Sequence[str] = request.src_paths
        await self._files.copy(request.volume_id, sources, request.dst_path, recursive=request.recursive)
        return Empty()


def volume_metadata(volume: Volume, user: str) -> api_pb2.VolumeMetadata:
    """user: who has made it."""
    return api_pb2.VolumeMetadata(
        version=volume.version,  # type: ignore[arg-type]
        name=volume.name or "",
        creation_info=api_pb2.CreationInfo(created_at=volume.created_at, created_by=user),
    )


def _mode(file: api_pb2.MountFile | api_pb2.VolumePutFiles2Request.File) -> int:
    """Permission bits; never set-user-id and the like, which have no place in a directory that the host shares with sandboxes."""
    return file.mode & 0o777 if file.HasField("mode") else _DEFAULT_MODE

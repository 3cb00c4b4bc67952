"""Mount RPCs: which files are missing, the files themselves, and the mount made of them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.rpc.methods import Caller, rpc
from stoker.services.files.mounts import MountedFile, Mounts

_NAMED = {
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING: "replace",
    api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS: "replace",
    api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS: "fail",
}
_DEFAULT_MODE = 0o644


class MountServicer:
    def __init__(self, *, mounts: Mounts) -> None:
        self._mounts = mounts

    @rpc("MountBatchedCheckExistence", containers=scopes.ANYTHING)
    async def check_existence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, caller: Caller
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = self._mounts.missing(list(request.sha256_hex_hashes))
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing, checked_at=_now())

    @rpc("MountPutFile", once=True, containers=scopes.known_blobs("data_blob_id"))
    async def put_file(self, request: api_pb2.MountPutFileRequest, caller: Caller) -> api_pb2.MountPutFileResponse:
        """Also the question whether a file is there: with no data, or (older clients) empty data."""
        exists = await self._mounts.put_file(request.sha256_hex, request.data, request.data_blob_id)
        return api_pb2.MountPutFileResponse(exists=exists, checked_at=_now())

    @rpc("MountGetOrCreate", containers=scopes.NAMELESS)
    async def get_or_create(
        self, request: api_pb2.MountGetOrCreateRequest, caller: Caller
    ) -> api_pb2.MountGetOrCreateResponse:
        kind = request.object_creation_type
        if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            mount = await self._mounts.find(request.deployment_name)
        else:
            files = [
                MountedFile(f.filename, f.sha256_hex, f.mode if f.HasField("mode") else _DEFAULT_MODE)
                for f in request.files
            ]
            name = request.deployment_name if kind in _NAMED else ""
            mount = await self._mounts.create(files, name, if_exists=_NAMED.get(kind, "replace"))
        return api_pb2.MountGetOrCreateResponse(
            mount_id=mount.id,
            handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex=mount.checksum),
        )


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now

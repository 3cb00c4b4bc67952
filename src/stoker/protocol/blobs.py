"""BlobCreate and BlobGet."""

from __future__ import annotations

from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.rpc.methods import Caller, rpc
from stoker.services.files.blobs import Blobs
from stoker.services.files.network_files import NetworkFiles
from stoker.services.files.transfer import TransferUrls

_WITHOUT_PARTS = {
    str(kind)
    for kind in (api_pb2.CLIENT_TYPE_LIBMODAL, api_pb2.CLIENT_TYPE_LIBMODAL_JS, api_pb2.CLIENT_TYPE_LIBMODAL_GO)
}
"""Clients that know no uploads in parts: those in JavaScript and Go."""
_KNOWN = scopes.known_blobs("blob_id", words="blobs it made or was told of")


def url_for(urls: TransferUrls, method: str, path: str, caller: Caller) -> str:
    """A signed URL that this caller can reach."""
    return urls.url(method, path, kind=caller.audience, host=caller.host)


class BlobServicer:
    def __init__(self, *, blobs: Blobs, network_files: NetworkFiles, urls: TransferUrls) -> None:
        self._blobs = blobs
        self._network_files = network_files
        self._urls = urls

    @rpc("BlobCreate", containers=scopes.ANYTHING, restricted=scopes.ANYTHING)
    async def create(self, request: api_pb2.BlobCreateRequest, caller: Caller) -> api_pb2.BlobCreateResponse:
        """A multipart upload, be it of one part: for single uploads the client in Python insists on hosts it knows. Clients that know no
        parts get a single upload; for a blob that is too large for one they get the parts all the same, of which they say that they cannot."""
        upload = await self._blobs.create(request.content_length)
        caller.tell(upload.blob_id)
        if upload.whole_path and caller.client_type in _WITHOUT_PARTS:
            url = url_for(self._urls, "PUT", upload.whole_path, caller)
            return api_pb2.BlobCreateResponse(blob_id=upload.blob_id, upload_url=url)
        multipart = api_pb2.MultiPartUpload(
            part_length=upload.part_length,
            upload_urls=[url_for(self._urls, "PUT", path, caller) for path in upload.part_paths],
            completion_url=url_for(self._urls, "POST", upload.completion_path, caller),
        )
        return api_pb2.BlobCreateResponse(
            blob_id=upload.blob_id,  # with `multipart`: for clients before 1.1
            multipart=multipart,
            blob_ids=[upload.blob_id],
            multiparts=api_pb2.MultiPartUploadList(items=[multipart]),
        )

    @rpc("BlobGet", containers=_KNOWN, restricted=_KNOWN)
    async def get(self, request: api_pb2.BlobGetRequest, caller: Caller) -> api_pb2.BlobGetResponse:
        source = self._network_files if request.blob_id.startswith("sv-") else self._blobs
        path = source.download_path(request.blob_id)
        return api_pb2.BlobGetResponse(download_url=url_for(self._urls, "GET", path, caller))

"""Signed transfers over plain HTTP: the parts of blobs, and the blocks of volume files."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stoker.errors import InvalidArgument
from stoker.gateway.web.bodies import pieces, whole
from stoker.services.files.blobs import Blobs
from stoker.services.files.network_files import NetworkFiles
from stoker.services.files.transfer import PREFIX, UrlSigner
from stoker.services.files.volume_files import BlockReader, VolumeFiles

_BYTES = "application/octet-stream"
_MAX_COMPLETION_BYTES = 8 << 20
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_COMPLETED_PART = re.compile(
    r"<PartNumber>\s*(\d+)\s*</PartNumber>\s*<ETag>\s*(?:\"|&quot;)?([0-9a-f]{32})(?:\"|&quot;)?\s*</ETag>"
)


class Transfer:
    """The routes; each checks the signature of its URL before anything else."""

    def __init__(self, *, blobs: Blobs, files: VolumeFiles, network_files: NetworkFiles, signer: UrlSigner) -> None:
        self._blobs = blobs
        self._files = files
        self._network_files = network_files
        self._signer = signer

    def routes(self) -> list[Route]:
        blob, volume = PREFIX + "/blobs/{blob_id}", PREFIX + "/volumes/{volume_id}"
        block = volume + "/files/{inode:int}/{start:int}-{end:int}/{how}/{name}"
        return [
            Route(blob, self.get_blob, methods=["GET"]),
            Route(blob, self.put_blob, methods=["PUT"]),
            Route(blob + "/parts/{index:int}", self.put_part, methods=["PUT"]),
            Route(blob + "/complete", self.complete_blob, methods=["POST"]),
            Route(volume + "/uploads/{key}/{index:int}/{digest}", self.put_block, methods=["PUT"]),
            Route(block, self.get_block, methods=["GET"]),
            Route(PREFIX + "/nfs/{nfs_id}/{inode:int}/{size:int}/{name}", self.get_network_file, methods=["GET"]),
        ]

    async def put_blob(self, request: Request) -> Response:
        """A whole blob, for clients that know no uploads in parts."""
        self._check(request)
        expected = _md5_of(request.headers.get("content-md5", ""))
        md5 = await self._blobs.store_whole(request.path_params["blob_id"], pieces(request), expected)
        return Response(status_code=200, headers={"ETag": f'"{md5}"'})

    async def put_part(self, request: Request) -> Response:
        self._check(request)
        md5 = await self._blobs.store_part(
            request.path_params["blob_id"], request.path_params["index"], pieces(request)
        )
        return Response(status_code=200, headers={"ETag": f'"{md5}"'})

    async def complete_blob(self, request: Request) -> Response:
        """The S3 call: a list of part numbers and ETags in XML, answered by the ETag of the whole."""
        self._check(request)
        text = (await whole(request, _MAX_COMPLETION_BYTES)).decode("ascii", "replace")
        parts = sorted((int(number), md5) for number, md5 in _COMPLETED_PART.findall(text))
        if [number for number, _ in parts] != [*range(1, len(parts) + 1)]:
            raise InvalidArgument("The completion of an upload must list its parts from 1 on, each once.")
        etag = await self._blobs.complete(request.path_params["blob_id"], [md5 for _, md5 in parts])
        answer = f'<?xml version="1.0"?>\n<CompleteMultipartUploadResult><ETag>"{etag}"</ETag></CompleteMultipartUploadResult>'
        return Response(answer, media_type="application/xml")

    async def get_blob(self, request: Request) -> Response:
        self._check(request)
        blob_id = request.path_params["blob_id"]
        size = await self._blobs.size(blob_id)
        wanted = _wanted(request.headers.get("range", ""), size)
        if wanted is None:
            return PlainTextResponse("No byte of this range exists.", 416, {"Content-Range": f"bytes */{size}"})
        start, end = wanted
        headers = {"Content-Length": str(end - start), "Accept-Ranges": "bytes"}
        status = 200
        if (start, end) != (0, size):
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{size}"
        chunks = self._blobs.stream(blob_id, start, end)
        first = await anext(chunks, b"")  # so that an error in it is the answer, and not only the end of the connection
        return StreamingResponse(_resumed(first, chunks), status, headers, media_type=_BYTES)

    async def put_block(self, request: Request) -> Response:
        """The answer's body goes back to us with the next VolumePutFiles2; what counts is kept with the upload itself."""
        self._check(request)
        params = request.path_params
        await self._files.store_block(
            params["volume_id"], params["key"], params["index"], params["digest"], pieces(request)
        )
        return PlainTextResponse(params["digest"])

    async def get_block(self, request: Request) -> Response:
        self._check(request)
        params = request.path_params
        reader = await self._files.open_block(
            params["volume_id"],
            params["inode"],
            params["start"],
            params["end"],
            params["name"],
            may_trim=params["how"] == "trim",
        )
        return _content(reader)

    async def get_network_file(self, request: Request) -> Response:
        self._check(request)
        params = request.path_params
        reader = await self._network_files.open(params["nfs_id"], params["inode"], params["size"], params["name"])
        return _content(reader)

    def _check(self, request: Request) -> None:
        query = request.query_params
        method = "GET" if request.method == "HEAD" else request.method
        # The path by which the request was routed: `request.url` is made from the Host header too, which is the caller's to choose.
        self._signer.check(method, request.scope["path"], query.get("expires", ""), query.get("signature", ""))


async def _resumed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _content(reader: BlockReader) -> Response:
    if reader.content is not None:
        return Response(reader.content, media_type=_BYTES)
    return StreamingResponse(reader.chunks(), 200, {"Content-Length": str(reader.length)}, media_type=_BYTES)


def _md5_of(header: str) -> str:
    """The MD5 (hexadecimal) of a Content-MD5 header; "" for none. Raises InvalidArgument."""
    try:
        digest = base64.b64decode(header, validate=True)
    except ValueError:
        digest = b"?"
    if len(digest) not in (0, 16):
        raise InvalidArgument("The header Content-MD5 must be an MD5 of 16 bytes in base64.")
    return digest.hex()


def _wanted(header: str, size: int) -> tuple[int, int] | None:
    """[start, end) that a Range header asks for; all for no header or one of another kind; None when nothing of it exists."""
    match = _RANGE.match(header.strip())
    if match is None or match[1] == match[2] == "":
        return 0, size
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    return (start, end) if start < end else None

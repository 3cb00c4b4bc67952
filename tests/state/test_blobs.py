"""Blobs by the client's own upload code, and by clients that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from modal._utils.async_utils import synchronizer
from modal._utils.blob_utils import blob_download, blob_upload, blob_upload_file
from modal.client import Client
from modal_proto import api_pb2
from starlette.datastructures import URL
from starlette.requests import Request

from stoker.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from stoker.services.files import blobs as blobs_module
from stoker.services.files.transfer import UrlSigner
from stoker.store import tables

from .conftest import StateServer

upload = synchronizer.create_blocking(blob_upload)
upload_file = synchronizer.create_blocking(blob_upload_file)
download = synchronizer.create_blocking(blob_download)


@pytest.fixture
def stub(client: Client) -> Any:
    """The client's stub, for its own functions."""
    return synchronizer._translate_in(client)._stub


def staged(state: StateServer) -> list[str]:
    return [p.name for p in (state.data / "blobs" / ".staging").iterdir()]


def url(state: StateServer, method: str, path: str) -> str:
    return state.urls.url(method, path, kind="client")


def fetch(state: StateServer, method: str, address: str, **options: Any) -> tuple[int, bytes, Any]:
    async def work() -> tuple[int, bytes, Any]:
        async with aiohttp.ClientSession() as session, session.request(method, address, **options) as response:
            return response.status, await response.read(), response.headers

    return state.run(work())


@pytest.mark.parametrize("data", [b"", b"x", b"abc" * 3_000_000], ids=["empty", "one", "9MB"])
def test_a_blob_comes_back_as_it_went(state: StateServer, stub: Any, data: bytes) -> None:
    blob_id = upload(data, stub)
    assert download(blob_id, stub) == data
    assert state.run(state.blobs.size(blob_id)) == len(data)
    assert state.run(state.blobs.read(blob_id)) == data
    path = state.blobs.path(blob_id)
    assert path is not None and path.read_bytes() == data
    assert not staged(state)


def test_a_large_blob_goes_in_parts(
    state: StateServer, stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "PART_BYTES", 1 << 20)
    monkeypatch.setattr(blobs_module, "_ONE_PART_UP_TO", 2 << 20)
    data = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        blob_id = upload_file(file, stub)
    assert download(blob_id, stub) == data
    assert not staged(state)


def test_a_gigabyte_is_announced_in_one_part_and_more_in_several(state: StateServer) -> None:
    assert len(state.run(state.blobs.create(1 << 30)).part_paths) == 1
    upload = state.run(state.blobs.create((1 << 30) + 1))
    assert len(upload.part_paths) == 5 and upload.part_length == 256 << 20


def test_both_generations_of_clients_find_their_fields(state: StateServer, client: Client) -> None:
    from stoker.protocol.blobs import BlobServicer
    from stoker.rpc.methods import Caller

    servicer = BlobServicer(blobs=state.blobs, network_files=state.network_files, urls=state.urls)
    request = api_pb2.BlobCreateRequest(content_length=3)
    response = state.run(servicer.create(request, Caller(host="stoker.example")))
    assert response.multipart == response.multiparts.items[0] and response.blob_ids == [response.blob_id]
    assert response.multipart.upload_urls[0].startswith(f"http://stoker.example:{state.http_port}/")
    response = state.run(servicer.create(request, Caller(inside=True, host="ignored")))
    assert response.multipart.completion_url.startswith(f"http://127.0.0.2:{state.container_port}/")


@pytest.mark.parametrize("kind", ["LIBMODAL", "LIBMODAL_JS", "LIBMODAL_GO"])
def test_clients_without_uploads_in_parts_get_one_url(state: StateServer, kind: str) -> None:
    answer = create(state, 10, kind)
    assert not answer.HasField("multipart") and answer.upload_url.startswith(f"{state.http_url}/")
    inside = create(state, 10, kind, inside=True)
    assert inside.upload_url.startswith(f"http://127.0.0.2:{state.container_port}/")
    # What is too large for one request they refuse themselves, at the sight of parts.
    assert create(state, 1 << 30, kind).upload_url
    assert create(state, (1 << 30) + 1, kind).HasField("multipart")
    assert create(state, 10, "CLIENT").HasField("multipart")
    with pytest.raises(InvalidArgument):
        create(state, -1, kind)


@pytest.mark.parametrize("data", [b"", b"x" * 10, b"abc" * 3_000_000], ids=["empty", "ten", "9MB"])
def test_a_blob_goes_in_one_request(state: StateServer, stub: Any, data: bytes) -> None:
    answer = create(state, len(data), "LIBMODAL_JS")
    headers = {"Content-MD5": base64_md5(data), "Content-Type": "application/octet-stream"}
    for _ in range(2):  # a repeat, after a lost answer, succeeds as well
        status, _, got = fetch(state, "PUT", answer.upload_url, data=data, headers=headers)
        assert status == 200 and got["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert download(answer.blob_id, stub) == data
    assert not staged(state)


def test_a_wrong_upload_in_one_request_is_refused_and_leaves_nothing(state: StateServer) -> None:
    answer = create(state, 10, "LIBMODAL_GO")
    wanted = base64_md5(b"x" * 10)

    def put(data: bytes, md5: str = wanted) -> tuple[int, str]:
        status, body, _ = fetch(state, "PUT", answer.upload_url, data=data, headers={"Content-MD5": md5})
        return status, body.decode()

    for data in (b"", b"x" * 9, b"x" * 11):
        assert put(data)[0] == 400
    status, text = put(b"y" * 10)
    assert status == 400 and "Content-MD5 you specified did not match what we received" in text
    for md5 in ("nonsense", "eHh4", "é"):
        status, text = put(b"x" * 10, md5)
        assert status == 400 and "Content-MD5 must be" in text
    assert not staged(state)
    with pytest.raises(NotFound):
        state.blobs.download_path(answer.blob_id)
    assert put(b"x" * 10) == (200, "")
    # What is complete stays as it is.
    assert put(b"y" * 10, base64_md5(b"y" * 10))[0] == 409
    assert put(b"x" * 11, "")[0] == 400
    assert state.run(state.blobs.read(answer.blob_id)) == b"x" * 10
    # The URL of a large blob is never given, and would not serve.
    large = state.run(state.blobs.create((1 << 30) + 1)).blob_id
    status, body, _ = fetch(state, "PUT", url(state, "PUT", f"/_stoker/blobs/{large}"), data=b"x")
    assert status == 400 and b"in parts" in body
    assert fetch(state, "PUT", url(state, "GET", f"/_stoker/blobs/{answer.blob_id}"), data=b"x" * 10)[0] == 403


def create(state: StateServer, size: int, kind: str, inside: bool = False) -> Any:
    from stoker.protocol.blobs import BlobServicer
    from stoker.rpc.methods import Caller

    servicer = BlobServicer(blobs=state.blobs, network_files=state.network_files, urls=state.urls)
    client_type = str(api_pb2.ClientType.Value(f"CLIENT_TYPE_{kind}"))
    request = api_pb2.BlobCreateRequest(content_length=size)
    return state.run(servicer.create(request, Caller(inside=inside, client_type=client_type)))


def base64_md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def test_incomplete_and_unknown_blobs_are_not_found(state: StateServer) -> None:
    created = state.run(state.blobs.create(3))
    for blob_id in (created.blob_id, "bl-0000000000000000000000", "../stoker.db", ""):
        with pytest.raises(NotFound):
            state.blobs.download_path(blob_id)
        with pytest.raises(NotFound):
            state.run(state.blobs.read(blob_id))
    assert fetch(state, "GET", url(state, "GET", f"/_stoker/blobs/{created.blob_id}"))[0] == 404


def complete_body(*md5s: str) -> str:
    parts = "".join(f'<Part>\n<PartNumber>{i}</PartNumber>\n<ETag>"{m}"</ETag>\n</Part>' for i, m in enumerate(md5s, 1))
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"


def test_what_is_wrong_is_refused_and_leaves_nothing(state: StateServer) -> None:
    created = state.run(state.blobs.create(10))
    part, done = (url(state, "PUT", created.part_paths[0]), url(state, "POST", created.completion_path))
    assert fetch(state, "PUT", part, data=b"x" * 11)[0] == 400
    assert fetch(state, "PUT", part, data=b"x" * 9)[0] == 400
    assert fetch(state, "PUT", url(state, "PUT", created.part_paths[0][:-1] + "7"), data=b"x" * 10)[0] == 400
    md5 = hashlib.md5(b"x" * 10).hexdigest()
    assert fetch(state, "POST", done, data=complete_body(md5))[0] == 409
    assert fetch(state, "POST", done, data="nonsense")[0] == 400
    assert not staged(state)
    assert fetch(state, "PUT", part, data=b"x" * 10)[2]["ETag"] == f'"{md5}"'
    assert fetch(state, "POST", done, data=complete_body("0" * 32))[0] == 409
    for _ in range(2):  # a repeat, after a lost answer, succeeds as well
        status, body, _ = fetch(state, "POST", done, data=complete_body(md5))
        assert status == 200 and hashlib.md5(bytes.fromhex(md5)).hexdigest() + "-1" in body.decode()
    assert fetch(state, "PUT", part, data=b"y" * 10)[0] == 409
    assert state.run(state.blobs.read(created.blob_id)) == b"x" * 10


def test_aborted_and_silent_uploads_leave_nothing(state: StateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from stoker.gateway.web import bodies

    monkeypatch.setattr(bodies, "_SILENCE", 0.3)
    created = state.run(state.blobs.create(5 << 20))
    target = url(state, "PUT", created.part_paths[0]).removeprefix(state.http_url)
    head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {5 << 20}\r\n\r\n".encode() + b"x" * (2 << 20)

    async def send(then: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", state.http_port)
        writer.write(head)
        await writer.drain()
        answer = await then(reader, writer)
        writer.close()
        return answer

    async def abort(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        while not staged(state):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        writer.transport.abort()
        return b""

    async def be_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> bytes:
        return await reader.read()

    async def until_gone() -> None:
        while staged(state):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    state.run(send(abort))
    state.run(until_gone(), timeout=10)
    assert b" 503 " in state.run(send(be_silent)).split(b"\r\n")[0]
    assert not staged(state)


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=5-", 206, b"56789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=0-999", 200, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=7-3", 416, None),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_ranges(state: StateServer, stub: Any, header: str, status: int, expected: bytes | None) -> None:
    blob_id = upload(b"0123456789", stub)
    address = url(state, "GET", state.blobs.download_path(blob_id))
    got, body, headers = fetch(state, "GET", address, headers={"Range": header})
    assert got == status
    if expected is not None:
        assert body == expected
    if status == 206:
        assert headers["Content-Range"].endswith("/10")


def test_only_the_signed_url_opens_and_only_for_a_time(state: StateServer, stub: Any) -> None:
    blob_id = upload(b"data", stub)
    path = state.blobs.download_path(blob_id)
    address = url(state, "GET", path)
    assert fetch(state, "GET", address)[0] == 200
    other = url(state, "GET", path[:-1] + "x")
    for wrong in (
        address[:-1] + ("0" if address[-1] != "0" else "1"),
        address.replace("expires=1", "expires=2"),
        address.split("?")[0],
        other.split("?")[0] + "?" + address.split("?")[1],
        url(state, "PUT", path),
        address + "é",
    ):
        status, body, _ = fetch(state, "GET", wrong)
        assert status == 403 and b"signature" in body
    old = UrlSigner((state.data / "signing.key").read_bytes(), clock=lambda: 1e9)
    status, body, _ = fetch(state, "GET", state.http_url + old.sign("GET", path))
    assert status == 403 and b"expired" in body
    with pytest.raises(PermissionDenied, match="signature"):
        UrlSigner(b"k").check("GET", path, "9" * 10, "")


def test_deleted_and_abandoned_blobs_are_gone(state: StateServer, stub: Any) -> None:
    kept, gone = upload(b"kept", stub), upload(b"gone", stub)
    path = state.blobs.path(gone)
    state.run(state.blobs.delete([gone, gone]))
    state.run(state.blobs.sweep())
    assert path is not None and not path.exists()
    with pytest.raises(NotFound):
        state.blobs.download_path(gone)
    assert state.run(state.blobs.read(kept)) == b"kept"


def test_a_deletion_that_fails_in_the_middle_is_finished_by_the_next_sweep(
    state: StateServer, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a store could not remove would stay there for ever when nothing named it any more."""
    blob_ids = [upload(b"data", stub) for _ in range(2)]
    paths = [state.blobs.path(blob_id) for blob_id in blob_ids]

    async def fail(key: str) -> None:
        raise Unavailable("The store does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(state.blobs._store, "delete", fail)
        with pytest.raises(Unavailable):
            state.run(state.blobs.delete(blob_ids))
    for blob_id in blob_ids:
        with pytest.raises(NotFound):
            state.blobs.download_path(blob_id)
    state.run(state.blobs.sweep())
    assert not any(path is None or path.exists() for path in paths)
    with state.database.read() as connection:
        assert not connection.execute(sa.select(tables.blobs.c.id).where(tables.blobs.c.id.in_(blob_ids))).all()


def test_uploads_that_end_meanwhile_do_not_stop_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stoker.store.blobs import BlobStore

    store = BlobStore.local(tmp_path)
    for name in ("abandoned", "ending"):
        (tmp_path / ".staging" / name).touch()
        os.utime(tmp_path / ".staging" / name, (0, 0))
    scandir = os.scandir

    @contextlib.contextmanager
    def late(place: Path) -> Iterator[Any]:
        with scandir(place) as entries:
            found = sorted(entries, key=lambda entry: entry.name != "ending")
        (tmp_path / ".staging" / "ending").unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", late)
    store.sweep(60)
    monkeypatch.undo()
    assert not list((tmp_path / ".staging").iterdir())


def test_the_signature_is_that_of_the_path_that_is_served(
    state: StateServer, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`request.url` is made with the Host header, which earlier versions of starlette took over unchecked."""
    opened, closed = upload(b"opened", stub), upload(b"closed", stub)
    path, _, query = url(state, "GET", state.blobs.download_path(opened)).removeprefix(state.http_url).partition("?")
    monkeypatch.setattr(Request, "url", property(lambda self: URL(f"http://x{path}?")))
    assert fetch(state, "GET", f"{state.http_url}{path}?{query}")[0] == 200
    assert fetch(state, "GET", f"{state.http_url}{state.blobs.download_path(closed)}?{query}")[0] == 403


def test_a_store_that_is_no_directory_serves_as_well(state: StateServer, tmp_path: Path) -> None:
    """What S3 and the like go through."""
    from obstore.store import MemoryStore

    from stoker.store.blobs import BlobStore

    async def work() -> list[bytes]:
        async def chunks(data: bytes) -> Any:
            yield data

        store = BlobStore(MemoryStore(), staging=tmp_path)
        md5s = [await store.receive_part("bl-x", i, 4, chunks(data)) for i, data in enumerate([b"0123", b"4567"])]
        assert store.path("bl-x") is None and not await store.has("bl-x")
        assert await store.complete("bl-x", md5s, 8) and await store.has("bl-x")
        return [c async for c in store.read("bl-x", 2, 6)] + [c async for c in store.read("bl-x")]

    assert state.run(work()) == [b"2345", b"01234567"]
    assert not list(tmp_path.iterdir())

"""Network file systems by the official client."""

from __future__ import annotations

import io
import os
import random
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import modal
import pytest
from modal._utils.async_utils import synchronizer
from modal._utils.blob_utils import blob_upload
from modal.client import Client
from modal.exception import AlreadyExistsError, InvalidError, NotFoundError
from modal_proto import api_pb2

from .conftest import StateServer
from .raw import call

pytestmark = pytest.mark.filterwarnings("ignore::modal.exception.DeprecationError")


@pytest.fixture
def nfs(client: Client) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with modal.NetworkFileSystem.ephemeral(client=client) as made:
            yield made


def write(nfs: Any, path: str, content: bytes) -> None:
    assert nfs.write_file(path, io.BytesIO(content)) == len(content)


def read(nfs: Any, path: str) -> bytes:
    return b"".join(nfs.read_file(path))


def paths(nfs: Any, path: str) -> set[str]:
    return {entry.path for entry in nfs.listdir(path)}


def test_files_are_written_listed_read_and_removed(nfs: Any, tmp_path: Path) -> None:
    assert nfs.listdir("/") == []
    write(nfs, "/deep/er/a.txt", b"first")
    write(nfs, "deep/er/a.txt", b"second")
    write(nfs, "empty", b"")
    assert read(nfs, "deep/er/a.txt") == b"second" and read(nfs, "/empty") == b""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub" / "x.bin").write_bytes(b"\0\1")
    nfs.add_local_dir(tmp_path / "d", "/tree")
    nfs.add_local_file(tmp_path / "d" / "sub" / "x.bin")
    assert paths(nfs, "/") == {"deep", "empty", "tree", "x.bin"}
    assert paths(nfs, "/deep/er") == {"a.txt"}, "the names in a directory are relative to it"
    assert paths(nfs, "/deep/er/a.txt") == {"deep/er/a.txt"}
    assert paths(nfs, "**") == {"deep/er/a.txt", "empty", "tree/sub/x.bin", "x.bin"}
    assert paths(nfs, "/tree/*/*.bin") == {"tree/sub/x.bin"} and paths(nfs, "*.txt") == set()
    with pytest.raises(Exception, match="is a directory"):
        nfs.remove_file("/tree")
    nfs.remove_file("/tree", recursive=True)
    nfs.remove_file("empty")
    assert paths(nfs, "/") == {"deep", "x.bin"}


def test_a_large_file_travels_over_http(nfs: Any, state: StateServer) -> None:
    content = random.Random(3).randbytes((9 << 20) + 5)
    write(nfs, "large", content)
    assert read(nfs, "large") == content
    kept = state.run(_blob_count(state))
    write(nfs, "large", content[::-1])
    assert read(nfs, "large") == content[::-1]
    assert state.run(_blob_count(state)) == kept, "an upload is not kept beside the file it became"


def test_a_repeat_of_a_put_finds_it_done(nfs: Any, state: StateServer, client: Client) -> None:
    """As when the answer was lost on its way: the blob is used up by then."""
    blob_id = synchronizer.create_blocking(blob_upload)(b"content", synchronizer._translate_in(client)._stub)
    request = api_pb2.SharedVolumePutFileRequest(shared_volume_id=nfs.object_id, path="f", data_blob_id=blob_id)
    for attempt in range(2):
        assert call(state, "SharedVolumePutFile", request, key="put", attempt=attempt).exists
    assert read(nfs, "f") == b"content"


async def _blob_count(state: StateServer) -> int:
    return sum(1 for path in (state.data / "blobs").rglob("*") if path.is_file())


def test_what_is_not_there_or_not_inside(nfs: Any, state: StateServer) -> None:
    for attempt in (lambda: read(nfs, "none"), lambda: nfs.remove_file("none")):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            attempt()
    with pytest.raises(NotFoundError, match="does not exist"):
        nfs.listdir("/none")
    for path in ("../out", "a/../../out"):
        with pytest.raises(InvalidError, match=r"contains '\.\.'"):
            write(nfs, path, b"x")
    with pytest.raises(InvalidError, match="names a directory"):
        write(nfs, "dir/", b"x")
    root = state.data / "volumes" / nfs.object_id
    os.symlink("/etc/passwd", root / "link")
    with pytest.raises(Exception, match="outside"):
        read(nfs, "link")
    write(nfs, "link", b"own")  # replaces the link, does not follow it
    assert read(nfs, "link") == b"own" and "root:" in Path("/etc/passwd").read_text()
    handle = f"{nfs.object_id}:1:99999999:bGluaw=="
    url = call(state, "BlobGet", api_pb2.BlobGetRequest(blob_id=handle)).download_url
    with pytest.raises(HTTPError, match="4"):
        urllib.request.urlopen(url)


def test_names(state: StateServer, client: Client) -> None:
    """The command line does more of this, in tests/cli."""
    modal.NetworkFileSystem.create_deployed("shelf", client=client)
    with pytest.raises(AlreadyExistsError):
        modal.NetworkFileSystem.create_deployed("shelf", client=client)
    found = modal.NetworkFileSystem.from_name("shelf", client=client)
    write(found, "sub/g.txt", b"content")
    root = state.data / "volumes" / found.object_id
    assert root.is_dir()
    modal.NetworkFileSystem.delete("shelf", client=client)
    assert not root.exists()
    with pytest.raises(NotFoundError, match="NFS 'shelf' not found"):
        modal.NetworkFileSystem.from_name("shelf", client=client).hydrate()
    made = modal.NetworkFileSystem.from_name("shelf", client=client, create_if_missing=True)
    assert made.listdir("/") == [], "a new one of the same name begins empty"
    modal.NetworkFileSystem.delete("shelf", client=client)

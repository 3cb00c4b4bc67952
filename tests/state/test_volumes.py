"""Volumes by the official client and its command line."""

from __future__ import annotations

import hashlib
import io
import os
import random
import resource
import time
from pathlib import Path
from typing import Any

import aiohttp
import modal
import pytest
import sqlalchemy as sa
from modal.client import Client
from modal_proto import api_pb2

from stoker.errors import InvalidArgument, NotFound
from stoker.store import tables
from stoker.store.assembly import BLOCK_BYTES, ZEROS

from .conftest import StateServer

_numbers = iter(range(1000))


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def volume(request: pytest.FixtureRequest, client: Client) -> modal.Volume:
    return modal.Volume.from_name(
        f"vol-{next(_numbers)}", create_if_missing=True, version=request.param, client=client
    ).hydrate(client)


@pytest.fixture
def volume2(client: Client) -> modal.Volume:
    return modal.Volume.from_name(f"vol-{next(_numbers)}", create_if_missing=True, client=client).hydrate(client)


def put(volume: modal.Volume, force: bool = False, **files: bytes) -> None:
    with volume.batch_upload(force=force) as batch:
        for name, content in files.items():
            batch.put_file(io.BytesIO(content), name)


def content(volume: modal.Volume, path: str) -> bytes:
    return b"".join(volume.read_file(path))


def staged(state: StateServer, volume: modal.Volume) -> list[Path]:
    """What unfinished uploads to a volume left behind."""
    return [p for p in (state.data / "volumes" / ".staging" / volume.object_id).rglob("*") if p.is_file()]


CONTENTS = {
    "empty": b"",
    "small": b"hello",
    "zeros": bytes(3 * BLOCK_BYTES + 5),
    "trailing": b"x" * 1000 + bytes(5000),
    "exact": random.Random(1).randbytes(BLOCK_BYTES),
    "large": random.Random(2).randbytes(2 * BLOCK_BYTES) + bytes(BLOCK_BYTES) + b"end",
}


def test_files_come_back_as_they_went(state: StateServer, volume: modal.Volume) -> None:
    put(volume, **CONTENTS)
    for name, expected in CONTENTS.items():
        assert content(volume, name) == expected, name
    assert {e.path: e.size for e in volume.listdir("/")} == {k: len(v) for k, v in CONTENTS.items()}
    directory = state.volumes.directory(volume.object_id)
    assert (directory / "large").read_bytes() == CONTENTS["large"]
    assert not staged(state, volume)


def test_directories_modes_and_listing(state: StateServer, volume: modal.Volume, tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "tree" / "run.sh").chmod(0o4755)
    (tmp_path / "tree" / "sub" / "data").write_bytes(b"1")
    with volume.batch_upload() as batch:
        batch.put_directory(tmp_path / "tree", "/here/")
    assert [e.path for e in volume.listdir("/")] == ["here"]
    assert [e.path for e in volume.listdir("/here", recursive=True)] == ["here/run.sh", "here/sub", "here/sub/data"]
    assert [e.path for e in volume.listdir("here/sub/data")] == ["here/sub/data"]
    mode = (state.volumes.directory(volume.object_id) / "here" / "run.sh").stat().st_mode
    assert mode & 0o7777 == 0o755


def test_nothing_is_overwritten_without_force(volume: modal.Volume) -> None:
    put(volume, f=b"old")
    with pytest.raises(FileExistsError, match="already exists"):
        put(volume, f=b"new", g=b"g")
    assert content(volume, "f") == b"old"
    assert [e.path for e in volume.listdir("/")] == ["f"]
    put(volume, force=True, f=b"new")
    assert content(volume, "f") == b"new"


def test_a_replaced_file_is_a_new_file(state: StateServer, volume: modal.Volume) -> None:
    """A container that still reads the old file keeps it whole."""
    put(volume, f=b"old")
    with (state.volumes.directory(volume.object_id) / "f").open("rb") as held:
        put(volume, force=True, f=b"newer")
        assert held.read() == b"old"


def test_a_write_in_a_container_does_not_reach_equal_files(state: StateServer, volume: modal.Volume) -> None:
    put(volume, a=b"same", b=b"same")
    with (state.volumes.directory(volume.object_id) / "a").open("r+b") as file:
        file.write(b"SAME")
    put(volume, c=b"same")
    assert [content(volume, name) for name in "abc"] == [b"SAME", b"same", b"same"]


def test_uploading_what_a_container_changed_restores_it(state: StateServer, volume: modal.Volume) -> None:
    """The server remembers finished uploads, but not blindly."""
    put(volume, f=b"original")
    path = state.volumes.directory(volume.object_id) / "f"
    before = path.stat()
    path.write_bytes(b"tampered")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    put(volume, force=True, f=b"original")
    assert content(volume, "f") == b"original"


def test_remove_and_copy(volume: modal.Volume) -> None:
    put(volume, f=b"1")
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"2"), "/d/g")
    volume.copy_files(["f"], "copy")
    assert content(volume, "copy") == b"1"
    volume.copy_files(["f", "copy"], "d")
    assert [e.path for e in volume.listdir("d")] == ["d/copy", "d/f", "d/g"]
    with pytest.raises(modal.exception.ConflictError, match="recursive"):
        volume.remove_file("d")
    volume.remove_file("d", recursive=True)
    volume.remove_file("f")
    assert [e.path for e in volume.listdir("/")] == ["copy"]
    with pytest.raises(FileNotFoundError, match="'/f' in the volume"):
        volume.remove_file("f")
    with pytest.raises(FileNotFoundError):
        content(volume, "f")
    with pytest.raises(modal.exception.InvalidError, match="root"):
        volume.remove_file("/", recursive=True)


@pytest.mark.parametrize("path", ["../x", "/../x", "a/../../x"])
def test_paths_out_of_the_volume_are_refused(volume: modal.Volume, path: str) -> None:
    with pytest.raises(modal.exception.InvalidError, match=r"\.\."):
        put(volume, **{path: b"x"})
    with pytest.raises(modal.exception.InvalidError):
        content(volume, path)
    with pytest.raises(modal.exception.InvalidError):
        volume.listdir(path)


def test_the_command_line(state: StateServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "a.txt").write_text("a")
    (tmp_path / "dir" / "sub" / "b.txt").write_text("b")
    (tmp_path / "out").mkdir()
    name = f"cli-{next(_numbers)}"
    modal.Volume.objects.create(name, client=client)
    state.modal("volume", "put", name, "dir", "/data/", cwd=tmp_path)
    assert state.modal("volume", "ls", name, "data/dir").stdout.split() == ["data/dir/a.txt", "data/dir/sub"]
    again = state.modal("volume", "put", name, "dir/a.txt", "/data/dir/", cwd=tmp_path, check=False)
    assert again.returncode and "already exists" in again.stderr
    state.modal("volume", "cp", name, "-r", "data/dir", "copy")
    state.modal("volume", "get", name, "copy", "out", cwd=tmp_path)
    assert {str(p.relative_to(tmp_path / "out")): p.read_text() for p in (tmp_path / "out").rglob("*.txt")} == {
        "copy/a.txt": "a",
        "copy/sub/b.txt": "b",
    }
    state.modal("volume", "rm", name, "-r", "data")
    missing = state.modal("volume", "ls", name, "data", check=False)
    assert missing.returncode and "does not exist" in missing.stderr


def test_rename(client: Client) -> None:
    for name in ("before", "other"):
        modal.Volume.objects.create(name, client=client)
    with pytest.raises(modal.exception.AlreadyExistsError, match="'other' exists already"):
        modal.Volume.rename("before", "other", client=client)
    modal.Volume.rename("before", "after", client=client)
    assert {v.name for v in modal.Volume.objects.list(client=client)} >= {"after", "other"}
    assert "before" not in {v.name for v in modal.Volume.objects.list(client=client)}


def test_names_versions_and_lives(state: StateServer, client: Client) -> None:
    objects = modal.Volume.objects
    objects.create("named", client=client)
    with pytest.raises(modal.exception.AlreadyExistsError, match="'named' exists already"):
        objects.create("named", client=client)
    objects.create("named", allow_existing=True, client=client)
    with pytest.raises(modal.exception.InvalidError, match="has version v2"):
        modal.Volume.from_name("named", version=1, client=client).hydrate(client)
    with pytest.raises(modal.exception.NotFoundError, match=r"Volume 'absent' not found in the environment 'main'"):
        modal.Volume.from_name("absent", client=client).hydrate(client)
    volume = modal.Volume.from_name("named", client=client).hydrate(client)
    assert modal.Volume.from_id(volume.object_id, client=client).info().name == "named"
    assert volume.info().created_at.timestamp() == pytest.approx(time.time(), abs=60)
    directory = state.volumes.directory(volume.object_id)
    objects.delete("named", client=client)
    assert not directory.exists()
    with pytest.raises(NotFound):
        state.volumes.directory(volume.object_id)


def test_ephemeral_volumes_live_with_their_heartbeats(state: StateServer, client: Client) -> None:
    with modal.Volume.ephemeral(client=client) as volume:
        put(volume, f=b"1")
        directory = state.volumes.directory(volume.object_id)
        state.run(state.volumes.sweep())
        assert (directory / "f").exists()
        an_hour_ago = sa.update(tables.volumes).where(tables.volumes.c.id == volume.object_id).values(heartbeat_at=1)
        state.run(state.database.write(lambda connection: connection.execute(an_hour_ago)))
        state.run(state.volumes.sweep())
        assert (directory / "f").exists(), "the clock may have leapt, or the machine slept"
        signs = state.volumes._signs._heard
        signs[volume.object_id] -= 1_000
        state.run(state.volumes.heartbeat(volume.object_id))
        state.run(state.volumes.sweep())
        assert (directory / "f").exists()
        signs[volume.object_id] -= 1_000
        state.run(state.volumes.sweep())
        assert not directory.exists() and volume.object_id not in signs


def test_a_deletion_that_is_cut_short_leaves_no_files(
    state: StateServer, volume2: modal.Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that no row names would stay for ever."""
    put(volume2, f=b"1")
    directory = state.volumes.directory(volume2.object_id)
    write = state.database.write

    async def killed_after_the_commit(work: Any) -> Any:
        await write(work)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(state.database, "write", killed_after_the_commit)
        with pytest.raises(RuntimeError, match="killed"):
            state.run(state.volumes.delete(volume2.object_id))
    with pytest.raises(NotFound):
        state.volumes.get(volume2.object_id)
    assert not directory.exists()


def test_parts_of_files(state: StateServer, volume2: modal.Volume) -> None:
    """What clients of another language do: ranges, and blocks with their trailing zeros."""
    put(volume2, large=CONTENTS["large"], zeros=CONTENTS["zeros"])

    async def fetch(name: str, start: int, length: int, pads: bool) -> list[bytes]:
        found = await state.files.locate(volume2.object_id, name, start, length, may_trim=pads)
        bodies = []
        async with aiohttp.ClientSession() as session:
            for path in found.get_paths:
                async with session.get(state.urls.url("GET", path, kind="client")) as response:
                    assert response.status == 200
                    bodies.append(await response.read())
        return bodies

    size = len(CONTENTS["large"])
    for start, length in ((0, 0), (0, 1), (BLOCK_BYTES - 1, 2), (BLOCK_BYTES, BLOCK_BYTES), (size - 1, 100), (size, 5)):
        bodies = state.run(fetch("large", start, length, False))
        assert b"".join(bodies) == CONTENTS["large"][start : start + (length or size)]
    assert [len(b) for b in state.run(fetch("zeros", 0, 0, False))] == [BLOCK_BYTES] * 3 + [5]
    assert [len(b) for b in state.run(fetch("zeros", 0, 0, True))] == [0, 0, 0, 0]


def test_a_file_replaced_while_it_is_read_is_not_mixed(state: StateServer, volume2: modal.Volume) -> None:
    put(volume2, f=CONTENTS["large"])
    found = state.run(state.files.locate(volume2.object_id, "f", 0, 0, may_trim=True))
    put(volume2, force=True, f=CONTENTS["large"][::-1])

    async def fetch() -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(state.urls.url("GET", found.get_paths[1], kind="client")) as response,
        ):
            return response.status, await response.text()

    status, text = state.run(fetch())
    assert status == 409 and "was replaced" in text


def test_an_interrupted_upload_goes_on_where_it_stopped(state: StateServer, volume2: modal.Volume) -> None:
    from stoker.services.files.volume_files import FilePlan

    data = random.Random(5).randbytes(2 * BLOCK_BYTES) + bytes(BLOCK_BYTES) + b"end"
    blocks = [data[i : i + BLOCK_BYTES].rstrip(b"\0") for i in range(0, len(data), BLOCK_BYTES)]
    plan = FilePlan("f", len(data), 0o640, tuple(hashlib.sha256(b).hexdigest() for b in blocks))

    async def send(path: str, body: bytes) -> int:
        url = state.urls.url("PUT", path, kind="client")
        async with aiohttp.ClientSession() as session, session.put(url, data=body) as response:
            return response.status

    missing = state.run(state.files.put(volume2.object_id, [plan], overwrite=False))
    assert [m.block_index for m in missing] == [0, 1, 3]  # block 2 is a hole
    assert state.run(send(missing[0].put_path, blocks[0])) == 200
    assert state.run(send(missing[1].put_path, blocks[1][:-1])) == 400
    assert state.run(send(missing[1].put_path, blocks[1] + b"xxxx")) == 400
    assert state.run(send(missing[2].put_path, b"END")) == 400
    state.volumes._assemblies.clear()  # as a restart of the server does
    missing = state.run(state.files.put(volume2.object_id, [plan], overwrite=False))
    assert [m.block_index for m in missing] == [1, 3]
    assert volume2.listdir("/") == []
    for block in missing:
        assert state.run(send(block.put_path, blocks[block.block_index])) == 200
    assert not state.run(state.files.put(volume2.object_id, [plan], overwrite=False))
    assert content(volume2, "f") == data
    assert (state.volumes.directory(volume2.object_id) / "f").stat().st_mode & 0o777 == 0o640
    assert not staged(state, volume2)


def test_commit_and_reload(client: Client, volume2: modal.Volume) -> None:
    volume2.commit()
    volume2.reload()


def test_a_sandbox_cannot_lead_the_client_outside(state: StateServer, volume2: modal.Volume) -> None:
    directory = state.volumes.directory(volume2.object_id)
    (directory / "etc").symlink_to("/etc")
    (directory / "up").symlink_to("../..")
    for path in ("etc/passwd", "up/stoker.db"):
        with pytest.raises(modal.exception.ConflictError, match="outside"):
            content(volume2, path)
        with pytest.raises(modal.exception.ConflictError, match="outside"):
            put(volume2, force=True, **{path: b"evil"})
    assert {e.path: e.type.name for e in volume2.listdir("/", recursive=True)} == {"etc": "SYMLINK", "up": "SYMLINK"}


def test_old_clients_get_exact_blocks(state: StateServer, client: Client, volume2: modal.Volume) -> None:
    put(volume2, zeros=CONTENTS["trailing"])

    async def locate() -> api_pb2.VolumeGetFile2Response:
        request = api_pb2.VolumeGetFile2Request(volume_id=volume2.object_id, path="zeros")
        found = await state.files.locate(request.volume_id, request.path, 0, 0, may_trim=request.client_pads_blocks)
        return api_pb2.VolumeGetFile2Response(get_urls=found.get_paths, len=found.length)

    response = state.run(locate())
    assert response.len == len(CONTENTS["trailing"]) and "/full/" in response.get_urls[0]


def test_a_big_file_does_not_fill_the_memory(state: StateServer, tmp_path: Path) -> None:
    name, size = f"big-{next(_numbers)}", 1 << 30
    state.run(state.volumes.create(state.environments.resolve("").id, name, 2, if_exists="fail"))
    with (tmp_path / "big").open("wb") as file:
        for index in range(0, 128, 3):  # 344 MiB of data
            file.seek(index * BLOCK_BYTES)
            file.write(random.Random(index).randbytes(BLOCK_BYTES))
        file.truncate(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state.modal("volume", "put", name, str(tmp_path / "big"), "/big")
    volume = state.volumes.find(state.environments.resolve("").id, name)
    stored = state.volumes.directory(volume.id) / "big"
    assert stored.stat().st_size == size
    assert stored.stat().st_blocks * 512 < 360 << 20  # holes stay holes
    found = state.run(state.files.locate(volume.id, "big", 0, 0, may_trim=True))

    async def fetch_all() -> None:
        async with aiohttp.ClientSession() as session:
            for index, path in enumerate(found.get_paths):
                async with session.get(state.urls.url("GET", path, kind="client")) as response:
                    body = await response.read()
                    assert body == (random.Random(index).randbytes(BLOCK_BYTES) if index % 3 == 0 else b"")

    state.run(fetch_all())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 256 << 20


def test_blocks_that_the_server_has_are_not_sent_again(
    state: StateServer, volume2: modal.Volume, client: Client
) -> None:
    from stoker.services.files.volume_files import FilePlan

    data = random.Random(3).randbytes(3 * BLOCK_BYTES + 77)
    blocks = [data[i : i + BLOCK_BYTES] for i in range(0, len(data), BLOCK_BYTES)]

    def plan(path: str, blocks: list[bytes]) -> FilePlan:
        digests = tuple(hashlib.sha256(block).hexdigest() for block in blocks)
        return FilePlan(path, sum(map(len, blocks)), 0o644, digests)

    def missing(volume_id: str, new: FilePlan) -> list[int]:
        return [m.block_index for m in state.run(state.files.put(volume_id, [new], overwrite=True))]

    put(volume2, f=data)
    with modal.Volume.ephemeral(client=client) as other:
        assert missing(other.object_id, plan("copy", blocks)) == []
        assert content(other, "copy") == data
        changed = [blocks[0], b"x" * BLOCK_BYTES, *blocks[2:]]
        assert missing(other.object_id, plan("copy", changed)) == [1]
        (state.volumes.directory(volume2.object_id) / "f").write_bytes(
            bytes(len(data))
        )  # what is remembered is not true any more
        (state.volumes.directory(other.object_id) / "copy").unlink()
        assert missing(other.object_id, plan("third", blocks)) == [0, 1, 2, 3]
        state.files._places._places.clear()  # as a restart of the server does
        put(other, force=True, copy=data)
        assert missing(other.object_id, plan("copy", changed)) == [1]


def test_a_block_that_was_spoilt_before_leaves_no_trace(state: StateServer, volume2: modal.Volume) -> None:
    """A wrong block may be longer than the right one without its trailing zeros."""
    from stoker.services.files.volume_files import FilePlan

    right = b"right" + bytes(2 * BLOCK_BYTES - 5)
    plan = FilePlan("f", 2 * BLOCK_BYTES, 0o644, (hashlib.sha256(b"right").hexdigest(), ZEROS))

    async def send(body: bytes) -> int:
        [missing] = await state.files.put(volume2.object_id, [plan], overwrite=False)
        url = state.urls.url("PUT", missing.put_path, kind="client")
        async with aiohttp.ClientSession() as session, session.put(url, data=body) as response:
            return response.status

    assert state.run(send(b"wrong" * (BLOCK_BYTES // 5))) == 400
    assert volume2.listdir("/") == []
    assert state.run(send(b"right")) == 200
    assert not state.run(state.files.put(volume2.object_id, [plan], overwrite=False))
    assert content(volume2, "f") == right


def test_two_clients_that_upload_the_same_file(state: StateServer, volume2: modal.Volume) -> None:
    from concurrent.futures import ThreadPoolExecutor

    data = random.Random(4).randbytes(3 * BLOCK_BYTES + 1)
    for _ in range(2):
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda _: put(volume2, force=True, f=data), range(3)))
        assert content(volume2, "f") == data
        volume2.remove_file("f")
        state.files._places._places.clear()
    assert not staged(state, volume2)


def test_two_writers_of_one_name_leave_one_whole_file(state: StateServer, volume: modal.Volume) -> None:
    from concurrent.futures import ThreadPoolExecutor

    versions = [random.Random(seed).randbytes(2 * BLOCK_BYTES + seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda data: put(volume, force=True, f=data), versions))
    assert content(volume, "f") in versions
    assert not staged(state, volume)


def test_a_small_file_whose_block_is_wrong(state: StateServer, volume2: modal.Volume) -> None:
    from stoker.services.files.volume_files import FilePlan

    async def send(plan: FilePlan, body: bytes) -> int:
        [missing] = await state.files.put(volume2.object_id, [plan], overwrite=False)
        url = state.urls.url("PUT", missing.put_path, kind="client")
        async with aiohttp.ClientSession() as session, session.put(url, data=body) as response:
            return response.status

    plan = FilePlan("f", 9, 0o600, (hashlib.sha256(b"right").hexdigest(),))
    assert state.run(send(plan, b"wrong")) == 400
    assert state.run(send(plan, bytes(BLOCK_BYTES + 1))) == 400
    assert volume2.listdir("/") == [] and not staged(state, volume2)
    assert state.run(send(plan, b"right")) == 200
    assert not state.run(state.files.put(volume2.object_id, [plan], overwrite=False))
    assert content(volume2, "f") == b"right\0\0\0\0"
    liar = FilePlan("g", 3, 0o600, (hashlib.sha256(b"longer").hexdigest(),))
    assert state.run(send(liar, b"longer")) == 200
    with pytest.raises(InvalidArgument, match="longer than its 3 bytes"):
        state.run(state.files.put(volume2.object_id, [liar], overwrite=False))
    assert [e.path for e in volume2.listdir("/")] == ["f"]

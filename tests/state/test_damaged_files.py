"""Files of volumes, mounts and network file systems that the disk has changed: never wrong bytes for what nobody else can have written."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import modal
import pytest
import sqlalchemy as sa
from modal.client import Client

from stoker.errors import Damaged
from stoker.integrity.blocks import TrimmedSums
from stoker.rpc.status import Status, wire_status
from stoker.services.files.mounts import MountedFile
from stoker.services.files.volume_sums import FileSums, VolumeSums
from stoker.store import tables
from tests.state.conftest import StateServer
from tests.state.test_damaged_blobs import flip
from tests.state.test_volumes import content, put

_numbers = itertools.count()
LARGE = (
    os.urandom(9_000_000) + bytes(9_000_000) + os.urandom(10)
)  # with a block that ends in zeros, and one that begins with some


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def volume(request: pytest.FixtureRequest, client: Client) -> modal.Volume:
    return new_volume(client, request.param)


@pytest.fixture
def volume2(client: Client) -> modal.Volume:
    return new_volume(client, 2)


def new_volume(client: Client, version: int) -> modal.Volume:
    name = f"damaged-{next(_numbers)}"
    return modal.Volume.from_name(name, create_if_missing=True, version=version, client=client).hydrate(client)


def file_of(state: StateServer, volume_id: str, name: str) -> Path:
    """Without the server's knowledge."""
    return state.data / "volumes" / volume_id / name


@pytest.mark.parametrize("offset", [0, 8_500_000, 17_000_000, len(LARGE) - 1])
@pytest.mark.parametrize("touched", [False, True], ids=["as the disk does it", "by somebody on the machine"])
def test_a_damaged_file_of_a_volume_is_not_served(
    state: StateServer,
    volume: modal.Volume,
    offset: int,
    touched: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(volume, large=LARGE, other=b"other")
    path = file_of(state, volume.object_id, "large")
    assert content(volume, "large") == LARGE
    before = os.stat(path)
    flip(path, offset)
    if not touched:
        # No program can set a change time: a file that looks untouched is made by looking away.
        real = os.fstat
        monkeypatch.setattr(os, "fstat", lambda file: before if real(file).st_ino == before.st_ino else real(file))
    with pytest.raises(Exception, match=r"'large' of the volume .* is damaged on the server's disk"):
        content(volume, "large")
    assert content(volume, "other") == b"other"
    monkeypatch.undo()
    put(volume, force=True, large=LARGE)
    assert content(volume, "large") == LARGE, "uploading it again heals it"


@pytest.mark.parametrize("size", [0, 5, 8 << 20, len(LARGE) + 1])
def test_a_file_of_another_size_is_not_served(state: StateServer, volume: modal.Volume, size: int) -> None:
    put(volume, large=LARGE)
    os.truncate(file_of(state, volume.object_id, "large"), size)
    with pytest.raises(Exception, match=f"it has {size} bytes, and {len(LARGE)} were uploaded"):
        content(volume, "large")


def test_a_reader_of_a_file_that_is_replaced_meanwhile_has_found_no_damage(
    state: StateServer, volume2: modal.Volume
) -> None:
    put(volume2, f=b"old")
    with file_of(state, volume2.object_id, "f").open("rb") as file:
        put(volume2, force=True, f=b"new one")
        state.volumes.sums.check(volume2.object_id, "f", file.fileno(), 0, 3)


@pytest.mark.parametrize("ended", ["first", "second"])
def test_two_uploads_of_one_file_at_once_leave_no_digests_of_the_other(
    state: StateServer, volume2: modal.Volume, ended: str
) -> None:
    """Whichever is in place in the end: nobody knows, so nobody says that it is damaged."""
    put(volume2, f=b"before")
    sums, path = state.volumes.sums, file_of(state, volume2.object_id, "f")

    def publisher(data: bytes, may_go: threading.Event) -> Callable[[], list[FileSums]]:
        def publish() -> list[FileSums]:
            assert may_go.wait(30)
            new = path.with_name(data.decode())
            new.write_bytes(data)
            new.rename(path)
            digest = hashlib.sha256(data).digest()
            return [FileSums.of(volume2.object_id, "f", os.stat(path), digest)]

        return publish

    async def both() -> None:
        gates = {name: threading.Event() for name in ("first", "second")}
        puts = {
            name: asyncio.ensure_future(sums.put(volume2.object_id, ["/f"], publisher(name.encode(), gate)))
            for name, gate in gates.items()
        }
        await asyncio.sleep(0)
        for name in sorted(gates, key=lambda name: name == ended):
            gates[name].set()
            await puts[name]

    state.run(both())
    assert content(volume2, "f") == ended.encode()
    put(volume2, force=True, f=b"later")
    flip(path, 0)
    with pytest.raises(Exception, match="is damaged"):
        content(volume2, "f")


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_server_that_dies_while_it_changes_a_file_leaves_no_digests_of_another(
    state: StateServer, volume2: modal.Volume, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(volume2, f=b"before")
    state.run(_noted(state.volumes.sums))
    with monkeypatch.context() as killed:
        killed.setattr(VolumeSums, "_keep", lambda self, files: None)
        put(volume2, force=True, f=b"after") if how == "replaced" else volume2.remove_file("f")
    sums = tables.volume_sums
    with state.database.read() as connection:
        rows = connection.execute(sa.select(sums.c.path).where(sums.c.volume_id == volume2.object_id))
        assert rows.all() == []


def test_a_removal_that_is_refused_leaves_the_digests(state: StateServer, volume2: modal.Volume) -> None:
    with volume2.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"content"), "/directory/f")
    with pytest.raises(Exception, match="--recursive"):
        volume2.remove_file("directory")
    flip(file_of(state, volume2.object_id, "directory/f"), 0)
    with pytest.raises(Exception, match="is damaged"):
        content(volume2, "directory/f")
    damages = state.volumes.sums._damages
    found = len(damages)
    volume2.remove_file("directory", recursive=True)
    assert len(damages) == found - 1, "what is gone is not damaged any more"


def test_what_a_container_may_have_written_is_served_as_it_is(
    state: StateServer,
    volume: modal.Volume,
) -> None:
    put(volume, f=b"uploaded", g=b"uploaded")
    state.volumes.directory(volume.object_id)  # a container mounts it
    flip(file_of(state, volume.object_id, "f"), 0)
    os.replace(file_of(state, volume.object_id, "f"), file_of(state, volume.object_id, "g"))
    assert content(volume, "g") == b"tploaded"


def test_a_file_that_a_client_removed_or_copied_over_is_no_damage(
    state: StateServer,
    volume2: modal.Volume,
) -> None:
    put(volume2, a=b"a" * 100, b=b"b" * 100)
    volume2.remove_file("a")
    put(volume2, a=b"c" * 100)
    assert content(volume2, "a") == b"c" * 100
    volume2.copy_files(["b"], "a")
    assert content(volume2, "a") == b"b" * 100


def test_digests_outlive_the_server_and_go_with_what_they_are_of(state: StateServer, volume2: modal.Volume) -> None:
    put(volume2, f=b"uploaded", gone=b"x")
    state.run(_noted(state.volumes.sums))
    file_of(state, volume2.object_id, "gone").unlink()
    flip(file_of(state, volume2.object_id, "f"), 0)

    async def restarted() -> VolumeSums:
        return VolumeSums(state.database, state.volumes.sums._damages)

    def check(sums: VolumeSums) -> None:
        with file_of(state, volume2.object_id, "f").open("rb") as file:
            sums.check(volume2.object_id, "/f", file.fileno(), 0, 8)

    sums = state.run(restarted())
    with pytest.raises(Damaged):
        check(sums)
    sums.may_be_written(volume2.object_id)
    check(sums)
    state.run(sums.close())
    sums = state.run(restarted())
    check(sums)  # a container may have done it, in the time of the last server

    async def known() -> int:
        status_of = state.volumes.tree(volume2.object_id).stat
        await sums.sweep(lambda volume_id, path: status_of((path,)) if volume_id == volume2.object_id else None)
        return len([f for f in sums._outdated(lambda volume_id, path: None) if f.volume_id == volume2.object_id])

    assert state.run(known()) == 0, "what containers may have touched is forgotten"


async def _noted(sums: VolumeSums) -> None:
    while sums._jobs:
        await asyncio.wait(sums._jobs)


def test_digests_of_blocks_leave_out_their_trailing_zeros() -> None:
    for size in (0, 1, 999, 1_000, 1_001, 2_500):
        for data in (bytes(size), os.urandom(size), os.urandom(size // 2) + bytes(size - size // 2)):
            wanted = b"".join(hashlib.sha256(data[n : n + 1_000].rstrip(b"\0")).digest() for n in range(0, size, 1_000))
            for step in (1, 7, 1_000, 5_000):
                sums = TrimmedSums(1_000)
                for start in range(0, size, step):
                    sums.update(data[start : start + step])
                assert sums.digests() == wanted


def test_a_damaged_file_of_a_network_file_system_is_not_served(state: StateServer) -> None:
    async def scenario() -> None:
        nfs = await state.network_files.objects.create_ephemeral(state.environments.default().id)
        small, large = b"small", os.urandom(5 << 20)
        await state.network_files.write(nfs.id, "small", small)
        await state.network_files.write(nfs.id, "large", large)
        assert await state.network_files.read(nfs.id, "small") == small
        handle = await state.network_files.read(nfs.id, "large")
        assert isinstance(handle, str)
        _, _, _, _, inode, size, name = state.network_files.download_path(handle).split("/")
        assert (await state.network_files.open(nfs.id, int(inode), int(size), name)).length == len(large)
        for path in ("small", "large"):
            flip(file_of(state, nfs.id, path), 3)
        with pytest.raises(Damaged, match="'small'"):
            await state.network_files.read(nfs.id, "small")
        with pytest.raises(Damaged, match="'large'"):
            await state.network_files.open(nfs.id, int(inode), int(size), name)
        await state.network_files.objects.delete(nfs.id)

    state.run(scenario())


def test_with_full_durability_files_are_on_the_disk_before_they_count(
    state: StateServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file, and the directory that has its name."""
    synced, fsync = set(), os.fsync

    def noting(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    async def network_file() -> Path:
        nfs = await state.network_files.objects.create_ephemeral(state.environments.default().id)
        await state.network_files.write(nfs.id, "f", b"content")
        return file_of(state, nfs.id, "f")

    monkeypatch.setattr(os, "fsync", noting)
    for sync in (False, True):
        monkeypatch.setattr(state.volumes, "sync", sync)
        stored = [state.run(network_file())]
        for version in (1, 2):
            volume = new_volume(client, version)
            put(volume, f=f"{sync}".encode())
            stored.append(file_of(state, volume.object_id, "f"))
        for path in stored:
            there = {path.stat().st_ino, path.parent.stat().st_ino} & synced
            assert len(there) == (2 if sync else 0), f"{path} {sync}"


def mount_of(state: StateServer, **files: bytes) -> str:
    async def make() -> str:
        for data in files.values():
            await state.mounts.put_file(hashlib.sha256(data).hexdigest(), data)
        mounted = [MountedFile(f"/{name}", hashlib.sha256(data).hexdigest()) for name, data in files.items()]
        return (await state.mounts.create(mounted)).id

    return state.run(make())


@pytest.mark.parametrize("change", ["flip", "cut", "gone"])
def test_a_damaged_file_of_a_mount_is_asked_for_again(state: StateServer, change: str) -> None:
    data = os.urandom(1_000)
    digest = hashlib.sha256(data).hexdigest()
    mount_id = mount_of(state, code=data)
    stored = state.data / "files" / digest[:2] / digest
    {"flip": lambda: flip(stored, 5), "cut": lambda: os.truncate(stored, 0), "gone": stored.unlink}[change]()
    for _ in range(2):
        with pytest.raises(Damaged, match=r"The file /code of this app, .* Deploy the app again"):
            state.run(state.mounts.tree(mount_id))
    assert state.mounts.missing([digest]) == [digest], "so that a deployment sends it"
    state.run(state.mounts.put_file(digest, data))
    assert (state.run(state.mounts.tree(mount_id)) / "code").read_bytes() == data


def test_a_tree_of_a_mount_that_somebody_has_touched_is_made_anew(state: StateServer) -> None:
    mount_id = mount_of(state, one=os.urandom(100), two=os.urandom(100))
    tree = state.run(state.mounts.tree(mount_id))
    one, two = ((tree / name).read_bytes() for name in ("one", "two"))
    (tree / "one").unlink()
    (tree / "one").write_bytes(b"something else")
    again = state.run(state.mounts.tree(mount_id))
    assert again == tree and ((tree / "one").read_bytes(), (tree / "two").read_bytes()) == (one, two)


def test_a_tree_is_checked_with_its_first_use_by_a_server(state: StateServer) -> None:
    data = os.urandom(100)
    mount_id = mount_of(state, code=data)
    tree = state.run(state.mounts.tree(mount_id))
    status = os.stat(tree / "code")
    flip(tree / "code", 50)  # which is the stored content, too
    os.utime(tree / "code", ns=(status.st_atime_ns, status.st_mtime_ns))  # as the disk does it, nothing shows
    state.mounts._trees._checked.clear()  # as in a server that has just begun
    with pytest.raises(Damaged):
        state.run(state.mounts.tree(mount_id))


def test_a_file_that_is_used_for_a_volume_is_checked(state: StateServer, volume2: modal.Volume) -> None:
    """Version 1 of the protocol makes files of volumes of contents that were sent before."""
    data = os.urandom(1_000)
    digest = hashlib.sha256(data).hexdigest()
    state.run(state.mounts.put_file(digest, data))
    flip(state.data / "files" / digest[:2] / digest, 1)
    with pytest.raises(Damaged):
        state.run(state.files.put_contents(volume2.object_id, [("f", digest, 0o644)], overwrite=False))
    assert [entry.path for entry in volume2.listdir("/")] == []


def test_the_client_is_told_of_lost_data_as_what_it_is() -> None:
    assert wire_status(Damaged("It is damaged.")).code == Status.DATA_LOSS

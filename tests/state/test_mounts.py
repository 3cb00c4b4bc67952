"""Mounts made by the official client, and the trees made of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import modal
import pytest
from modal._load_context import LoadContext
from modal._resolver import Resolver
from modal._utils.async_utils import TaskContext, synchronizer
from modal.client import Client
from modal.mount import Mount
from modal_proto import api_pb2

from stoker.errors import InvalidArgument, NotFound
from stoker.protocol.mounts import MountServicer
from stoker.rpc.methods import declared_by
from stoker.services.files.mounts import MountedFile
from stoker.store.contents import EMPTY

from .conftest import StateServer


async def _hydrate(mount: Any, client: Any) -> str:
    """What an app does with its mounts while it is being run."""
    async with TaskContext() as tasks:
        context = LoadContext(client=client, environment_name="main", task_context=tasks)
        await Resolver().load(mount, context)
    return str(mount.object_id)


hydrate = synchronizer.create_blocking(_hydrate)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stored(state: StateServer, data: bytes) -> str:
    assert state.run(state.mounts.put_file(sha256(data), data))
    return sha256(data)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_bytes(b"")
    (tmp_path / "pkg" / "code.py").write_text("answer = 42\n")
    (tmp_path / "pkg" / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "pkg" / "run.sh").chmod(0o755)
    (tmp_path / "pkg" / "sub" / "large.bin").write_bytes(os.urandom(5 << 20))  # travels as a blob
    return tmp_path / "pkg"


def test_a_directory_appears_as_it_is(state: StateServer, client: Client, local: Path) -> None:
    mount_id = hydrate(Mount._from_local_dir(local, remote_path="/root/pkg"), client)
    tree = state.run(state.mounts.tree(mount_id))
    for path in filter(Path.is_file, local.rglob("*")):
        copy = tree / "root" / "pkg" / path.relative_to(local)
        assert copy.read_bytes() == path.read_bytes()
        assert copy.stat().st_mode & 0o777 == path.stat().st_mode & 0o777
    assert len([p for p in tree.rglob("*") if p.is_file()]) == 4
    assert state.mounts.client_version(mount_id) is None
    assert hydrate(Mount._from_local_dir(local, remote_path="/root/pkg"), client) == mount_id
    (local / "code.py").write_text("answer = 43\n")
    assert hydrate(Mount._from_local_dir(local, remote_path="/root/pkg"), client) != mount_id
    assert (tree / "root" / "pkg" / "code.py").read_text() == "answer = 42\n"


def test_equal_files_lie_on_the_disk_once(state: StateServer) -> None:
    digest = stored(state, b"shared by several mounts")
    trees = []
    for name in ("/a", "/b"):
        mount = state.run(state.mounts.create([MountedFile(name, digest)]))
        trees.append(state.run(state.mounts.tree(mount.id)))
    assert os.path.samefile(trees[0] / "a", trees[1] / "b")


def test_the_client_of_a_version_has_one_mount(state: StateServer, client: Client) -> None:
    found = [
        Mount.from_name(name, namespace=api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL).hydrate(client).object_id
        for name in ("modal-client-mount-1.6.4", "modal-client-mount-1.6.4", "modal-client-mount-1.2.0")
    ]
    assert found[0] == found[1] != found[2]
    assert [state.mounts.client_version(i) for i in found[1:]] == ["1.6.4", "1.2.0"]
    with pytest.raises(modal.exception.NotFoundError, match="no mount 'other'"):
        Mount.from_name("other", namespace=api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL).hydrate(client)


def test_a_mount_can_have_a_name(state: StateServer, client: Client, local: Path) -> None:
    Mount._from_local_dir(local, remote_path="/x")._deploy("mine", client=client)
    with pytest.raises(modal.exception.AlreadyExistsError):
        Mount._from_local_dir(local, remote_path="/x")._deploy("mine", client=client)
    first = Mount.from_name("mine").hydrate(client).object_id
    Mount._from_local_dir(local, remote_path="/y")._deploy("mine", client=client, allow_overwrite=True)
    second = Mount.from_name("mine").hydrate(client).object_id
    assert first != second and (state.run(state.mounts.tree(second)) / "y" / "code.py").exists()


def test_the_empty_file_is_always_there(state: StateServer) -> None:
    assert state.mounts.missing([EMPTY, "0" * 64]) == ["0" * 64]
    assert state.run(state.mounts.put_file(EMPTY, b""))
    assert not state.run(state.mounts.put_file("0" * 64, b""))


def test_the_digest_must_be_that_of_the_content(state: StateServer) -> None:
    with pytest.raises(InvalidArgument, match="SHA-256"):
        state.run(state.mounts.put_file(sha256(b"this"), b"that"))
    assert state.mounts.missing([sha256(b"this"), sha256(b"that")]) == [sha256(b"this"), sha256(b"that")]
    for wrong in ("", "x" * 64, "../../stoker.db", "A" * 64):
        with pytest.raises(InvalidArgument, match="not a SHA-256"):
            state.mounts.missing([wrong])


@pytest.mark.parametrize("path", ["relative", "/../x", "/a/../../x", "/", "", "/dir/"])
def test_paths_that_are_no_files_are_refused(state: StateServer, path: str) -> None:
    with pytest.raises(InvalidArgument):
        state.run(state.mounts.create([MountedFile(path, EMPTY)]))


def test_a_file_cannot_be_a_directory_too(state: StateServer) -> None:
    with pytest.raises(InvalidArgument, match="'/a' is both"):
        state.run(state.mounts.create([MountedFile("/a/b/c", EMPTY), MountedFile("/a", EMPTY)]))


def test_files_that_were_not_uploaded(state: StateServer) -> None:
    with pytest.raises(NotFound, match="not uploaded"):
        state.run(state.mounts.create([MountedFile("/a", "1" * 64)]))
    for use in (state.mounts.client_version, lambda i: state.run(state.mounts.tree(i))):
        with pytest.raises(NotFound):
            use("mo-0000000000000000000000")


def test_many_who_ask_for_one_tree_get_the_same(state: StateServer) -> None:
    files = [MountedFile(f"/d{i % 7}/f{i}", stored(state, b"%d" % i), 0o644 if i % 2 else 0o600) for i in range(200)]

    async def work() -> list[Path]:
        mount = await state.mounts.create(files)
        return await asyncio.gather(*(state.mounts.tree(mount.id) for _ in range(20)))

    trees = state.run(work())
    assert len(set(trees)) == 1 and len([p for p in trees[0].rglob("*") if p.is_file()]) == 200
    # Other tests leave damaged trees that were put aside.
    assert not [p for p in (state.data / "mounts").iterdir() if p.name.startswith(f".{trees[0].name}.")]


def test_a_repeat_of_an_upload_that_is_under_way_waits_for_it() -> None:
    """The first attempt uses up the blob with the content: the second would not find it."""
    _, declared = declared_by(MountServicer)["MountPutFile"]
    assert declared.once


def test_whether_a_mount_has_a_file(state: StateServer) -> None:
    early = frozenset(("/root/sitecustomize.py", "/root/usercustomize.py"))
    plain = state.run(state.mounts.create([MountedFile("/root/a.py", EMPTY), MountedFile("/sitecustomize.py", EMPTY)]))
    other = state.run(state.mounts.create([MountedFile("/root/usercustomize.py", EMPTY)]))
    for _ in range(2):
        assert not state.mounts.has_any(plain.id, early) and state.mounts.has_any(other.id, early)
    with pytest.raises(NotFound):
        state.mounts.has_any("mo-0000000000000000000000", early)

"""Volumes by name and environment, every form of a batch, and the command line over them."""

from __future__ import annotations

import io
import json
from pathlib import Path, PurePosixPath

import modal
import pytest
from modal.client import Client

from .conftest import StateServer
from .test_volumes import content, put, volume  # noqa: F401 (a fixture)


def test_names(client: Client) -> None:
    name = "n" * 64
    modal.Volume.objects.create(name, client=client)
    assert name in {v.name for v in modal.Volume.objects.list(client=client)}
    for wrong in ("n" * 65, "a b", "a/b", "", "ä"):
        with pytest.raises(modal.exception.InvalidError):
            modal.Volume.objects.create(wrong, client=client)
    modal.Volume.objects.create("short", client=client)
    with pytest.raises(modal.exception.InvalidError, match="64"):
        modal.Volume.rename("short", "n" * 65, client=client)


def test_environments_have_volumes_of_their_own(state: StateServer, client: Client) -> None:
    state.modal("environment", "create", "staging")
    for environment in ("main", "staging"):
        there = modal.Volume.from_name("per-env", environment_name=environment, create_if_missing=True, client=client)
        put(there, f=environment.encode())
    for environment in ("main", "staging"):
        there = modal.Volume.from_name("per-env", environment_name=environment, client=client)
        assert content(there, "f") == environment.encode()
    assert "per-env" in state.modal("volume", "list", "--env", "staging").stdout
    state.modal("environment", "delete", "staging", "--yes")
    assert not [v for v in state.volumes.named(state.environments.resolve("main").id) if v.name == "staging"]


def test_every_form_of_a_batch(volume: modal.Volume, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "a").write_bytes(b"a")
    (tmp_path / "d" / "deep" / "b").write_bytes(b"b")
    (tmp_path / "script").write_bytes(b"#!")
    with (tmp_path / "d" / "a").open("rb") as file, volume.batch_upload() as batch:
        batch.put_file(tmp_path / "script", "bin/script", mode=0o755)
        batch.put_file(str(tmp_path / "script"), "/plain")
        batch.put_file(io.BytesIO(b"from memory"), PurePosixPath("/memory"))
        batch.put_file(file, "from-handle")
        batch.put_directory(tmp_path / "d", "/shallow", recursive=False)
        batch.put_directory(str(tmp_path / "d"), "/whole")
    assert {e.path for e in volume.iterdir("/") if e.type.name == "FILE"} == {
        "bin/script", "plain", "memory", "from-handle", "shallow/a", "whole/a", "whole/deep/b",
    }  # fmt: skip
    assert {e.path for e in volume.iterdir("/whole", recursive=False)} == {"whole/a", "whole/deep"}
    back = io.BytesIO()
    assert volume.read_file_into_fileobj("memory", back) == 11 and back.getvalue() == b"from memory"
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b""), "plain")
    with (
        pytest.raises((FileExistsError, modal.exception.Error), match="directory"),
        volume.batch_upload(force=True) as batch,
    ):
        batch.put_file(io.BytesIO(b""), "whole")


def test_the_command_line_manages_volumes(state: StateServer, tmp_path: Path) -> None:
    state.modal("volume", "create", "managed")
    again = state.modal("volume", "create", "managed", check=False)
    assert again.returncode and "exists already" in again.stderr
    assert "managed" in [v["name"] for v in json.loads(state.modal("volume", "list", "--json").stdout)]
    (tmp_path / "f").write_text("f")
    state.modal("volume", "put", "managed", str(tmp_path / "f"), "/f")
    [entry] = json.loads(state.modal("volume", "ls", "--json", "managed").stdout)
    assert entry["filename"] == "f" and entry["type"] == "file"
    assert state.modal("volume", "get", "managed", "f", "-").stdout.startswith("f")
    state.modal("volume", "cp", "managed", "f", "g")
    state.modal("volume", "rm", "managed", "f")
    state.modal("volume", "rename", "--yes", "managed", "renamed")
    assert [e["filename"] for e in json.loads(state.modal("volume", "ls", "--json", "renamed").stdout)] == ["g"]
    state.modal("volume", "delete", "--yes", "renamed")
    for verb in (["ls", "renamed"], ["get", "renamed", "g"], ["delete", "--yes", "renamed"], ["rm", "renamed", "g"]):
        missing = state.modal("volume", *verb, check=False, cwd=tmp_path)
        assert missing.returncode and "renamed" in missing.stderr and "Traceback" not in missing.stderr, verb

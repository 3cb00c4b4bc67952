"""`stoker gc` on a cache directory of its own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from stoker.images import cachegc
from tests.conftest import STOKER, RunningServer

DAY = 86_400.0


def make(path: Path, age_days: float, size: int = 5000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    for place in (path, path.parent):
        os.utime(place, (time.time() - age_days * DAY,) * 2)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make(tmp_path / "bases" / "old" / "layer", 40)
    make(tmp_path / "bases" / "young" / "layer", 3)
    make(tmp_path / "bases" / ".making-1" / "part", 3)
    make(tmp_path / "bases" / ".making-2" / "part", 0)
    make(tmp_path / "uv" / "a" / "old.whl", 40)
    make(tmp_path / "downloads" / "young.whl", 3)
    make(tmp_path / "clients" / "client-1.2.6-cp311" / "modal.py", 400)
    (tmp_path / "bases" / "old.lock").touch()
    return tmp_path


def found(cache: Path) -> dict[str, cachegc.Rubbish]:
    items = cachegc.find(cache, base_seconds=30 * DAY, download_seconds=30 * DAY)
    return {str(item.path.relative_to(cache)): item for item in items}


def test_only_what_is_old_goes_and_never_what_containers_use(cache: Path) -> None:
    rubbish = found(cache)
    assert set(rubbish) == {"bases/old", "bases/.making-1", "uv/a/old.whl"}
    assert all(item.size >= 4096 for item in rubbish.values())
    assert all(cachegc.remove(item) for item in rubbish.values())
    assert found(cache) == {} and (cache / "bases" / "young" / "layer").exists()
    assert (cache / "clients" / "client-1.2.6-cp311" / "modal.py").exists()


def test_what_is_being_made_anew_stays(cache: Path) -> None:
    item = found(cache)["bases/old"]
    with (cache / "bases" / "old.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not cachegc.remove(item) and (cache / "bases" / "old" / "layer").exists()
    assert cachegc.remove(item)


def test_an_unpacked_package_goes_as_a_whole_or_not_at_all(cache: Path) -> None:
    """uv installs what it finds of a package, also when the half of it is missing."""
    unpacked = cache / "downloads" / "uv" / "archive-v0"
    for package in ("used", "unused"):
        make(unpacked / package / "six.py", 40)
        make(unpacked / package / "six.dist-info" / "RECORD", 40)
    # Where contents are cloned, only the few files that are read show that it was used.
    os.utime(unpacked / "used" / "six.dist-info" / "RECORD")
    rubbish = found(cache)
    assert {path for path in rubbish if path.startswith("downloads/")} == {"downloads/uv/archive-v0/unused"}
    assert cachegc.remove(rubbish["downloads/uv/archive-v0/unused"])
    assert [path.name for path in unpacked.iterdir()] == ["used"]
    assert (unpacked / "used" / "six.py").exists()


def test_trees_that_a_killed_server_was_making_go(cache: Path) -> None:
    make(cache / "clients" / ".making-1" / "modal.py", 3)
    assert "clients/.making-1" in found(cache)


def test_client_trees_go_when_no_server_used_them_for_long(cache: Path) -> None:
    assert found(cache)
    lock = cache / "clients" / "client-1.2.6-cp311.lock"
    assert lock.exists(), "when it was used is not known from before there were locks, and counts from now on"
    os.utime(lock, (time.time() - 40 * DAY,) * 2)
    item = found(cache)["clients/client-1.2.6-cp311"]
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)  # as every server does with the trees it used
        assert not cachegc.remove(item) and (item.path / "modal.py").exists()
    assert cachegc.remove(item) and not item.path.exists()


def test_a_running_server_is_asked_for_its_images(server: RunningServer, tmp_path: Path) -> None:
    def said(data: Path, *flags: str) -> Any:
        command = [*STOKER, "gc", "--dry-run", "--json", "--data", str(data), *flags]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)

    assert said(server.data)["server"] is True
    assert said(server.data, "--days", "0")["images"] == []
    assert said(tmp_path)["server"] is False


def test_no_cache_is_no_fault(tmp_path: Path) -> None:
    assert cachegc.find(tmp_path / "none", base_seconds=0, download_seconds=0) == []

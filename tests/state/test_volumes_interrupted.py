"""Uploads that end in the middle, at every stage: the client or the server killed, the disk full. Then nobody sees half a file, and the
same command finishes the work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.store.assembly import BLOCK_BYTES
from tests.conftest import STOKER, RunningServer, free_port, start_server, stop_server

BLOCKS = 6


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A server that may be killed, and that another can follow on the same ports."""
    monkeypatch.setenv("STOKER_HTTP_PORT", str(free_port()))
    running = start_server(tmp_path / "data", "process", port=free_port())
    yield running
    stop_server(running)


def test_a_killed_client_leaves_nothing_to_see_and_goes_on_where_it_was(mortal: RunningServer, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    mortal.modal("volume", "create", "v")
    for stage in STAGES.values():
        put = start_put(mortal, files)
        stage(mortal, put)
        put.kill()
        put.wait()
        assert_all_or_nothing(mortal, files)
    mortal.modal("volume", "put", "--force", "v", str(files), "/")
    assert_whole(mortal, files)


def test_a_killed_server_leaves_nothing_to_see_and_goes_on_where_it_was(mortal: RunningServer, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    mortal.modal("volume", "create", "v")
    for stage in STAGES.values():
        put = start_put(mortal, files)
        stage(mortal, put)
        os.kill(mortal.pid, signal.SIGKILL)
        put.kill()
        put.wait()
        again(mortal)
        assert_all_or_nothing(mortal, files)
    mortal.modal("volume", "put", "--force", "v", str(files), "/")
    assert_whole(mortal, files)
    assert not [p for p in (mortal.data / "volumes" / ".staging").rglob("*") if p.is_file()]


def test_a_server_that_comes_back_takes_the_rest_of_a_running_put(mortal: RunningServer, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    mortal.modal("volume", "create", "v")
    info = json.loads((mortal.data / "server.json").read_text())
    put = start_put(mortal, files)
    some_blocks(mortal, put)
    os.kill(mortal.pid, signal.SIGKILL)
    again(mortal, port=info["url"].rsplit(":", 1)[1])
    output, _ = put.communicate(timeout=120)
    assert put.returncode == 0, output
    assert_whole(mortal, files)


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small disk is made by mount, as root on Linux"
)
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_MIN_FREE_DISK_MIB", "0")
    data = tmp_path / "small"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "none", str(data)], check=True)
    try:
        server = start_server(data / "d", "process")
        try:
            on_a_full_disk(server, tmp_path)
        finally:
            stop_server(server)
    finally:
        subprocess.run(["umount", str(data)], check=True)


def on_a_full_disk(server: RunningServer, tmp_path: Path) -> None:
    files = make_files(tmp_path)  # 48 MiB
    server.modal("volume", "create", "v")
    (tmp_path / "old").write_bytes(b"old")
    server.modal("volume", "put", "v", str(tmp_path / "old"), "/kept")
    (tmp_path / "big").write_bytes(random.Random(9).randbytes(70 << 20))
    for name in ("/big", "/kept"):
        full = server.modal("volume", "put", "--force", "v", str(tmp_path / "big"), name, check=False)
        assert full.returncode and "disk is full" in full.stderr and "Traceback" not in full.stderr
    assert server.modal("volume", "ls", "v").stdout.split() == ["kept"]
    assert server.modal("volume", "get", "v", "kept", "-").stdout.startswith("old")
    program = f"""
import errno, modal, os
app = modal.App()
vol = modal.Volume.from_name("v")
@app.function(volumes={{"{tmp_path}/mounted": vol}}, serialized=True)
def fill():
    try:
        with open("{tmp_path}/mounted/filling", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError as error:
        vol.commit()
        os.truncate("{tmp_path}/mounted/filling", 4 << 20)  # the server needs room for the answer to this call
        return errno.errorcode[error.errno]
with app.run():
    print(fill.remote())
"""
    assert server.python(program).stdout.split()[-1] == "ENOSPC"
    assert server.modal("volume", "ls", "v").stdout.split() == ["filling", "kept"]
    assert server.modal("volume", "get", "v", "kept", "-").stdout.startswith("old")
    server.modal("volume", "rm", "v", "filling")
    server.modal("volume", "put", "v", str(files / "small"), "/small")


def make_files(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    (files / "small").write_bytes(b"small")
    (files / "large").write_bytes(random.Random(1).randbytes(BLOCKS * BLOCK_BYTES - 99))
    return files


def start_put(server: RunningServer, files: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "modal", "volume", "put", "--force", "v", str(files), "/"]
    return subprocess.Popen(command, env=server.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def before_anything(server: RunningServer, put: subprocess.Popen[str]) -> None:
    time.sleep(0.3)


def announced(server: RunningServer, put: subprocess.Popen[str]) -> None:
    wait_for(lambda: bool(marks(server)), put)


def some_blocks(server: RunningServer, put: subprocess.Popen[str]) -> None:
    wait_for(lambda: any(mark in marks(server) for mark in (b"\1", b"\2")), put)


def all_blocks(server: RunningServer, put: subprocess.Popen[str]) -> None:
    wait_for(lambda: marks(server).count(b"\1") >= BLOCKS, put)


STAGES: dict[str, Callable[[RunningServer, subprocess.Popen[str]], None]] = {
    "before anything": before_anything,
    "announced": announced,
    "some blocks": some_blocks,
    "all blocks": all_blocks,
}


def marks(server: RunningServer) -> bytes:
    """How far the upload of the large file is, a byte per block."""
    found = [path.read_bytes() for path in (server.data / "volumes" / ".staging").glob("vo-*/*.seen")]
    return max(found, key=len, default=b"")


def wait_for(reached: Callable[[], bool], put: subprocess.Popen[str]) -> None:
    """Returns as soon as the stage is reached, or the upload is over: the machine decides how far it gets."""
    while put.poll() is None and not reached():
        time.sleep(0.001)


def assert_all_or_nothing(server: RunningServer, files: Path) -> None:
    for directory in (server.data / "volumes").glob("vo-*"):
        for path in directory.rglob("*"):
            if path.is_file():
                assert path.read_bytes() == (files / path.name).read_bytes(), path


def assert_whole(server: RunningServer, files: Path) -> None:
    [directory] = (server.data / "volumes").glob("vo-*")
    assert {p.name for p in directory.rglob("*") if p.is_file()} == {"small", "large"}
    assert_all_or_nothing(server, files)


def again(server: RunningServer, port: str = "0") -> None:
    command = [*STOKER, "up", "--detach", "--data", str(server.data), "--runtime", server.runtime, "--port", port]
    subprocess.run(command, check=True, capture_output=True, timeout=120)

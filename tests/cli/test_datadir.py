"""The data directory's lock and documents, with real processes on both sides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stoker.datadir import DataDir, ServerInfo
from stoker.errors import FailedPrecondition

_HOLD = """
import sys
from pathlib import Path
from stoker.datadir import DataDir, ServerInfo
import os
data = DataDir(Path(sys.argv[1]))
data.create()
data.lock()
data.write_server(ServerInfo(os.getpid(), "http://a:1", "http://a:2", 1.0, "process"))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    directory = DataDir(tmp_path / "data")
    directory.create()
    return directory


def hold(data: DataDir) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(data.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_everything_is_private(data: DataDir) -> None:
    data.write_token("ak-1", "as-1")
    assert data.path.stat().st_mode & 0o777 == 0o700
    assert data.token_file.stat().st_mode & 0o777 == 0o600
    assert data.read_token() == ("ak-1", "as-1")


def test_a_second_holder_is_told_who_the_first_is(data: DataDir) -> None:
    process = hold(data)
    with pytest.raises(FailedPrecondition, match=rf"pid {process.pid}: .*stoker down"):
        data.lock()
    assert data.holder() == process.pid
    process.communicate()
    data.lock()
    assert data.holder() == os.getpid()
    data.unlock()
    assert data.holder() is None


def test_a_killed_holder_leaves_nothing_that_others_believe(data: DataDir) -> None:
    process = hold(data)
    assert data.read_server() == ServerInfo(process.pid, "http://a:1", "http://a:2", 1.0, "process")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert data.server_file.exists()
    assert data.read_server() is None
    data.lock()
    assert not data.server_file.exists()


def test_looking_never_keeps_a_server_from_starting(data: DataDir) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            data.locked()

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            data.lock()
            data.unlock()
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_file_in_the_place_of_the_directory_is_explained(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(FailedPrecondition, match="not a directory"):
        DataDir(tmp_path / "data").create()


def test_a_damaged_document_is_named(data: DataDir) -> None:
    data.token_file.write_text("{")
    with pytest.raises(FailedPrecondition, match=r"token\.json is not the JSON document"):
        data.read_token()

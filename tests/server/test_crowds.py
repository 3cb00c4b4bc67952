"""A whole server with few files to open, and more connections than it can have; and who may read what it writes."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import STOKER, RunningServer, stop_server

_FILES = 256


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that may open as many files as a service without a word about it, and of whose limit a part was given away."""
    data = tmp_path_factory.mktemp("narrow")
    up = [*STOKER, "up", "--detach", "--data", str(data), "--port", "0", "--runtime", "process"]
    done = subprocess.run(
        ["bash", "-c", f'ulimit -Sn 128 && ulimit -Hn {_FILES} && exec "$@"', "-", *up],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    running = RunningServer(data, "process")
    yield running
    stop_server(running)


def test_a_server_takes_all_the_files_it_may_have(narrow: RunningServer) -> None:
    limits = Path(f"/proc/{narrow.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "open files" in line).split()[3] == str(_FILES)


def test_idle_connections_do_not_take_all_the_files(narrow: RunningServer) -> None:
    """300 of them exhausted the server, for good."""
    known = json.loads((narrow.data / "server.json").read_text())
    urls = [urlsplit(known["url"]), urlsplit(known["http_url"])] * 400
    crowd = [socket.create_connection((url.hostname or "", url.port or 0), timeout=30) for url in urls]
    narrow.modal("deploy", "basics.py")
    call = "import modal; print(modal.Function.from_name('basics', 'square').remote(4))"
    assert narrow.python(call).stdout == "16\n"
    log = (narrow.data / "logs" / "server.log").read_text()
    assert 2 <= log.count("no room for more connections") <= 8  # once a minute for each of the two
    assert "Too many open files" not in log and "Traceback" not in log
    for one in crowd:
        one.close()


def test_nobody_else_can_read_what_a_server_keeps(narrow: RunningServer) -> None:
    files = [path for path in (*narrow.data.iterdir(), *(narrow.data / "logs").iterdir()) if path.is_file()]
    assert {"stoker.db", "secret.key", "token.json", "server.log"} <= {path.name for path in files}
    assert [path.name for path in files if path.stat().st_mode & 0o077] == []


def test_the_documented_backup_can_be_read_by_nobody_else(narrow: RunningServer, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    commands = page[page.index("**Backup.**") :].split("\n    stoker down\n")[1].split("    stoker up")[0]
    script = commands.replace("/var/lib/stoker", str(narrow.data))
    assert str(narrow.data) in script
    subprocess.run(["bash", "-ec", "umask 022\n" + script], cwd=tmp_path, check=True, capture_output=True)
    (archive,) = tmp_path.iterdir()
    assert archive.stat().st_mode & 0o077 == 0
    listed = subprocess.run(["tar", "--list", "--file", archive], capture_output=True, text=True, check=True).stdout
    assert "./secret.key" in listed

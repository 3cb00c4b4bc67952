"""Starting, finding and stopping real servers (with the process runtime: it needs nothing of the machine)."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from stoker.datadir import DataDir

from .conftest import Stoker


def test_up_detach_status_env_down(stoker: Stoker) -> None:
    up = stoker.up()
    assert "Stoker is ready at http://127.0.0.1:" in up.stdout
    assert "No isolation" in up.stderr

    status = stoker.json("status")
    assert status["running"] is True
    assert status["pid"] == stoker.pid()
    assert status["urls"]["grpc"] in up.stdout
    assert "runtime process" in stoker("status").stdout

    variables = stoker.json("env")
    assert variables["MODAL_SERVER_URL"] == status["urls"]["grpc"]
    script = stoker("env").stdout + 'printf "%s\\n" "$MODAL_SERVER_URL" "$MODAL_TOKEN_ID" "$MODAL_TOKEN_SECRET"'
    sourced = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env=stoker.env)
    assert sourced.stdout.split() == list(variables.values())

    assert "Stopped the server" in stoker("down").stdout
    assert stoker.pid() is None
    assert stoker("down", code=1).stderr.startswith("error: No server runs on")


def test_the_first_token_is_shown_once_and_never_logged(stoker: Stoker) -> None:
    first = stoker.up()
    token = DataDir(stoker.data).read_token()
    assert token is not None and token[0] in first.stdout and token[1] in first.stdout
    stoker("down")
    assert token[1] not in stoker.up().stdout
    assert DataDir(stoker.data).read_token() == token
    assert token[1] not in DataDir(stoker.data).server_log.read_text()


def test_in_the_foreground_it_says_what_to_do_next_and_stops_on_a_signal(stoker: Stoker) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        server = stoker.start("up", "--port", 0, "--runtime", "process")
        assert server.stdout is not None
        lines = []
        while "Ctrl-C" not in (line := server.stdout.readline()):
            assert line, server.communicate()
            lines.append(line)
        text = "".join(lines)
        assert text.startswith("Stoker is ready at http://")
        assert f"stoker run --data {stoker.data} modal run app.py" in text and "\x1b" not in text
        assert stoker.json("status")["pid"] == server.pid
        server.send_signal(number)
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0
        assert [line for line in log.splitlines() if "Traceback" in line] == []
        assert stoker.pid() is None


def test_the_log_is_one_json_object_a_line(stoker: Stoker) -> None:
    stoker.up()
    stoker("down")
    records = [json.loads(line) for line in DataDir(stoker.data).server_log.read_text().splitlines()]
    assert {"event", "level", "timestamp"} <= records[0].keys()
    assert any(record["event"] == "stopping" for record in records)


def test_a_second_server_on_the_directory_is_refused_and_the_first_stays(stoker: Stoker) -> None:
    stoker.up()
    pid = stoker.pid()
    for mode in ((), ("--detach",)):
        second = stoker("up", "--port", 0, "--runtime", "process", *mode, code=1)
        assert f"pid {pid}: stoker up" in second.stderr
        assert f"stoker down --data {stoker.data}" in second.stderr
    assert stoker.json("status")["pid"] == pid


@pytest.mark.parametrize("mode", [(), ("--detach",)])
def test_a_taken_port_is_named(stoker: Stoker, mode: tuple[str, ...]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = stoker("up", "--port", port, "--runtime", "process", *mode, code=1)
    assert f"error: Cannot listen on 127.0.0.1:{port}" in result.stderr
    assert "--port" in result.stderr
    assert stoker.pid() is None


def test_a_wrong_token_is_told_what_to_do(stoker: Stoker) -> None:
    stoker.up()
    DataDir(stoker.data).write_token("ak-wrong", "as-wrong")
    assert "stoker env" in stoker("status", code=1).stderr


def test_declared_gpus_are_announced_loudly(stoker: Stoker) -> None:
    up = stoker.up("--fake-gpus", "H100:1,L40S:2")
    assert "DEVELOPMENT ONLY" in up.stderr
    assert "H100:1,L40S:2" in up.stderr
    assert "H100" in json.dumps(stoker.json("status")["engine"])
    stoker("down")
    assert (
        "--fake-gpus"
        in stoker("up", "--detach", "--port", 0, "--runtime", "process", "--fake-gpus", "H100:x", code=1).stderr
    )


def test_a_killed_server_is_not_taken_for_a_running_one(stoker: Stoker) -> None:
    stoker.up()
    pid = stoker.pid()
    assert pid is not None
    with_pidfd_wait(pid, signal.SIGKILL)
    assert stoker("status", code=1).stderr.startswith("error: No server runs on")
    stoker.up()
    assert stoker.json("status")["pid"] != pid


def test_a_full_disk_is_refused_with_what_to_do(stoker: Stoker) -> None:
    free_mib = shutil.disk_usage(stoker.cwd).free >> 20
    result = stoker("up", "--port", 0, "--runtime", "process", code=1, STOKER_MIN_FREE_DISK_MIB=str(free_mib * 2))
    assert "min_free_disk_mib" in result.stderr


def test_a_crash_at_the_start_shows_the_end_of_the_log(stoker: Stoker) -> None:
    stoker.data.mkdir()
    (stoker.data / "stoker.db").write_text("this is no database")
    result = subprocess.run(
        stoker.command("up", "--detach", "--port", 0, "--runtime", "process"),
        capture_output=True, text=True, env=stoker.env | {"STOKER_DATA": str(stoker.data)}, cwd=stoker.cwd,
    )  # fmt: skip
    assert result.returncode == 1
    assert "not a database" in result.stderr
    assert stoker.pid() is None


def test_a_stop_before_it_is_ready_leaves_nothing(stoker: Stoker) -> None:
    server = stoker.start("up", "--port", 0, "--runtime", "process")
    data = DataDir(stoker.data)
    while data.holder() is None:  # the lock comes first; there is no event to wait for from outside
        assert server.poll() is None
    server.terminate()
    server.communicate(timeout=60)
    assert stoker.pid() is None
    assert stoker.up().returncode == 0


def test_metrics_of_status_come_from_http_with_a_token(stoker: Stoker) -> None:
    stoker.up()
    info = DataDir(stoker.data).read_server()
    assert info is not None
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{info.http_url}/_stoker/status")
    assert raised.value.code == 401


@pytest.mark.parametrize("way", ["down --now", "two signals"])
def test_a_running_input_can_be_ended_at_once(stoker: Stoker, way: str) -> None:
    """The server would wait ten minutes for the input, far longer than this test."""
    (stoker.cwd / "stoker.toml").write_text("drain_seconds = 600\n")
    stoker.up()
    (stoker.cwd / "app.py").write_text(_SLEEPER)
    client = stoker.start("run", sys.executable, "-m", "modal", "run", "app.py")
    assert client.stdout is not None
    while "asleep" not in (line := client.stdout.readline()):
        assert line, client.communicate()
    assert stoker.json("status")["functions"][0]["running"] == 1
    pid = stoker.pid()
    assert pid is not None
    if way == "down --now":
        stoker("down", "--now", "--timeout", 60)
    else:
        assert "still stopping" in stoker("down", "--timeout", 1, code=1).stderr
        with_pidfd_wait(pid, signal.SIGTERM)
    assert stoker.pid() is None
    client.kill()
    client.communicate()


_SLEEPER = """
import time

import modal

app = modal.App("sleeper")


@app.function()
def sleep():
    print("asleep", flush=True)
    time.sleep(300)


@app.local_entrypoint()
def main():
    sleep.remote()
"""


def with_pidfd_wait(pid: int, number: int) -> None:
    """Signals a process that is not our child and waits for its end."""
    from stoker.cli.processes import OtherProcess

    process = OtherProcess(pid)
    process.signal(number)
    assert process.wait(30)
    process.close()

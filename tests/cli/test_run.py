"""`stoker run`: exit codes, signals, and a server for the duration."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from stoker.cli.processes import OtherProcess

from .conftest import Stoker

_OURS = ("--runtime", "process")


def test_a_server_for_the_duration_leaves_nothing(stoker: Stoker) -> None:
    program = "import os; print(os.environ['MODAL_SERVER_URL'], os.environ['MODAL_TOKEN_ID'])"
    result = stoker("run", *_OURS, "--", sys.executable, "-c", program)
    assert result.stdout.startswith("http://127.0.0.1:") and " ak-" in result.stdout
    assert result.stderr == ""  # what the server has to say is in its log
    assert stoker.pid() is None


def test_a_running_server_is_used_and_stays(stoker: Stoker) -> None:
    stoker.up()
    pid = stoker.pid()
    result = stoker("run", sys.executable, "-c", "import os; print(os.environ['MODAL_SERVER_URL'])")
    assert result.stdout.strip() == stoker.json("status")["urls"]["grpc"]
    assert stoker.pid() == pid
    assert "would have no effect" in stoker("run", "--port", 1, "true", code=1).stderr


def test_options_of_the_command_are_the_commands_own(stoker: Stoker) -> None:
    stoker.up()
    result = stoker("run", "echo", "--data", "x", "-h", "--", "--json")
    assert result.stdout == "--data x -h -- --json\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -KILL $$"), 137),
        (("stoker-has-no-such-command",), 127),
        (("/etc/passwd",), 126),
    ],
)
def test_the_exit_code_is_the_commands(stoker: Stoker, command: tuple[str, ...], code: int) -> None:
    stoker.up()
    result = stoker("run", "--", *command, code=code)
    assert (result.stderr != "") == (code in (126, 127))


def test_a_command_that_is_not_there_still_stops_the_server(stoker: Stoker) -> None:
    assert "command not found" in stoker("run", *_OURS, "stoker-has-no-such-command", code=127).stderr
    assert stoker.pid() is None


def test_signals_reach_the_command_and_the_server_is_stopped_after_it(stoker: Stoker) -> None:
    script = """
        trap 'kill $!; echo terminated; exit 3' TERM
        trap 'kill $!; echo interrupted; exit 4' INT
        sleep 60 >/dev/null 2>&1 &
        echo ready
        wait
    """
    for number, word, code in ((signal.SIGTERM, "terminated", 3), (signal.SIGINT, "interrupted", 4)):
        # A session of its own: no terminal that would send the signal to the command as well.
        process = stoker.start("run", *_OURS, "sh", "-c", script, start_new_session=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert (output, process.returncode) == (f"{word}\n", code), errors
        assert stoker.pid() is None


def test_a_server_for_the_duration_does_not_outlive_a_killed_run(stoker: Stoker) -> None:
    process = stoker.start("run", *_OURS, "sh", "-c", "echo ready; exec sleep 60", start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    pid = stoker.pid()
    assert pid is not None
    server = OtherProcess(pid)
    process.kill()
    assert server.wait(60)
    server.close()
    os.killpg(process.pid, signal.SIGKILL)  # the command, which nobody passes signals on to any more
    process.communicate()
    assert stoker.pid() is None


def test_the_client_runs_an_app(stoker: Stoker) -> None:
    """The whole way: an unmodified app, the official command line, a server for the duration."""
    app = stoker.cwd / "app.py"
    app.write_text(_APP)
    result = stoker("run", *_OURS, sys.executable, "-m", "modal", "run", app)
    assert "the answer is 42" in result.stdout


def test_a_server_that_cannot_start_says_why(stoker: Stoker) -> None:
    result = stoker("run", *_OURS, "--fake-gpus", "H100:x", "true", code=1)
    assert "--fake-gpus" in result.stderr


_APP = """
import modal

app = modal.App("run-test")


@app.function()
def double(x: int) -> int:
    return 2 * x


@app.local_entrypoint()
def main():
    print("the answer is", double.remote(21))
"""

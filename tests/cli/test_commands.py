"""What holds for every command: help, exit codes, errors in one line, no colours when piped; and the small commands."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys

import pytest

from stoker.cli.env import Shell, assignment

from .conftest import Stoker

COMMANDS = ["up", "down", "env", "run", "status", "doctor", "version"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(stoker: Stoker, command: str) -> None:
    text = stoker(command, "--help").stdout
    assert f"stoker {command}" in text.split("Options")[0].split("Usage:")[1].split("\n", 1)[1]


def test_help_lists_every_command(stoker: Stoker) -> None:
    text = stoker("--help").stdout
    assert [command for command in COMMANDS if command not in text] == []


@pytest.mark.parametrize(
    "arguments",
    [("frobnicate",), ("up", "--port", "many"), ("up", "--runtime", "docker"), ("env", "--shell", "x"), ("run",)],
)
def test_wrong_usage_is_exit_code_2(stoker: Stoker, arguments: tuple[str, ...]) -> None:
    assert "Usage: stoker" in stoker(*arguments, code=2).stderr


@pytest.mark.parametrize("command", ["down", "env", "status"])
def test_without_a_server_they_say_so(stoker: Stoker, command: str) -> None:
    result = stoker(command, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: No server runs on")
    assert str(stoker.data) in result.stderr
    assert not stoker.data.exists()  # looking leaves no trace


def test_status_says_it_as_json_too(stoker: Stoker) -> None:
    assert stoker.json("status", code=1)["running"] is False


def test_a_wrong_setting_is_one_line(stoker: Stoker) -> None:
    result = stoker("up", code=1, STOKER_PORT="many")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: The environment variable STOKER_PORT is 'many'")


def test_another_users_directory_is_explained(stoker: Stoker) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    stoker.data.mkdir(mode=0o700)
    stoker.cwd.chmod(0o755)
    # Imported before the change of user, who may not be allowed to read this checkout.
    program = "import os, sys; from stoker.cli.main import app; os.setgid(65534); os.setuid(65534); app()"
    result = subprocess.run(
        [sys.executable, "-c", program, "env", "--data", str(stoker.data)],
        capture_output=True,
        text=True,
        cwd="/",
        env=stoker.env,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: No permission for {stoker.data}")


def test_version(stoker: Stoker) -> None:
    versions = stoker.json("version")
    assert versions["modal"].startswith("1.")
    assert stoker("--version").stdout.startswith(f"stoker {versions['stoker']} ")


def test_colours_only_on_a_terminal(stoker: Stoker) -> None:
    assert "\x1b" not in stoker("env", code=1).stderr
    assert "\x1b[" in on_terminal(stoker)
    assert "\x1b[1;31m" not in on_terminal(stoker, NO_COLOR="1")


def on_terminal(stoker: Stoker, **env: str) -> str:
    """What `stoker env` without a server writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = stoker.env | {"TERM": "xterm", "STOKER_DATA": str(stoker.data)} | env
    process = subprocess.Popen(
        stoker.command("env"), stdout=theirs, stderr=theirs, stdin=theirs, cwd=stoker.cwd, env=environment
    )
    os.close(theirs)
    process.wait()
    text = b""
    while True:
        try:
            chunk = os.read(ours, 10_000)
        except OSError:  # the end of a terminal
            break
        if not chunk:
            break
        text += chunk
    os.close(ours)
    return text.decode()


def test_the_shell_completes_commands(stoker: Stoker) -> None:
    script = stoker("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    assert "complete -o default -F _stoker_completion stoker" in script
    result = subprocess.run(
        stoker.command(),
        capture_output=True,
        text=True,
        env=stoker.env | {"_STOKER_COMPLETE": "complete_bash", "COMP_WORDS": "stoker sta", "COMP_CWORD": "1"},
    )
    assert result.stdout.split() == ["status"]


@pytest.mark.parametrize(
    "value", ["plain", "with space", "quo'te", "back\\slash\\", '$HOME `id` "x"', "two\nlines", ""]
)
def test_assignments_survive_the_shell(value: str) -> None:
    shells = [(["sh", "-c"], Shell.SH)]
    if shutil.which("fish"):
        shells.append((["fish", "-c"], Shell.FISH))
    for command, shell in shells:
        line = assignment("STOKER_TEST_VALUE", value, shell)
        program = 'import json, os; print(json.dumps(os.environ["STOKER_TEST_VALUE"]))'
        output = subprocess.run(
            [*command, f"{line}\npython3 -c '{program}'"], capture_output=True, text=True, check=True
        )
        assert json.loads(output.stdout) == value

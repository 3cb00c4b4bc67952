"""Runs the real command in processes of its own, in an empty directory and without the settings of whoever runs the tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_LONG = 120


class Stoker:
    """The command `stoker` with one data directory. Servers that a test leaves running are stopped at its end."""

    def __init__(self, directory: Path) -> None:
        self.cwd = directory
        self.data = directory / "data"
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("STOKER_", "MODAL_", "NO_COLOR"))
        }
        self.env["HOME"] = str(directory)  # no ~/.modal.toml

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "stoker", *map(str, arguments)]

    def __call__(self, *arguments: object, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs to the end; checks the exit code unless it is None, and that no traceback was shown."""
        result = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            cwd=self.cwd,
            env=self.env | {"STOKER_DATA": str(self.data)} | env,
            timeout=_LONG,
        )
        assert "Traceback" not in result.stdout + result.stderr, result.stderr
        if code is not None:
            assert result.returncode == code, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def json(self, *arguments: object, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Starts without waiting for the end."""
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.cwd,
            env=self.env | {"STOKER_DATA": str(self.data)},
            **options,
        )

    def up(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A detached server of the process runtime on a free port."""
        return self("up", "--detach", "--port", 0, "--runtime", "process", *arguments)

    def pid(self) -> int | None:
        """The process that holds the data directory."""
        from stoker.datadir import DataDir

        return DataDir(self.data).holder()


@pytest.fixture
def stoker() -> Iterator[Stoker]:
    # Not below pytest's own directory: paths of unix sockets may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="stoker-cli-"))
    command = Stoker(directory)
    yield command
    if (pid := command.pid()) is not None:
        os.kill(pid, signal.SIGTERM)
        command("down", "--now", code=None)
    shutil.rmtree(directory)

"""The newest patch of every client that is supported, each in an environment of its own, against one server.

A plain run takes the oldest and the newest; `make matrix` takes all. The environments are kept in the user's cache directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from uv import find_uv_bin

from tests.conftest import RunningServer

_APP = Path(__file__).parent / "core.py"
_OLDEST, _BETWEEN, _NEWEST = "1.2", ("1.3", "1.4", "1.5"), "1.6"
_VERSIONS = [_OLDEST, *(pytest.param(v, marks=pytest.mark.matrix) for v in _BETWEEN), _NEWEST]
_LOOK_UP = """
import modal
print(modal.Function.from_name("matrix-core", "square").remote(9))
print(modal.Cls.from_name("matrix-core", "Counter")(start=1).add.remote(2))
"""


class Client:
    """One version of the client."""

    def __init__(self, minor: str) -> None:
        self.python = _environment(minor)
        self.version = self._run("-c", "import modal; print(modal.__version__)", env=dict(os.environ)).strip()

    def modal(self, server: RunningServer, *arguments: str) -> str:
        return self._run("-m", "modal", *arguments, env=server.env)

    def program(self, server: RunningServer, code: str) -> str:
        return self._run("-c", code, env=server.env)

    def _run(self, *arguments: str, env: dict[str, str]) -> str:
        # Without the path of this repository: the client must be the one of its own environment.
        env = {k: v for k, v in env.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [str(self.python), *arguments], env=env, cwd=_APP.parent, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def _environment(minor: str) -> Path:
    """The interpreter of an environment with the newest patch of a version, made on first use."""
    directory = (
        Path(platformdirs.user_cache_dir("stoker", appauthor=False))
        / "test-clients"
        / (f"{minor}-py{sys.version_info.major}.{sys.version_info.minor}")
    )
    python = directory / "bin" / "python"
    complete = directory / "complete"  # an interrupted installation must not be taken for a whole one
    if not complete.exists():
        uv = find_uv_bin()
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, directory], check=True, timeout=120
        )
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", python, f"modal=={minor}.*"], check=True, timeout=240
        )
        complete.touch()
    return python


@pytest.fixture(scope="module", params=_VERSIONS)
def client(request: pytest.FixtureRequest) -> Client:
    return Client(request.param)


def test_run(server: RunningServer, client: Client) -> None:
    """Calls, map, spawn, a class with a parameter, a volume, a secret, a dict and a queue; the container runs the caller's version."""
    out = client.modal(server, "run", "core.py")
    assert f"all well: client {client.version}, container {client.version}" in out


def test_deploy_and_look_up(server: RunningServer, client: Client) -> None:
    client.modal(server, "deploy", "core.py")
    assert client.program(server, _LOOK_UP).split() == ["81", "3"]


def test_commands(server: RunningServer, client: Client) -> None:
    assert "main" in client.modal(server, "environment", "list")
    for noun in ("volume", "dict", "queue", "secret"):
        client.modal(server, noun, "list", "--json")


def test_an_app_of_the_oldest_client_is_called_by_the_newest(server: RunningServer) -> None:
    """Deployed apps live for months, so their containers are older than their callers."""
    oldest, newest = Client(_OLDEST), Client(_NEWEST)
    oldest.modal(server, "deploy", "core.py")
    assert newest.program(server, _LOOK_UP).split() == ["81", "3"]
    newest.modal(server, "deploy", "core.py")
    assert oldest.program(server, _LOOK_UP).split() == ["81", "3"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("minor", [_OLDEST, *(pytest.param(v, marks=pytest.mark.matrix) for v in _BETWEEN)])
def test_run_in_a_sandbox(sandboxes: RunningServer, minor: str) -> None:
    """Older clients know older image builders alone. The newest is what all other tests of sandboxes use."""
    client = Client(minor)
    assert f"container {client.version}" in client.modal(sandboxes, "run", "core.py")

"""What the tests of scaling share: a server of their own whose one GPU is declared, and apps written on the spot."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.cli.client import find_server
from stoker.datadir import DataDir
from tests.conftest import RunningServer, start_server, stop_server


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one GPU, on which a function need not wait long for its fair share."""
    toml = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOKER_FAIR_AFTER_SECONDS", "4")
        running = start_server(toml / "data", "process", "--fake-gpus", "H100:1")
    yield running
    stop_server(running)


def status(server: RunningServer) -> dict[str, Any]:
    connection = find_server(DataDir(server.data))
    assert connection is not None
    document: dict[str, Any] = connection.get("/_stoker/status")
    return document


def deploy(server: RunningServer, directory: Path, name: str, program: str, *options: str) -> str:
    """Deploys an app; what the client said."""
    file = directory / f"{name}.py"
    file.write_text(f"import modal, os, pathlib, time\napp = modal.App({name!r})\n{program}")
    done = server.modal("deploy", *options, str(file))
    return done.stdout + done.stderr


def containers(server: RunningServer, app: str) -> list[str]:
    return [c["id"] for c in status(server)["containers"] if c["app"] == app]


def logs(server: RunningServer, app: str) -> str:
    return server.modal("app", "logs", app).stdout


def results(server: RunningServer, code: str) -> Any:
    """Runs a program with the client; what it printed as JSON."""
    return json.loads(server.python(f"import json, modal, time\nF = modal.Function.from_name\n{code}").stdout)


def wait_for(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)

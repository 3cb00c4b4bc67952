"""A layer of an image that the disk has changed under a server: found with its first use, and nothing new starts from it until it is mended."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_fsck import flip, fsck
from tests.conftest import STOKER, RunningServer, start_server, stop_server

CALL = "import modal; print(modal.Function.from_name('layered', '{}').remote())"


@pytest.fixture
def layered(sandboxes: RunningServer) -> RunningServer:
    """With the app, whose layer has digests."""
    sandboxes.modal("deploy", "layered.py", timeout=400)
    wait_for(lambda: list((sandboxes.data / "images/sums").glob(f"{content(sandboxes.data).parent.name}.gz")))
    return sandboxes


@pytest.mark.timeout(900)  # where it runs alone it builds an image, which takes minutes on a busy machine
def test_nothing_new_starts_from_a_damaged_layer(layered: RunningServer) -> None:
    stop_server(layered)
    flip(content(layered.data), 1)
    forget_looks(layered.data)
    start(layered)
    assert call(layered, "warm") == "wiole", "nobody waits for the check"
    [damaged] = wait_for(lambda: status(layered)["damaged"])
    assert damaged["kind"] == "layer" and "content has another SHA-256" in damaged["detail"]
    assert "stoker_damaged 1.0" in metrics(layered)
    assert "found damaged" in (layered.data / "logs" / "server.log").read_text()

    assert call(layered, "warm") == "wiole", "its container goes on"
    assert call(layered, "other") == "other"
    for refused in (
        layered.python(CALL.format("cold"), check=False),
        layered.modal("deploy", "layered.py", check=False),
    ):
        said = " ".join((refused.stdout + refused.stderr).split())
        assert refused.returncode and "is damaged on the server's disk" in said and "stoker fsck --fix" in said, said
    assert "DataLossError" in layered.python(CALL.format("cold"), check=False).stderr

    stop_server(layered)
    try:
        assert fsck(layered.data, "--fix", code=0, timeout=400)["damaged"] == 0
    finally:
        start(layered)
    layered.modal("deploy", "layered.py", timeout=400)
    assert call(layered, "warm") == "whole" and call(layered, "cold") == "started"
    assert status(layered)["damaged"] == [] and "stoker_damaged 0.0" in metrics(layered)


def content(data: Path) -> Path:
    """The file, in its layer."""
    [found] = (data / "images/layers").glob("*/content")
    return found


def forget_looks(data: Path) -> None:
    """As if they were a day ago."""
    for path in (data / "images/sums").glob("*.checked"):
        path.unlink()


def start(server: RunningServer) -> None:
    start_server(server.data, "runsc", "--fake-gpus", "H100:1,L40S:1", container_lost_seconds="20")


def call(server: RunningServer, function: str) -> str:
    return server.python(CALL.format(function), timeout=200).stdout.strip()


def status(server: RunningServer) -> Any:
    done = subprocess.run(
        [*STOKER, "status", "--json", "--data", str(server.data)], capture_output=True, text=True, timeout=60
    )
    return json.loads(done.stdout)


def metrics(server: RunningServer) -> str:
    info = json.loads((server.data / "server.json").read_text())
    token = json.loads((server.data / "token.json").read_text())
    request = urllib.request.Request(f"{info['http_url']}/metrics")
    request.add_header("Authorization", f"Bearer {token['id']}:{token['secret']}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def wait_for(condition: Any) -> Any:
    deadline = time.monotonic() + 240
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found

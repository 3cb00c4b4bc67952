"""What is measured: Stoker with the echo app, and peers in an environment of their own, each started and ended as a context."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = HERE / "peers"
STOKER = [sys.executable, "-m", "stoker.cli.main"]
_NEEDED = ["ray[serve]==2.60.0", "litserve==0.2.19", "bentoml==1.4.39", "fastapi", "uvicorn[standard]"]
_FIRST_PORT = 18400
_PLACES = """
import modal, json
from modal._utils.async_utils import synchronizer
from modal.client import _Client
from modal_proto import api_pb2

@synchronizer.create_blocking
async def place(function_id):
    client = await _Client.from_env()
    found = await client.stub.FlashContainerList(api_pb2.FlashContainerListRequest(function_id=function_id))
    return f"http://{found.containers[0].host}:{found.containers[0].port}/"

server = modal.Server.from_name("bench-http", "Raw")
echo = modal.Function.from_name("bench-http", "echo")
print(json.dumps([echo.get_web_url(), server.get_url() + "/", place(server.object_id)]))
"""


class NotRunning(Exception):
    """Why a target cannot be measured."""


@contextlib.contextmanager
def stoker(runtime: str) -> Iterator[tuple[dict[str, str], int]]:
    """The URLs of a server with the echo app by name, and the server's process id."""
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as data:
        up = [*STOKER, "up", "--detach", "--data", data, "--port", "0", "--runtime", runtime]
        subprocess.run(up, check=True, stdout=subprocess.DEVNULL)
        try:
            info = json.loads((Path(data) / "server.json").read_text())
            token = json.loads((Path(data) / "token.json").read_text())
            env = os.environ | {
                "MODAL_SERVER_URL": info["url"],
                "MODAL_TOKEN_ID": token["id"],
                "MODAL_TOKEN_SECRET": token["secret"],
            }
            deploy = [sys.executable, "-m", "modal", "deploy", str(HERE / "app.py")]
            subprocess.run(deploy, env=env, check=True, stdout=subprocess.DEVNULL)
            yield _urls(env, info["http_url"]), info["pid"]
        finally:
            subprocess.run([*STOKER, "down", "--data", data], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def peer(name: str) -> Iterator[str]:
    """The URL of a peer that answers."""
    environment = _environment()
    port = _FIRST_PORT + sorted(PEER_COMMANDS).index(name)
    command, path = PEER_COMMANDS[name]
    command = [part.format(bin=environment / "bin", port=port) for part in command]
    env = os.environ | {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "RAY_raylet_start_wait_time_s": "120"}
    process = subprocess.Popen(
        command, cwd=PEERS, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}{path}"
        _await_answer(url, process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


PEER_COMMANDS: dict[str, tuple[list[str], str]] = {
    "uvicorn": (["{bin}/python", "bare.py", "{port}"], "/"),
    "LitServe": (["{bin}/python", "lit.py", "{port}"], "/echo"),
    "BentoML": (["{bin}/bentoml", "serve", "bento:Echo", "--host", "127.0.0.1", "--port", "{port}"], "/echo"),
    "Ray Serve": (["{bin}/python", "rays.py", "{port}"], "/"),
}


def _urls(env: dict[str, str], base: str) -> dict[str, str]:
    told = subprocess.run([sys.executable, "-c", _PLACES], env=env, stdout=subprocess.PIPE, text=True)
    for _ in range(100):
        if told.returncode == 0:
            break
        time.sleep(1.0)  # the container is still starting
        told = subprocess.run(
            [sys.executable, "-c", _PLACES], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    endpoint, server, direct = json.loads(told.stdout.splitlines()[-1])
    urls = {"fastapi_endpoint": endpoint, "@app.server": server, "its app directly": direct}
    for url in urls.values():
        _await_answer(url, None)
    return urls


def _await_answer(url: str, process: subprocess.Popen[Any] | None) -> None:
    deadline = time.monotonic() + 120
    while True:
        if process is not None and process.poll() is not None:
            raise NotRunning(f"its server ended with {process.returncode}")
        request = urllib.request.Request(url, b'{"s":"hello"}', {"Content-Type": "application/json"})
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60) as answer:
            if answer.read().replace(b" ", b"") == b'{"s":"hello"}':
                return
        if time.monotonic() > deadline:
            raise NotRunning("it does not answer")
        time.sleep(0.2)


def _environment() -> Path:
    """A virtual environment with the peers, made on first use: they are no part of the project."""
    path = Path(".stoker/bench-http").absolute()
    python = path / "bin" / "python"
    if not (path / "ready").exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", "3.11", path], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *_NEEDED], check=True)
        (path / "ready").touch()
    return path

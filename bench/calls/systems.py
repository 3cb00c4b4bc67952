"""The systems that are measured, each from its start to its end: Stoker, and peers in an environment of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = HERE / "peers"
STOKER = [sys.executable, "-m", "stoker.cli.main"]
_NEEDED = ["ray==2.60.0", "celery[redis]==5.7.0"]

Results = dict[str, dict[str, float]]


class Failed(Exception):
    """A system did not get through its measurement."""


def stoker(runtime: str, inputs: int, rows: str) -> Results:
    """What `measure.py` finds with a server of its own, and the floor of client and container (`floor.py`)."""
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
            results = _json([sys.executable, str(HERE / "measure.py"), str(info["pid"]), str(inputs), rows], env)
        finally:
            subprocess.run([*STOKER, "down", "--data", data], check=True, stdout=subprocess.DEVNULL)
    return results


def floor() -> dict[str, float]:
    found: dict[str, float] = _json([sys.executable, str(HERE / "floor.py")], dict(os.environ))
    return found


def ray(inputs: int) -> Results:
    python = _environment() / "bin" / "python"
    # Started by us and not by `uv run`, for which Ray would make environments of its own.
    env = os.environ | {
        "RAY_DISABLE_MEMORY_MONITOR": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_raylet_start_wait_time_s": "180",
    }
    found = {}
    for workers in (1, 2):
        found[workers] = _json([str(python), str(PEERS / "ray_calls.py"), str(workers), str(inputs)], env)
    return _named(found)


def celery(inputs: int) -> Results:
    """With Redis, which keeps nothing on disk here."""
    if shutil.which("redis-server") is None:
        sys.exit(
            "Celery needs redis-server, which is not installed: apt install redis-server (or leave it out with --only)"
        )
    bin_directory = _environment() / "bin"
    found = {}
    for workers in (1, 2):
        port = _free_port()
        env = os.environ | {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "PYTHONPATH": str(PEERS)}
        redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        worker = [str(bin_directory / "celery"), "-A", "celery_app", "worker", "-c", str(workers)]
        worker += ["--without-gossip", "--without-mingle", "--loglevel", "ERROR"]
        with tempfile.TemporaryDirectory() as scratch, _running(redis, env, scratch), _running(worker, env, scratch):
            command = [str(bin_directory / "python"), str(PEERS / "celery_calls.py"), str(workers), str(inputs)]
            found[workers] = _json(command, env)
    return _named(found)


def _named(found: dict[int, Results]) -> Results:
    """The rows under the names that `measure.py` gives them."""
    return {
        "sequential .remote": found[1]["sequential"],
        ".map, 1 container": found[1]["map"],
        ".map, 2 containers": found[2]["map"],
        "500 concurrent .remote.aio": found[1]["concurrent"],
    }


def _environment() -> Path:
    """The virtual environment of the peers; the first run makes it."""
    place = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "stoker-bench-calls"
    done = place / "needed"
    if not done.exists() or done.read_text() != repr(_NEEDED):
        print(f"Making an environment for {' and '.join(_NEEDED)} in {place} ...", file=sys.stderr)
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(place / "bin" / "python"), *_NEEDED]
        subprocess.run(install, check=True)
        done.write_text(repr(_NEEDED))
    return place


@contextlib.contextmanager
def _running(command: list[str], env: dict[str, str], directory: str) -> Iterator[None]:
    process = subprocess.Popen(
        command, cwd=directory, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _json(command: list[str], env: dict[str, str]) -> Any:
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])

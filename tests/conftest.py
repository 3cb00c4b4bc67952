"""A running server and the unmodified client, as every test of behaviour uses them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from stoker.services.pools.pool_faults import BROKEN
from tests import quick, workers

hypothesis.settings.register_profile("stoker", deadline=None)  # how fast a machine is is no property of the code
hypothesis.settings.load_profile("stoker")

STOKER = [sys.executable, "-m", "stoker.cli.main"]
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started in the background of a shell: what the tests start must still be able to get a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

APPS = Path(__file__).parent / "apps"


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selection = quick.Selection()
    for item in items:
        if selection.is_quick(item):
            item.add_marker("quick")
    if hasattr(config, "workerinput"):  # one of several workers
        items[:] = workers.in_order(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with quick.no_processes() if item.config.option.markexpr == "quick" else contextlib.nullcontext():
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> workers.ByArea:
    config.option.loadscopereorder = False  # they come in order already
    return workers.ByArea(config, log)


@dataclass
class RunningServer:
    """A server started by `stoker up --detach`, and the client pointed at it."""

    data: Path
    runtime: str

    @property
    def pid(self) -> int:
        return int(json.loads((self.data / "server.json").read_text())["pid"])

    @property
    def env(self) -> dict[str, str]:
        info = json.loads((self.data / "server.json").read_text())
        token = json.loads((self.data / "token.json").read_text())
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MODAL_")}
        return clean | {
            "MODAL_SERVER_URL": info["url"],
            "MODAL_TOKEN_ID": token["id"],
            "MODAL_TOKEN_SECRET": token["secret"],
            "MODAL_CONFIG_PATH": str(self.data / "no-modal.toml"),
            "COLUMNS": "200",
        }

    def modal(
        self, *arguments: str, timeout: float = 120, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs the official command line. With `check`, a failure fails the test and shows all output."""
        command = [sys.executable, "-m", "modal", *arguments]
        done = subprocess.run(command, env=self.env | env, capture_output=True, text=True, timeout=timeout, cwd=APPS)
        if check and done.returncode:
            pytest.fail(
                f"{' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log_tail()}"
            )
        return done

    def python(self, code: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a program that uses the official client as a library."""
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.env, capture_output=True, text=True, timeout=timeout, cwd=APPS
        )
        if check and done.returncode:
            pytest.fail(f"the program ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log_tail()}")
        return done

    def stop_containers(self, app: str) -> None:
        """Stops all containers of a deployed app, so that its next call starts cold."""
        for container in json.loads(self.modal("container", "list", "--json").stdout):
            if container["app_name"] == app:
                self.modal("container", "stop", "--yes", container["container_id"])

    def log_tail(self) -> str:
        log = self.data / "logs" / "server.log"
        return log.read_text()[-6000:] if log.exists() else ""


def free_port() -> int:
    """A port that stays free until it is used, and between two uses: none of those that the system gives to connections and to servers."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port was found")


def start_server(data: Path, runtime: str, *flags: str, port: int = 0, **settings: str) -> RunningServer:
    """settings: those that are not flags."""
    command = [*STOKER, "up", "--detach", "--data", str(data), "--port", str(port), "--runtime", runtime, *flags]
    # The store of the tests' buckets is a program on this machine.
    settings = {"local_bucket_endpoints": '["127.0.0.1"]', "validate_pools": "1", **settings}
    env = os.environ | {f"STOKER_{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    if done.returncode:
        pytest.fail(f"stoker up ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return RunningServer(data, runtime)


def stop_server(server: RunningServer) -> None:
    subprocess.run([*STOKER, "down", "--data", str(server.data)], capture_output=True, timeout=120)
    log = server.data / "logs" / "server.log"
    broken = [line for line in log.read_text().splitlines() if BROKEN in line] if log.exists() else []
    if broken:
        pytest.fail("\n".join(["The server found its books wrong:", *broken]))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose containers are plain processes: starts fast, needs nothing."""
    running = start_server(tmp_path_factory.mktemp("process"), "process", "--fake-gpus", "H100:1")
    yield running
    stop_server(running)


@pytest.fixture(scope="session")
def torch_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of servers that need the diffusion example's image, which takes minutes to build and is built once.

    STOKER_TEST_DATA names a directory in which it is kept between runs."""
    kept = os.environ.get("STOKER_TEST_DATA")
    return Path(kept).absolute() / "diffusion" if kept else tmp_path_factory.mktemp("diffusion")


@pytest.fixture(scope="session")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with real gVisor sandboxes and real images."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("sandboxes need root on Linux")
    running = start_server(
        tmp_path_factory.mktemp("runsc"), "runsc", "--fake-gpus", "H100:1,L40S:1", container_lost_seconds="20"
    )
    yield running
    stop_server(running)

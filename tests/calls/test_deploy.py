"""Deployed apps: found, called, replaced, watched, stopped, and still there after the server was away."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stoker.cli.client import find_server
from stoker.datadir import DataDir
from stoker.services.files.transfer import PREFIX
from tests.conftest import APPS, RunningServer, start_server, stop_server

_SHOP = (APPS / "shop.py").read_text()
_PRELUDE = """
import modal
F = lambda name: modal.Function.from_name("shop", name)
"""


@pytest.fixture
def shop(server: RunningServer, tmp_path: Path) -> Iterator[RunningServer]:
    _deploy(server, tmp_path, 1)
    yield server
    (tmp_path / "release").touch()
    server.modal("app", "stop", "--yes", "shop", check=False)


def test_apps_may_have_python_3_10(server: RunningServer, tmp_path: Path) -> None:
    program = tmp_path / "older.py"
    program.write_text(
        "import modal\n"
        "app = modal.App('older')\n"
        "for image in (\n"
        "    modal.Image.debian_slim(python_version='3.10'),\n"
        "    modal.Image.from_registry('ubuntu:22.04', add_python='3.10'),\n"
        "):\n"
        "    @app.function(image=image, serialized=True, name=f'f{len(app.registered_functions)}')\n"
        "    def f():\n"
        "        pass\n"
    )
    server.modal("deploy", str(program))
    server.modal("app", "stop", "--yes", "older")


def test_lookups(shop: RunningServer) -> None:
    code = """
call = F("version").spawn()
print(modal.FunctionCall.from_id(call.object_id).get(timeout=60))
clerk = modal.Cls.from_name("shop", "Clerk")
print(clerk(name="Ada").greet.remote())
print(clerk(name="Bob", desk=7).greet.remote())
"""
    assert _python(shop, code) == ["1", "Ada at desk 1, version 1", "Bob at desk 7, version 1"]


def test_a_deployment_replaces_the_code_and_lets_running_inputs_finish(shop: RunningServer, tmp_path: Path) -> None:
    code = f"""
print(F("version").remote(), F("version").hydrate().object_id)
print(F("hold").spawn({str(tmp_path)!r}, "old").object_id)
"""
    before, call_id = _python(shop, code)
    _wait_for(lambda: _begun(tmp_path, "old"))
    _deploy(shop, tmp_path, 2)
    code = """
print(F("version").remote(), F("version").hydrate().object_id)
print(modal.Cls.from_name("shop", "Clerk")(name="Ada").greet.remote())
"""
    after, greeting = _python(shop, code)
    assert before.split()[0] == "1"
    assert after == f"2 {before.split()[1]}"  # other code, the same function
    assert greeting == "Ada at desk 1, version 2"
    assert not (tmp_path / "release").exists()
    (tmp_path / "release").touch()
    assert _python(shop, f"print(modal.FunctionCall.from_id({call_id!r}).get(timeout=60))") == ["1"]
    assert len(_begun(tmp_path, "old")) == 1


def test_a_look_up_can_name_a_version(shop: RunningServer, tmp_path: Path) -> None:
    _deploy(shop, tmp_path, 2)
    code = """
at = lambda version: modal.Function.from_name("shop", "version", version=version)
print(at(1).remote(), at(2).remote(), F("version").remote())
print(modal.Cls.from_name("shop", "Clerk", version=1)(name="Ada").greet.remote())
try:
    at(7).remote()
except modal.exception.NotFoundError as error:
    print(error)
modal.App.lookup("only-looked-up", create_if_missing=True)
try:
    modal.Function.from_name("only-looked-up", "f", version=1).hydrate()
except modal.exception.NotFoundError as error:
    print(error)
"""
    numbers, greeting, refusal, never = _python(shop, code)
    assert (numbers, greeting) == ("1 2 2", "Ada at desk 1, version 1")
    assert "has no version v7; it has v1 to v2" in refusal
    assert "has no version v1; it was never deployed" in never


def test_a_deployment_that_fails_changes_nothing(shop: RunningServer, tmp_path: Path) -> None:
    # The second function is refused, after the first one was already created anew.
    broken = (
        _SHOP.replace("VERSION = 1", "VERSION = 3")
        + '\n\n@app.function(image=image, secrets=[modal.Secret.from_name("no-such-secret")])\ndef zz() -> None: ...\n'
    )
    (tmp_path / "broken.py").write_text(broken)
    failed = shop.modal("deploy", str(tmp_path / "broken.py"), check=False)
    assert failed.returncode == 1
    assert "no-such-secret" in failed.stdout + failed.stderr
    assert _python(shop, "print(F('version').remote())") == ["1"]


def test_what_the_command_line_shows(shop: RunningServer) -> None:
    assert _python(shop, "print(F('version').remote())") == ["1"]
    (row,) = [a for a in _json(shop, "app", "list") if a["description"] == "shop" and a["state"] == "deployed"]
    assert row["tasks"] == "1"
    assert shop.modal("app", "logs", "shop").stdout == "this is version 1\n"
    (container,) = [c for c in _json(shop, "container", "list") if c["app_name"] == "shop"]
    assert container["app_id"] == row["app_id"]
    container_id = container["container_id"]
    assert shop.modal("container", "logs", container_id).stdout == "this is version 1\n"

    following = _start(shop, "app", "logs", "-f", "shop")
    lines = _Lines(following)
    lines.wait_for("this is version 1")
    assert _python(shop, "print(F('version').remote())") == ["1"]
    lines.wait_for("this is version 1")

    shop.modal("container", "stop", "--yes", container_id)
    _wait_for(lambda: container_id not in _containers(shop, "shop"))
    assert _python(shop, "print(F('version').remote())") == ["1"]

    shop.modal("app", "stop", "--yes", "shop")
    following.wait(30)  # its log is at its end
    states = [a["state"] for a in _json(shop, "app", "list") if a["app_id"] == row["app_id"]]
    assert states == ["stopped"]
    assert shop.modal("app", "logs", "shop").stdout.splitlines() == ["this is version 1"] * 3
    gone = shop.python(_PRELUDE + "F('version').remote()", check=False)
    assert "There is no deployed app 'shop'" in gone.stderr


def test_ctrl_c_ends_the_app_and_its_containers(server: RunningServer, tmp_path: Path) -> None:
    running = _start(server, "run", "shop.py", "--directory", str(tmp_path), "--name", "it")
    _wait_for(lambda: _begun(tmp_path, "it"))
    app_id = _ephemeral(server)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=60)
    assert "Traceback" not in said
    _wait_for(lambda: app_id not in _alive(server))
    assert not _containers(server, "shop")


def test_a_detached_run_outlives_its_client(server: RunningServer, tmp_path: Path) -> None:
    running = _start(server, "run", "--detach", "shop.py", "--directory", str(tmp_path), "--name", "it")
    _wait_for(lambda: _begun(tmp_path, "it"))
    app_id = _ephemeral(server)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert app_id in _alive(server)
    assert len(_containers(server, "shop")) == 1
    (tmp_path / "release").touch()
    _wait_for(lambda: app_id not in _alive(server))
    assert len(_begun(tmp_path, "it")) == 1


def test_serve_reloads_changed_code(server: RunningServer, tmp_path: Path) -> None:
    code = """
import modal
app = modal.App("served")
@app.function(image=modal.Image.debian_slim(python_version="3.11"), min_containers=1, serialized=False)
def show() -> None: ...
if not modal.is_local():
    print("serving version 1", flush=True)
"""
    file = tmp_path / "served.py"
    file.write_text(code)
    serving = _start(server, "serve", str(file))
    lines = _Lines(serving)
    lines.wait_for("serving version 1")
    app_id = _ephemeral(server)
    file.write_text(code.replace("version 1", "version 2"))
    lines.wait_for("serving version 2")
    assert _ephemeral(server) == app_id
    serving.send_signal(signal.SIGINT)
    serving.wait(60)
    _wait_for(lambda: app_id not in _alive(server))


def test_a_killed_client_ends_its_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_CLIENT_LOST_SECONDS", "6")
    server = start_server(tmp_path / "data", "process")
    try:
        running = _start(server, "run", "shop.py", "--directory", str(tmp_path), "--name", "it")
        _wait_for(lambda: _begun(tmp_path, "it"))
        app_id = _ephemeral(server)
        running.kill()
        running.communicate()
        _wait_for(lambda: app_id not in _alive(server))
        assert not _containers(server, "shop")
        assert not _processes(server.data)
        assert "no heartbeat for 6 s" in server.modal("app", "logs", app_id).stdout
    finally:
        stop_server(server)


def test_restarts_of_the_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = start_server(data, "process")
    try:
        _deploy(server, tmp_path, 1)
        code = """
done = F("version").spawn()
assert done.get(timeout=60) == 1
print(done.object_id)
"""
        (finished,) = _python(server, code)
        stop_server(server)
        server = start_server(data, "process")
        code = f"""
print(modal.FunctionCall.from_id({finished!r}).get(timeout=0))
print(F("version").remote())
"""
        assert _python(server, code) == ["1", "1"]
        pending = _python(
            server, f"print(*[F('hold').spawn({str(tmp_path)!r}, f'it{{i}}').object_id for i in range(3)])"
        )[0].split()
        _wait_for(lambda: _begun(tmp_path, "it"))
        killed = psutil.Process(server.pid)
        killed.kill()
        killed.wait(10)
        assert _processes(data)
        server = start_server(data, "process")
        (tmp_path / "release").touch()
        code = f"print(*[modal.FunctionCall.from_id(i).get(timeout=60) for i in {pending!r}])"
        assert _python(server, code) == ["1 1 1"]
        assert server.modal("app", "logs", "shop").stdout.count("this is version 1") == 2
    finally:
        stop_server(server)
    assert not _processes(data)


class _Lines:
    """What a running command prints, read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait_for(self, text: str) -> None:
        """Reads on until a line with `text` has come. Fails at the end of the output."""
        assert self._process.stdout is not None
        seen = []
        for line in self._process.stdout:
            seen.append(line)
            if text in line:
                return
        pytest.fail(f"{text!r} never came; the output was: {''.join(seen)}")


def _deploy(server: RunningServer, directory: Path, version: int) -> None:
    file = directory / "shop.py"
    file.write_text(_SHOP.replace("VERSION = 1", f"VERSION = {version}"))
    server.modal("deploy", str(file))


def _python(server: RunningServer, code: str) -> list[str]:
    return server.python(_PRELUDE + code).stdout.splitlines()


def _json(server: RunningServer, *arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(server.modal(*arguments, "--json").stdout)
    return rows


def _start(server: RunningServer, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "modal", *arguments],
        env=server.env | {"PYTHONUNBUFFERED": "1"},
        cwd=APPS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _alive(server: RunningServer) -> dict[str, str]:
    """Apps that are not over, by id, with their state."""
    return {str(app["id"]): str(app["state"]) for app in _status(server)["apps"]}


def _ephemeral(server: RunningServer) -> str:
    """The app of the one client that runs."""
    (app_id,) = [app_id for app_id, state in _alive(server).items() if state in ("ephemeral", "detached")]
    return app_id


def _containers(server: RunningServer, app_name: str) -> list[str]:
    return [str(c["id"]) for c in _status(server)["containers"] if c["app"] in (app_name, f"{app_name}.py")]


def _status(server: RunningServer) -> dict[str, Any]:
    connection = find_server(DataDir(server.data))
    assert connection is not None
    status: dict[str, Any] = connection.get(f"{PREFIX}/status")
    return status


def _processes(data: Path) -> list[int]:
    """The processes of containers of a server, also of one that is gone."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(data) in process.environ().get("STOKER_CONTAINER", "") and process.status() != "zombie":
                found.append(process.pid)
    return found


def _begun(directory: Path, name: str) -> list[Path]:
    return list(directory.glob(f"{name}*.begun"))


def _wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)

"""What goes wrong is said clearly where it is asked for, and the server goes on."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import STOKER, RunningServer

_PRELUDE = """
import modal
F = lambda name: modal.Function.from_name("failures", name)
def failure(call):
    try:
        call()
    except Exception as error:
        return error
    raise SystemExit("it was expected to fail")
"""


_HEALTHY = "\nassert F('ok').remote(1) == 2"


@pytest.fixture(scope="module")
def deployed(server: RunningServer) -> Iterator[RunningServer]:
    server.modal("deploy", "failures.py")
    yield server
    _run(server, "")


def test_functions_that_leave_the_interpreter(deployed: RunningServer) -> None:
    code = "print(list(F('leave_at').starmap([(i, 5) for i in range(12)], return_exceptions=True)))"
    results = _run(deployed, code)
    assert results.startswith("[0, 1, 2, 3, 4, RemoteError('The container exited by itself with code 3.")
    assert "the input is given up" in results
    assert results.rstrip().endswith("6, 7, 8, 9, 10, 11]")
    stats = json.loads(deployed.modal("function", "stats", "failures/leave_at", "--json").stdout)
    assert stats["container_error_count"] >= 3, stats
    with sqlite3.connect(deployed.data / "stoker.db") as books:
        (detail,) = books.execute("SELECT detail FROM tasks WHERE exit = 'crashed'").fetchone()
    assert detail == "The container exited by itself with code 3."


def test_timeout_of_one_call(deployed: RunningServer) -> None:
    code = """
error = failure(lambda: F("sleep").remote(30))
print(type(error).__name__, error)
print(F("sleep").remote(0.01))
"""
    assert _run(deployed, code).splitlines() == [
        "FunctionTimeoutError The input ran longer than its timeout of 1 s.",
        "slept",
    ]


def test_values_that_do_not_travel(deployed: RunningServer) -> None:
    code = """
import threading
print("result", repr(failure(lambda: F("returns_lock").remote())))
print("raised", repr(failure(lambda: F("raises_unpicklable").remote())))
print("argument", repr(failure(lambda: F("take").remote(threading.Lock()))))
print("arity", repr(failure(lambda: F("ok").remote(1, 2, 3))))
print("module", repr(failure(lambda: F("take").remote(__import__("only_here").Thing()))))
"""
    module = deployed.data / "only-the-client-has-this" / "only_here.py"
    module.parent.mkdir()
    module.write_text("class Thing:\n    pass\n")
    lines = _run(deployed, f"import sys; sys.path.insert(0, {str(module.parent)!r})\n{code}").splitlines()
    said = dict(line.split(" ", 1) for line in lines)
    assert "cannot pickle '_thread.lock' object" in said["result"]
    assert "with a lock inside" in said["raised"]
    assert "cannot pickle '_thread.lock' object" in said["argument"]
    assert "positional argument" in said["arity"]
    assert "only_here" in said["module"]


def test_missing_gpu_names_itself_and_the_flag(deployed: RunningServer) -> None:
    said = _run(deployed, "print(failure(lambda: F('on_missing_gpu').remote()))")
    assert "GPU of type A100" in said
    assert "--fake-gpus A100:1" in said


def test_enter_hook_that_raises(deployed: RunningServer) -> None:
    code = "print(repr(failure(lambda: modal.Cls.from_name('failures', 'BrokenEnter')().work.remote())))"
    assert _run(deployed, code).strip() == "RuntimeError('the model file is missing')"
    assert "entering" in deployed.modal("app", "logs", "failures").stdout


def test_app_that_raises_at_import(deployed: RunningServer) -> None:
    remotely = deployed.modal("run", "broken_import.py", check=False)
    assert remotely.returncode == 1
    assert "RuntimeError: no such library in the container" in remotely.stdout + remotely.stderr
    locally = deployed.modal("run", "broken_locally.py", check=False)
    assert locally.returncode == 1
    assert "RuntimeError: cannot be imported anywhere" in locally.stdout + locally.stderr


def test_wrong_names_are_answered_with_what_there_is(deployed: RunningServer) -> None:
    code = """
print(failure(lambda: F("nope").remote()))
print(failure(lambda: F("BrokenEnter").remote()))
print(failure(lambda: modal.Function.from_name("nope", "ok").remote()))
print(failure(lambda: modal.Function.from_name("failures", "ok", environment_name="nope").remote()))
print(failure(lambda: modal.Cls.from_name("failures", "Nope")().work.remote()))
print(failure(lambda: modal.FunctionCall.from_id("fc-nope").get()))
print(failure(lambda: modal.Volume.from_name("nope").listdir("/")))
"""
    function, cls_as_function, app, environment, cls, call, volume = _run(deployed, code).splitlines()
    assert "has no function 'nope'" in function
    assert "leave_at, ok, on_missing_gpu" in function
    assert "modal.Cls" in cls_as_function
    assert "There is no deployed app 'nope'" in app
    assert "modal deploy" in app
    assert "There is no environment 'nope'" in environment
    assert "It has: main" in environment
    assert "has no class 'Nope'" in cls
    assert "BrokenEnter" in cls
    assert "Function call 'fc-nope' not found" in call
    assert "modal volume create nope" in volume


@pytest.mark.parametrize("token", [{"MODAL_TOKEN_SECRET": "as-wrong"}, {"MODAL_TOKEN_ID": "ak-unknown"}])
def test_wrong_token(deployed: RunningServer, token: dict[str, str]) -> None:
    done = deployed.modal("app", "list", check=False, **token)
    assert done.returncode == 1
    said = _words(done)
    assert "token" in said.lower()
    assert "stoker env" in said
    assert "Traceback" not in said


def test_no_token(deployed: RunningServer) -> None:
    env = {k: v for k, v in deployed.env.items() if not k.startswith("MODAL_TOKEN")}
    done = subprocess.run(
        [sys.executable, "-m", "modal", "app", "list"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "token" in _words(done).lower()


def test_commands_without_a_server(tmp_path: Path) -> None:
    for command in ("env", "status"):
        done = subprocess.run([*STOKER, command, "--data", str(tmp_path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "stoker up" in _words(done)


def test_disk_nearly_full(tmp_path: Path) -> None:
    done = _up(tmp_path / "data", STOKER_MIN_FREE_DISK_MIB=str(1 << 40))
    assert done.returncode == 1
    said = _words(done)
    assert "MiB are free" in said
    assert "min_free_disk_mib" in said
    assert "Traceback" not in said


def test_two_servers_on_one_data_directory(deployed: RunningServer) -> None:
    done = _up(deployed.data)
    assert done.returncode == 1
    assert f"pid {deployed.pid}" in _words(done)


def test_port_that_is_taken(deployed: RunningServer, tmp_path: Path) -> None:
    port = deployed.env["MODAL_SERVER_URL"].rpartition(":")[2]
    done = _up(tmp_path / "data", "--port", port)
    assert done.returncode == 1
    said = _words(done)
    assert port in said
    assert "--port" in said
    assert "Traceback" not in said


def _up(data: Path, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`stoker up`, which is expected to fail at once."""
    flags = flags or ("--port", "0")
    command = [*STOKER, "up", "--data", str(data), "--runtime", "process", *flags]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=60)


def _run(server: RunningServer, code: str) -> str:
    """A program that uses the app; at its end a good call must work."""
    return server.python(_PRELUDE + code + _HEALTHY).stdout


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """All that was printed, as one line without boxes."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", done.stdout + done.stderr)

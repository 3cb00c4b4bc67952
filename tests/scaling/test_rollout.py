"""A deployment while the function is in use; containers that are asked to go."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunningServer
from tests.scaling.conftest import containers, deploy, logs, results, wait_for

_APP = """
@app.cls(serialized=True, max_containers=1)
class Worker:
    @modal.enter()
    def enter(self):
        ENTER
    @modal.method()
    def version(self):
        time.sleep(0.2)
        return VERSION
"""
_STREAM = """
import concurrent.futures, subprocess, sys
worker = modal.Cls.from_name("roll", "Worker")()
worker.version.remote()
seen, done = [], False

def call_on_and_on():
    while not done:
        begun = time.time()
        seen.append((worker.version.remote(), time.time() - begun))

with concurrent.futures.ThreadPoolExecutor() as pool:
    callers = [pool.submit(call_on_and_on) for _ in range(3)]
    subprocess.run([sys.executable, "-m", "modal", "deploy", PROGRAM], stdout=subprocess.DEVNULL, check=True)
    until = time.time() + SECONDS
    while time.time() < until and seen[-1][0] != 2:
        time.sleep(0.1)
    done = True
print(json.dumps(seen))
"""


def stream(server: RunningServer, directory: Path, enter: str, seconds: float) -> list[tuple[int, float]]:
    """(version, seconds) of calls of three callers, while version 2 is deployed over version 1."""
    deploy(server, directory, "roll", _APP.replace("ENTER", "pass").replace("VERSION", "1"))
    program = directory / "new" / "roll.py"
    program.parent.mkdir(exist_ok=True)
    text = _APP.replace("ENTER", enter).replace("VERSION", "2")
    program.write_text(f"import modal, os, pathlib, time\napp = modal.App('roll')\n{text}")
    code = _STREAM.replace("PROGRAM", repr(str(program))).replace("SECONDS", str(seconds))
    found: list[tuple[int, float]] = results(server, code)
    return found


def test_nobody_waits_for_the_start_of_a_new_version(small: RunningServer, tmp_path: Path) -> None:
    try:
        seen = stream(small, tmp_path, "time.sleep(15)", 60)
        assert seen[0][0] == 1 and seen[-1][0] == 2
        assert max(waited for _, waited in seen) < 14, "the new version needs fifteen seconds to start"
    finally:
        small.modal("app", "stop", "--yes", "roll")


def test_a_version_that_does_not_start_replaces_nothing_that_is_in_use(small: RunningServer, tmp_path: Path) -> None:
    try:
        seen = stream(small, tmp_path, "raise RuntimeError('no')", 4)
        assert {version for version, _ in seen} == {1}
        assert "The new version did not start" in logs(small, "roll")
    finally:
        small.modal("app", "stop", "--yes", "roll")


def test_a_container_that_is_stopped_returns_its_input_and_leaves_in_order(
    small: RunningServer, tmp_path: Path
) -> None:
    """`modal container stop`: the input runs again elsewhere, and exit hooks run."""
    program = f"""
@app.cls(serialized=True, max_containers=1)
class Worker:
    @modal.exit()
    def leave(self):
        pathlib.Path({str(tmp_path)!r}, "left").touch()
    @modal.method()
    def work(self):
        begun = pathlib.Path({str(tmp_path)!r}, "begun")
        again = begun.exists()
        begun.touch()
        time.sleep(0 if again else 60)
        return again
"""
    deploy(small, tmp_path, "halt", program)
    try:
        call = results(small, "print(json.dumps(modal.Cls.from_name('halt', 'Worker')().work.spawn().object_id))")
        wait_for(lambda: (tmp_path / "begun").exists())
        (first,) = containers(small, "halt")
        small.modal("container", "stop", "--yes", first)
        assert results(small, f"print(json.dumps(modal.FunctionCall.from_id({call!r}).get(timeout=60)))") is True
        wait_for(lambda: first not in containers(small, "halt"), timeout=25)
        assert (tmp_path / "left").exists()
    finally:
        small.modal("app", "stop", "--yes", "halt")


_ANSWERING = """
@app.function(serialized=True, min_containers=1)
def answer():
    return VERSION
@app.function(serialized=True)
def slow():
    pathlib.Path(DIRECTORY, "begun").touch()
    time.sleep(VERSION == 1 and 60)
    return VERSION
"""


def test_recreate_ends_all_old_containers_before_the_deployment_is_over(small: RunningServer, tmp_path: Path) -> None:
    def app(version: int) -> str:
        return _ANSWERING.replace("VERSION", str(version)).replace("DIRECTORY", repr(str(tmp_path)))

    deploy(small, tmp_path, "anew", app(1))
    try:
        assert results(small, "print(json.dumps(F('anew', 'answer').remote()))") == 1
        call = results(small, "print(json.dumps(F('anew', 'slow').spawn().object_id))")
        wait_for(lambda: (tmp_path / "begun").exists())
        old = set(containers(small, "anew"))
        assert len(old) == 2, "one waits and one is busy"
        said = deploy(small, tmp_path, "anew", app(2), "--strategy", "recreate")
        assert "Terminating running containers" in said and "did not all terminate" not in said
        assert not old & set(containers(small, "anew"))
        assert results(small, "print(json.dumps(F('anew', 'answer').remote()))") == 2
        assert results(small, f"print(json.dumps(modal.FunctionCall.from_id({call!r}).get(timeout=60)))") == 2
        wait_for(lambda: bool(containers(small, "anew")))
        for command in (("rollback", "anew", "v1"), ("rollover", "anew")):
            old = set(containers(small, "anew"))
            small.modal("app", *command, "--strategy", "recreate")
            assert not old & set(containers(small, "anew"))
        assert results(small, "print(json.dumps(F('anew', 'answer').remote()))") == 1
    finally:
        small.modal("app", "stop", "--yes", "anew")


_STOP = """
from modal._utils.async_utils import synchronizer
from modal.client import _Client
from modal_proto import api_pb2

@synchronizer.create_blocking
async def stop(task_id):
    client = await _Client.from_env()
    await client.stub.ContainerStop(api_pb2.ContainerStopRequest(task_id=task_id))

stop(TASK)
try:
    stop("ta-" + "x" * 22)
except modal.exception.NotFoundError as error:
    print(json.dumps(str(error)))
"""


def test_stopping_a_container_that_has_just_ended_is_no_error(small: RunningServer, tmp_path: Path) -> None:
    """As the client does that recreates containers: they end by themselves meanwhile."""
    deploy(
        small, tmp_path, "over", "@app.function(serialized=True)\ndef f():\n    return os.environ['MODAL_TASK_ID']\n"
    )
    try:
        task_id = results(small, "print(json.dumps(F('over', 'f').remote()))")
        small.modal("container", "stop", "--yes", task_id)
        wait_for(lambda: task_id not in containers(small, "over"))
        assert "There is no container" in results(small, _STOP.replace("TASK", repr(task_id)))
    finally:
        small.modal("app", "stop", "--yes", "over")

"""A deployment while the function is in use; containers that are asked to go."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunningServer
from tests.scaling.conftest import containers, deploy, results, wait_for

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
        seen.append(worker.version.remote())

def until(condition):
    deadline = time.time() + 90
    while not condition():
        assert time.time() < deadline, seen
        time.sleep(0.1)

def modal_command(*words):
    return subprocess.run([sys.executable, "-m", "modal", *words], capture_output=True, text=True, check=True).stdout

def answers(count):
    before = len(seen)
    until(lambda: len(seen) >= before + count)

with concurrent.futures.ThreadPoolExecutor() as pool:
    callers = [pool.submit(call_on_and_on) for _ in range(3)]
    try:
        modal_command("deploy", PROGRAM)
        WATCH
    finally:
        done = True
print(json.dumps(seen))
"""


def stream(server: RunningServer, directory: Path, enter: str, watch: str) -> list[int]:
    """The versions that answered three callers while version 2 is deployed over version 1, until `watch` is through."""
    deploy(server, directory, "roll", _APP.replace("ENTER", "pass").replace("VERSION", "1"))
    program = directory / "new" / "roll.py"
    program.parent.mkdir(exist_ok=True)
    text = _APP.replace("ENTER", enter).replace("VERSION", "2")
    program.write_text(f"import modal, os, pathlib, time\napp = modal.App('roll')\n{text}")
    code = _STREAM.replace("PROGRAM", repr(str(program))).replace("WATCH", watch)
    found: list[int] = results(server, "import pathlib\n" + code)
    return found


def test_nobody_waits_for_the_start_of_a_new_version(small: RunningServer, tmp_path: Path) -> None:
    starts, gate = (f"pathlib.Path({str(tmp_path / name)!r})" for name in ("starts", "gate"))
    enter = f"""{starts}.touch()
        while not {gate}.exists(): time.sleep(0.05)"""
    # The new version cannot start before there were answers while it does.
    watch = f"until({starts}.exists); answers(12); {gate}.touch(); until(lambda: seen[-1] == 2)"
    try:
        seen = stream(small, tmp_path, enter, watch)
        assert seen[0] == 1 and seen[-1] == 2
    finally:
        small.modal("app", "stop", "--yes", "roll")


def test_a_version_that_does_not_start_replaces_nothing_that_is_in_use(small: RunningServer, tmp_path: Path) -> None:
    watch = "until(lambda: 'The new version did not start' in modal_command('app', 'logs', 'roll')); answers(6)"
    try:
        assert set(stream(small, tmp_path, "raise RuntimeError('no')", watch)) == {1}
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

"""Memory snapshots end to end: a deployed app in real sandboxes, called by the official client."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import STOKER, RunningServer, start_server, stop_server

LOOK = """
import json, modal
model = modal.Cls.from_name("snapshots", "Model")()
calls = [model.look.spawn({wait}) for _ in range({count})]
print(json.dumps([call.get() for call in calls]))
"""


class App:
    """The deployed app and what the server says of its snapshots."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.put_secret("first", extra_word="kept", REMOVED="yes")
        self.deploy()

    def deploy(self, version: str = "1") -> None:
        self.server.modal("deploy", "snapshots.py", timeout=300, APP_VERSION=version)

    def put_secret(self, word: str, **more: str) -> None:
        pairs = [f"{name}={value}" for name, value in {"WORD": word, **more}.items()]
        self.server.modal("secret", "create", "--force", "snapshot-secret", *pairs)

    def look(self, count: int = 1, wait: float = 0.0) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = json.loads(self.server.python(LOOK.format(count=count, wait=wait)).stdout)
        return answers

    def cold(self) -> dict[str, Any]:
        """Calls after all containers were told to stop: a new one answers."""
        self.stop_containers()
        (answer,) = self.look()
        answer["received"] = time.time()
        return answer

    def keep(self, containers: int) -> None:
        model = 'modal.Cls.from_name("snapshots", "Model")()'
        self.server.python(f"import modal; {model}.update_autoscaler(min_containers={containers})")

    def stop_containers(self) -> None:
        for container in self.stoker("status")["containers"]:
            # It may just have ended by itself.
            self.server.modal("container", "stop", "--yes", container["id"], check=False)
        while self.stoker("status")["containers"]:
            time.sleep(0.1)

    def stoker(self, *arguments: str) -> Any:
        command = [*STOKER, *arguments, "--data", str(self.server.data), "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)

    def snapshots(self, function: str = "Model.*") -> list[dict[str, Any]]:
        return [s for s in self.stoker("snapshots", "list") if s["function"] == function]

    def snapshot(self) -> dict[str, Any]:
        (snapshot,) = self.snapshots()
        return snapshot

    def sandboxes(self) -> set[str]:
        """Those that exist, whether a container runs in them or not."""
        return {path.name for path in (self.server.data / "run" / "runsc" / "containers").iterdir()}

    def image(self) -> Path:
        return self.server.data / "snapshots" / self.snapshot()["id"] / "image" / "checkpoint.img"


@pytest.fixture(scope="module")
def app(sandboxes: RunningServer) -> Iterator[App]:
    app = App(sandboxes)
    yield app
    sandboxes.modal("app", "stop", "snapshots", "--yes", check=False)


def test_state_survives_and_every_start_is_its_own(app: App) -> None:
    answers = [app.cold() for _ in range(4)]
    first = answers[0]
    assert first["loads"] == 1 and first["heap"] and first["name"] == "anyone"
    for answer in answers:
        # enter(snap=True) ran once in all, enter(snap=False) once in each.
        assert (answer["loaded"], answer["loads"], answer["entered"]) == (first["loaded"], 1, 1)
        assert answer["task"] == answer["env_task"]
        # The open file, the background server with its socket and its database, and its pipe are where they were.
        assert (answer["heap"], answer["file"], answer["served"]) == (True, "64656667", 1)
        assert answer["pipe"] == r"served b'hello\n'"
        assert abs(answer["time"] - answer["received"]) < 60
    assert len({answer["task"] for answer in answers}) == 4
    assert len({answer["random"] for answer in answers}) == 4, "seeded the same in enter(snap=True)"
    snapshot = app.snapshot()
    assert (snapshot["state"], snapshot["hits"], snapshot["failures"]) == ("ready", 3, 0)
    assert snapshot["restore_seconds"]["n"] == 3 and snapshot["size_bytes"] > 1 << 20


def test_environment_and_volumes_are_those_of_now(app: App, tmp_path: Path) -> None:
    before = app.cold()
    assert (before["word"], before["extra"], before["removed"], before["note"]) == ("first", "kept", "yes", "")
    (tmp_path / "note").write_text("written later")
    app.server.modal("volume", "put", "snapshot-data", str(tmp_path / "note"), "/note")
    app.put_secret("second", extra_word="changed")
    after = app.cold()
    assert after["loaded"] == before["loaded"]
    assert (after["word"], after["extra"], after["removed"]) == ("second", "changed", None)
    assert after["note"] == "written later"


def test_several_start_from_one_snapshot_at_once(app: App) -> None:
    app.cold()  # there is a snapshot, whatever ran before
    app.stop_containers()
    app.keep(4)  # asked for and not left to the autoscaler, which starts fewer on a busy machine
    while len([c for c in app.stoker("status")["containers"] if c["state"] == "running"]) < 4:
        time.sleep(0.2)
    answers = app.look(count=4, wait=3)
    app.keep(0)
    assert len({a["task"] for a in answers}) == len({a["random"] for a in answers}) == 4
    assert {a["loads"] for a in answers} == {1}


def test_it_outlives_the_server_and_moves_with_its_data(app: App, tmp_path: Path) -> None:
    before = app.cold()
    stop_server(app.server)
    # As on another machine of the same kind; the images are many gigabytes, and how they are restored is not the question here.
    copy = tmp_path / "moved"
    copy.mkdir()
    for path in app.server.data.iterdir():
        if path.name == "images":
            (copy / "images").symlink_to(path)
        else:
            subprocess.run(["cp", "--archive", path, copy], check=True)
    moved = start_server(copy, "runsc", "--fake-gpus", "H100:1,L40S:1")
    try:
        (there,) = json.loads(moved.python(LOOK.format(count=1, wait=0)).stdout)
    finally:
        stop_server(moved)
        start_server(app.server.data, "runsc", "--fake-gpus", "H100:1,L40S:1")
    (here,) = app.look()
    for after in (there, here):
        assert (after["loaded"], after["loads"]) == (before["loaded"], 1)
    assert app.snapshot()["state"] == "ready"


def test_apps_that_only_run_get_none(app: App) -> None:
    assert app.snapshots("plain") == []
    app.server.modal("run", "snapshots.py::plain", "--x", "1")
    assert app.snapshots("plain") == []


def test_declared_gpus_have_no_memory_to_save(app: App) -> None:
    code = 'import modal\nprint(modal.Function.from_name("snapshots", "on_gpu").remote())'
    tasks = set()
    for _ in range(2):
        app.stop_containers()
        tasks.add(app.server.python(code).stdout)
    (snapshot,) = app.snapshots("on_gpu")
    assert len(tasks) == 2 and (snapshot["state"], snapshot["hits"], snapshot["failures"]) == ("ready", 1, 0)
    app.stop_containers()
    app.stoker("snapshots", "rm", snapshot["id"])


def test_parameters_have_snapshots_of_their_own(app: App) -> None:
    code = 'import modal\nprint(modal.Cls.from_name("snapshots", "Model")(name="other").look.remote()["name"])'
    assert app.server.python(code).stdout == "other\n"
    assert len(app.snapshots()) == 2
    other = max(app.snapshots(), key=lambda s: float(s["created_at"]))
    assert app.stoker("snapshots", "show", other["id"])["id"] == other["id"]
    app.stop_containers()
    app.stoker("snapshots", "rm", other["id"])
    assert app.snapshot()["id"] != other["id"]


def test_a_damaged_snapshot_costs_time_but_no_input_and_is_dropped(app: App) -> None:
    loads = app.cold()["loads"]
    image = app.image()
    image.write_bytes(image.read_bytes()[:10_000])
    for failures in (1, 2, 3):
        assert app.cold()["loads"] == loads + failures  # a cold start, which loads again
        assert app.snapshot()["failures"] == failures
    snapshot = app.snapshot()
    assert snapshot["state"] == "dropped" and snapshot["reason"] and not image.exists()
    assert app.cold()["loads"] == loads + 4
    assert app.snapshot()["state"] == "dropped", "made again without a deployment"


def test_a_deployment_makes_a_new_one(app: App) -> None:
    old = app.snapshot()
    app.deploy(version="2")
    first, second = app.cold(), app.cold()
    assert first["version"] == second["version"] == "2"
    assert first["loaded"] == second["loaded"]
    new = app.snapshot()
    assert new["id"] != old["id"] and (new["state"], new["hits"]) == ("ready", 1)
    # The files of the old one go with the last container that runs on them, and nothing is left that nobody knows of.
    files = app.server.data / "snapshots"

    def superfluous() -> set[str]:
        kept = {s["id"] for s in app.stoker("snapshots", "list") if s["state"] == "ready"}
        return {path.name for path in files.iterdir()} - (kept - {old["id"]})

    wait_for(lambda: not superfluous(), superfluous)
    assert (files / new["id"]).is_dir()


def test_the_next_sandbox_is_made_ahead_of_time_and_goes_with_its_snapshot(app: App) -> None:
    app.cold()  # there is a snapshot, whatever ran before
    for _ in range(2):
        before = app.cold()
        app.stop_containers()
        ready = wait_for(lambda: app.sandboxes())
        (answer,) = app.look()
        assert answer["task"] in ready - {before["task"]}
        assert (answer["loaded"], answer["heap"], answer["served"]) == (before["loaded"], True, 1)
    app.stop_containers()
    wait_for(lambda: app.sandboxes())
    app.stoker("snapshots", "rm", app.snapshot()["id"])
    wait_for(lambda: not app.sandboxes())
    assert app.cold()["loaded"] != before["loaded"]


def wait_for(condition: Callable[[], Any], tell: Callable[[], Any] = str) -> Any:
    """tell: what to say when it does not come true."""
    until = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < until, tell()
        time.sleep(0.1)
    return found

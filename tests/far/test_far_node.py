"""The quick part of the suite on a server whose services ask their machine as if it were far away: all that goes between them goes through bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.datadir import DataDir
from tests.conftest import STOKER, RunningServer, stop_server
from tests.snapshots.test_snapshots import App
from tests.web.conftest import MIB, Web, until

FLAGS = {"port": "0", "runtime": "runsc", "fake_gpus": "H100:1", "validate_pools": "1"}


class FarServer(RunningServer):
    """Started by `python -m stoker.testing.serve`."""

    def __init__(self, data: Path) -> None:
        super().__init__(data, "runsc")
        DataDir(data).create()
        given = {f"STOKER_{name.upper()}": value for name, value in (FLAGS | {"data": str(data)}).items()}
        with DataDir(data).open_log() as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stoker.testing.serve"],
                env=os.environ | given,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        if not self.process.stdout.readline().startswith("http://"):
            self.process.wait()
            pytest.fail(f"the server did not start\n{self.log_tail()}")

    def end(self) -> None:
        """Fails when the server found its books wrong."""
        stop_server(self)
        self.process.wait()

    def carried(self) -> dict[str, int]:
        """How many messages of each kind went between its services and its machine. It has ended."""
        assert self.process.stdout is not None
        carried: dict[str, int] = json.loads(self.process.stdout.read())
        return carried


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarServer]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("sandboxes need root on Linux")
    server = FarServer(tmp_path_factory.mktemp("far"))
    yield server
    if server.process.poll() is None:
        server.end()


def test_every_kind_of_call(far: FarServer) -> None:
    done = far.modal("run", "basics.py", timeout=280)
    assert "all is well" in done.stdout and "caught broken on purpose" in done.stdout
    assert "squaring 7" in done.stdout and "goodbye Ada" in done.stdout


def test_generators(far: FarServer) -> None:
    far.modal("deploy", "generators.py", timeout=200)
    relayed = "modal.Function.from_name('generators', 'relay').remote(3, 3_000_000)"
    assert far.python(f"import modal; print({relayed})").stdout == "(3, 'after 3 items')\n"


def test_a_container_that_ends_says_how(far: FarServer) -> None:
    done = far.modal("run", "basics.py::leave", "--code", "3", check=False)
    assert done.returncode and "exited by itself with code 3" in done.stdout + done.stderr


def test_images_that_cannot_be_built_say_why(far: FarServer) -> None:
    done = far.modal("run", "broken_images.py::app.failing_step", check=False)
    said = done.stdout + done.stderr
    assert done.returncode and "a word before" in said and "the reason" in said and "exit code 7" in said


def test_web_endpoints(far: FarServer) -> None:
    far.modal("deploy", "web.py", timeout=280)
    web = Web(far, "web")
    asked = json.dumps({"prompt": "cat", "steps": 7})
    answer = web.ask("POST", web.path("inference-api"), asked, {"Content-Type": "application/json"})
    assert answer.json() == {"filename": "/outputs/cat-7.mp4"}
    assert web.get("site", "/events?n=2&pause=0.1").text == "data: 0\n\ndata: 1\n\n"


def test_servers(far: FarServer) -> None:
    far.modal("deploy", "server.py", timeout=280)
    servers = Web(far, "server")
    assert servers.get("open", "/a?b=c").text.startswith("GET /a?b=c 0 ")
    assert len(servers.get("open", "/download=5").body) == 5 * MIB
    task = servers.get("open").headers["x-task"]
    far.modal("container", "stop", "--yes", task)
    until(lambda: task not in [c["id"] for c in servers.status()["containers"]], 100)
    assert servers.get("open").headers["x-task"] != task


VOLUMES = """
import modal
vol = modal.Volume.from_name("far-volume", create_if_missing=True)
shared = modal.NetworkFileSystem.from_name("far-shared", create_if_missing=True)
app = modal.App("far-volumes")
image = modal.Image.debian_slim(python_version="3.11")

@app.cls(image=image, volumes={"/data": vol}, network_file_systems={"/shared": shared}, serialized=True)
class Keeper:
    @modal.method()
    def write(self, text):
        for path in ("/data/part/kept", "/shared/kept"):
            with open(path, "w") as file:
                file.write(text)
        vol.commit()

    @modal.method()
    def hold(self):
        held = open("/data/part/kept")
        try:
            vol.reload()
        except RuntimeError as error:
            return str(error)

@app.cls(image=image, volumes={"/part": vol.with_mount_options(read_only=True, sub_path="part")}, serialized=True)
class Reader:
    @modal.method()
    def read(self):
        try:
            open("/part/new", "w")
        except OSError as error:
            return type(error).__name__, open("/part/kept").read()

with vol.batch_upload() as batch:
    import io
    batch.put_file(io.BytesIO(b""), "/part/empty")
with app.run():
    keeper = Keeper()
    keeper.write.remote("written")
    assert b"".join(vol.read_file("part/kept")) == b"".join(shared.read_file("kept")) == b"written"
    assert "/data/part/kept is open" in keeper.hold.remote()
    assert Reader().read.remote() == ("OSError", "written")
print("all is kept")
"""


def test_volumes(far: FarServer) -> None:
    assert "all is kept" in far.python(VOLUMES, timeout=200).stdout


def test_memory_snapshots(far: FarServer) -> None:
    app = App(far)
    answers = [app.cold() for _ in range(2)]
    assert {answer["loads"] for answer in answers} == {1} and len({answer["task"] for answer in answers}) == 2
    snapshot = app.snapshot()
    assert (snapshot["state"], snapshot["hits"], snapshot["failures"]) == ("ready", 1, 0)
    until(lambda: any(not s["app"] and s["state"] == "ready" for s in app.stoker("snapshots", "list")), 100)  # a base
    far.modal("app", "stop", "snapshots", "--yes")


def test_functions_that_build_images(far: FarServer) -> None:
    done = far.modal("run", "baked.py::app.main", timeout=200)
    assert "baking bread" in done.stdout + done.stderr
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"/baked')))
    assert (facts["/baked/bread-0"], facts["/more"]) == ("plain t0ken", "bread-0 bread-1")
    assert far.modal("volume", "get", "baked-cache", "/seen", "-").stdout.startswith("bread")


def test_what_would_be_freed_is_asked(far: FarServer) -> None:
    command = [*STOKER, "gc", "--dry-run", "--json", "--data", str(far.data)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout)
    assert (said["server"], said["images"]) == (True, [])  # all of them were just used


def test_all_went_through_bytes(far: FarServer, request: pytest.FixtureRequest) -> None:
    """Of every kind of message that these tests are about, some went over the wire."""
    ours = {name for name in globals() if name.startswith("test_")}
    if left_out := ours - {item.name for item in request.session.items}:
        pytest.skip(f"these were not run before: {sorted(left_out)}")
    far.end()
    carried = far.carried()
    wanted = {
        *("ContainerRequest", "Started", "Event", "Task", "SignalRequest", "Text", "Answer", "Count", "Names", "Fault"),
        *("BuildRequest", "ImageConfig", "AdoptRequest", "Image", "Function", "LeftoversRequest"),
        *("OpenFilesRequest", "Paths", "ListeningRequest"),
        *("SaveRequest", "MakeBaseRequest", "ChangedSinceRequest", "Gpu"),
    }
    assert wanted - carried.keys() == set(), carried

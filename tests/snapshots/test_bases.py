"""Base snapshots end to end: functions without memory snapshots start from their image's Python with the client imported."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stoker.nodes.builds import ImageConfig
from stoker.nodes.messages import ContainerRequest
from stoker.services.containers.bases import Bases, _key
from tests.conftest import RunningServer
from tests.services.test_identity_tokens import decoded

BASE, PLAIN = "/__modal/base/base.py", "-m"
CALL = "import json, modal; print(json.dumps(modal.Function.from_name('bases', {name!r}).remote({argument})))"


class App:
    def __init__(self, server: RunningServer) -> None:
        self.server = server
        server.modal("deploy", "bases.py", timeout=300)

    def cold(self, name: str, argument: str = "") -> Any:
        """Calls when the containers of earlier calls have ended by themselves."""
        while self.ask("status")["containers"]:
            time.sleep(0.1)
        return json.loads(self.server.python(CALL.format(name=name, argument=argument)).stdout)

    def bases(self) -> list[dict[str, Any]]:
        return [s for s in self.ask("snapshots")["snapshots"] if not s["app_id"] and s["state"] != "creating"]

    def until_base(self, name: str, argument: str = "") -> None:
        """Calls until a container that came from a base answers."""
        until = time.monotonic() + 120
        while _program(self.cold(name, argument)) != BASE:
            assert time.monotonic() < until, f"no base was made\n{self.server.log_tail()}"

    def ask(self, path: str, method: str = "GET") -> Any:
        """What the server says at /_stoker/`path`."""
        url = json.loads((self.server.data / "server.json").read_text())["http_url"]
        token = json.loads((self.server.data / "token.json").read_text())
        headers = {"Modal-Token-Id": token["id"], "Modal-Token-Secret": token["secret"]}
        request = urllib.request.Request(f"{url}/_stoker/{path}", headers=headers, method=method)
        return json.load(urllib.request.urlopen(request, timeout=60))


def _program(answer: Any) -> str:
    program: str = (answer if isinstance(answer, dict) else answer[0])["program"]
    return program


@pytest.fixture(scope="module")
def app(sandboxes: RunningServer) -> Iterator[App]:
    app = App(sandboxes)
    # Another test may have made them.
    for base in app.bases():
        app.ask(f"snapshots/{base['id']}", "DELETE")
    yield app
    sandboxes.modal("app", "stop", "bases", "--yes", check=False)


def test_code_sees_no_difference(app: App) -> None:
    first = app.cold("plain")
    assert first["program"] == PLAIN
    app.until_base("plain")
    for base in app.bases():  # perhaps those of other tests too
        assert (base["state"], base["app"], base["function"]) == ("ready", "", f"base of {base['function_id']}")
    second, third = app.cold("plain"), app.cold("plain")
    assert second["program"] == third["program"] == BASE
    assert len({first["task"], second["task"], third["task"]}) == 3
    assert len({first["random"], second["random"], third["random"]}) == 3
    for answer in (first, second, third):
        assert json.loads(decoded(answer["identity"].split(".")[1]))["container_id"] == answer["task"]
    for answer in (first, second):
        for own in ("task", "program", "random", "identity"):
            del answer[own]
    assert second == first


def test_secrets_and_the_time_zone_are_the_functions_own(app: App) -> None:
    answer = app.cold("with_secret")
    assert answer["program"] == BASE, "it shares the base of its image"
    assert (answer["environment"]["WORD"], answer["zone"]) == ("secret", "JST")


def test_functions_with_volumes_have_a_base_with_these(app: App) -> None:
    assert app.cold("with_volume", "'one'")[0]["program"] == PLAIN
    app.until_base("with_volume", "'one'")
    seen, before = app.cold("with_volume", "'two'")
    assert (seen["program"], before) == (BASE, "one")


def test_what_must_be_there_when_python_starts_is(app: App) -> None:
    answer = app.cold("too_early")
    assert (answer["program"], answer["environment"]["LD_LIBRARY_PATH"]) == (PLAIN, "/opt/lib")


def test_code_that_ends_its_container_is_no_fault_of_the_base(app: App) -> None:
    code = "import modal\ntry: modal.Function.from_name('bases', 'leaves').remote(3)\nexcept Exception as e: print('lost', e)"
    assert app.server.python(code).stdout.startswith("lost")
    assert {base["failures"] for base in app.bases()} == {0}


def test_a_damaged_base_costs_time_but_no_input(app: App) -> None:
    base = max(app.bases(), key=lambda b: float(b["hits"]))  # that without volumes
    image = Path(app.server.data, "snapshots", base["id"], "image", "checkpoint.img")
    image.write_bytes(image.read_bytes()[:10_000])
    assert app.cold("plain")["program"] == PLAIN
    assert app.ask(f"snapshots/{base['id']}")["failures"] == 1
    app.ask(f"snapshots/{base['id']}", "DELETE")
    assert app.cold("plain")["program"] == PLAIN
    app.until_base("plain")
    assert {base["state"] for base in app.bases()} == {"ready"}


def request(**changes: Any) -> ContainerRequest:
    facts: dict[str, Any] = {
        "task_id": "ta-1",
        "image_id": "im-1",
        "image": ImageConfig(),
        "client_version": "1.6.4",
        "arguments": b"",
        "environment": "main",
    }
    return ContainerRequest(**facts | changes)


def test_who_may_start_from_a_base() -> None:
    mounts: Any = SimpleNamespace(has_any=lambda mount_id, paths: mount_id == "mo-early")
    fits = Bases(snapshots=cast(Any, None), node=cast(Any, None), mounts=mounts, enabled=True)._fits
    assert fits(request(mounts=("mo-1",), env={"HF_TOKEN": "x"}))
    for changes in (
        {"mounts": ("mo-1", "mo-early")},
        {"image": ImageConfig(entrypoint=("/init",))},
        {"gpu_devices": (0,)},
        {"snapshots": True},
        {"env": {"PYTHONHASHSEED": "0"}},
        {"env": {"LD_PRELOAD": "/x.so"}},
    ):
        assert not fits(request(**changes)), changes
    assert _key(request(task_id="ta-2"), "m") == _key(request(), "m")
    others = [{"image_id": "im-2"}, {"layers": ("la-2",)}, {"client_version": "1.2.0"}, {"network": False}]
    assert len({_key(request(**changes), machine) for changes in [{}, *others] for machine in "mn"}) == 10

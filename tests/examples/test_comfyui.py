"""The ComfyUI example through the official client, in real sandboxes, driven by the real `comfy` command; only ComfyUI itself is a stand-in."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningServer

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "comfyui"
STAND_IN = HERE / "comfy_standin"
APP, SNAPSHOT_APP, VOLUME = "example-comfyui", "example-comfyui-snapshot", "example-comfyui-cache"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
Modal = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", params=["1.23.0", pytest.param("1.3.8", marks=pytest.mark.matrix)])
def modal(sandboxes: RunningServer, request: pytest.FixtureRequest) -> Modal:
    """The official command line in the example's directory, with one version of comfy-cli in the image."""
    environment = {"COMFYUI_DIR": str(STAND_IN), "COMFY_CLI": request.param, "PYTHONPATH": str(EXAMPLE)}

    def run(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modal", *(str(word) for word in words)]
        done = subprocess.run(
            command, cwd=EXAMPLE, env=sandboxes.env | environment, capture_output=True, text=True, timeout=600
        )
        if check and done.returncode:
            pytest.fail(f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n{sandboxes.log_tail()}")
        return done

    return run


@pytest.fixture(scope="module")
def url(modal: Modal, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The deployed example's address, with workflow files in its Volume that all save under one prefix."""
    deployed = modal("deploy", "app.py").stdout.replace("\n", "")
    files = tmp_path_factory.mktemp("workflows")
    for width in (60, 61, 62):
        (files / f"{width}.json").write_text(json.dumps(workflow(width)))
    modal("volume", "put", "--force", VOLUME, files, "/workflows")
    found = re.search(r"(http://\S+images-api\S*)", deployed)
    assert found, deployed
    return found[1]


def workflow(width: int, seconds: float = 0.2, prefix: str = "picture", **failing: str) -> dict[str, Any]:
    """Draws a picture of this width, by which a test knows it; with `failing` the last step raises that message."""
    color = {"width": width, "height": 20, "batch_size": 1, "color": 255}
    slow = {"class_type": "TestingSlow", "inputs": {"image": ["1", 0], "seconds": seconds, "steps": 2}}
    return {
        "1": {"class_type": "EmptyImage", "inputs": color},
        "2": {"class_type": "TestingFailure", "inputs": {"image": ["1", 0], **failing}} if failing else slow,
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


def post(url: str, body: object) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def width(png: bytes) -> int:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(png[16:20], "big")


def test_run_from_the_command_line(modal: Modal, tmp_path: Path) -> None:
    ran = modal("run", "app.py", "--workflow", "workflows/no_model.json", "--out", tmp_path)
    assert width((tmp_path / "no_model_00001_.png").read_bytes()) == 512
    assert "no_model_00001_.png" in ran.stdout


def test_each_of_many_workflows_gets_its_own_picture_from_one_container(modal: Modal, url: str) -> None:
    widths = range(100, 107)
    with ThreadPoolExecutor(len(widths)) as pool:
        answers = list(pool.map(lambda w: post(url, workflow(w)), widths))
    assert [status for status, _ in answers] == [200] * len(widths)
    pictures = [answer["images"] for _, answer in answers]
    assert {name for images in pictures for name in images} == {"picture_00001_.png"}
    assert [width(base64.b64decode(images["picture_00001_.png"])) for images in pictures] == list(widths)
    containers = json.loads(modal("container", "list", "--json").stdout)
    assert len([one for one in containers if one["app_name"] == APP]) == 2  # the service, and its web endpoint


def test_all_that_a_workflow_saves_comes_back(url: str) -> None:
    two = workflow(70)
    two["1"]["inputs"]["batch_size"] = 2
    two["4"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "before/slow"}}
    status, answer = post(url, two)
    assert status == 200
    names = {"picture_00001_.png", "picture_00002_.png", "before/slow_00001_.png", "before/slow_00002_.png"}
    assert set(answer["images"]) == names


def test_the_same_workflow_again_is_answered_again(url: str) -> None:
    again = workflow(71)
    first, second = post(url, again), post(url, again)
    assert first[0] == second[0] == 200
    assert first[1] == second[1]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (workflow(80, message="CUDA out of memory"), "Node 2 (TestingFailure) failed: CUDA out of memory"),
        ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, "no node called NoSuchNode"),
        (workflow(81) | {"2": {"class_type": "TestingSlow", "inputs": {"image": ["1", 0]}}}, "container's log"),
        ({"nodes": [], "links": []}, "File > Export (API)"),
        ({}, "File > Export (API)"),
        ([1], "dictionary"),
    ],
)
def test_what_is_wrong_with_a_workflow_is_said(url: str, body: object, says: str) -> None:
    status, answer = post(url, body)
    assert status == 422
    assert says in json.dumps(answer)
    assert post(url, workflow(82))[0] == 200, "the service goes on"


def test_runs_of_workflow_files_are_not_mixed_up(sandboxes: RunningServer, url: str) -> None:
    """`run_workflow` itself, five at once in one container, and one of a file that is not there."""
    code = """
import modal
from concurrent.futures import ThreadPoolExecutor
comfy = modal.Cls.from_name("example-comfyui", "ComfyUI")()
with ThreadPoolExecutor(5) as pool:
    run = lambda width: int.from_bytes(comfy.run_workflow.remote(f"/cache/workflows/{width}.json")[16:20], "big")
    widths = [60, 61, 62, 60, 61]
    assert list(pool.map(run, widths)) == widths
try:
    comfy.run_workflow.remote("/cache/workflows/none.json")
except Exception as error:
    print(type(error).__name__, error)
"""
    assert "CalledProcessError" in sandboxes.python(code).stdout


def test_a_snapshot_brings_the_running_server_back(sandboxes: RunningServer, modal: Modal, url: str) -> None:
    modal("app", "stop", "--yes", APP)  # it holds the only L40S
    modal("deploy", "snapshot.py")
    code = """
import modal
comfy = modal.Cls.from_name("example-comfyui-snapshot", "ComfyUI")()
for name, data in comfy.generate.remote(WORKFLOW).items():
    print(name, int.from_bytes(data[16:20], "big"))
"""
    for drawn in (130, 131):
        out = sandboxes.python(code.replace("WORKFLOW", repr(workflow(drawn)))).stdout
        assert out.split() == ["picture_00001_.png", str(drawn)]
        sandboxes.stop_containers(SNAPSHOT_APP)
    command = [sys.executable, "-m", "stoker.cli.main", "snapshots", "list", "--data", str(sandboxes.data), "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    [snapshot] = [one for one in json.loads(listed.stdout) if SNAPSHOT_APP in json.dumps(one)]
    assert (snapshot["state"], snapshot["hits"]) == ("ready", 1), snapshot
    modal("app", "stop", "--yes", SNAPSHOT_APP)


def test_the_stand_in_speaks_the_servers_language(modal: Modal) -> None:
    """Progress, messages to the right client, the queue, uploads: what the example itself does not use."""
    out = modal("run", HERE / "comfy_probe.py").stdout
    line = next(line for line in out.splitlines() if line.startswith("PROBED "))
    found = json.loads(line.removeprefix("PROBED "))
    progress = [about for kind, about in found["messages"] if kind == "progress"]
    assert progress == [[1, 4], [2, 4], [3, 4], [4, 4]]
    kinds = [kind for kind, _ in found["messages"] if kind != "progress"]
    assert kinds[:2] == ["execution_start", "execution_cached"]
    assert kinds[-3:] == ["executed", "execution_success", "executing"]
    assert [about for kind, about in found["messages"] if kind == "executing"] == ["1", "2", "3", None]
    assert found["queue"] == [[0], [1]]
    assert found["other"] == "success"
    assert found["saved"] == {"filename": "red_00001_.png", "subfolder": "slow", "type": "output"}
    assert found["drawn"] == [[40, 30], [255, 0, 0]]
    assert found["upload"] == {"name": "red.png", "subfolder": "", "type": "input"}
    assert found["argv"] == ["--port", "8190"]
    assert found["info"] is True
    assert found["outside"] == 403
    assert found["interrupted"] == "execution_interrupted"
    assert "stopped" in found["stop"]


def test_the_code_is_that_of_the_mission() -> None:
    """The two commands, and the options of the class, exactly as people know them."""
    source = (EXAMPLE / "app.py").read_text()
    for line in (
        'f"comfy launch --background -- --port {self.port}",',
        'f"comfy run --workflow {workflow_path} --wait --timeout 1200",',
        "scaledown_window=300,",
        'gpu="L40S",',
        'volumes={"/cache": vol},',
        "@modal.concurrent(max_inputs=5)",
        "return self.get_output_image()",
    ):
        assert line in source

"""Each block of the text runs, unchanged, by the official client on the server; what it leaves out is filled in by apps/."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningServer, start_server, stop_server
from tests.mission import mission

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
STAND_IN = REPOSITORY / "tests" / "examples" / "comfy_standin"

Modal = Callable[..., str]


@pytest.fixture
def modal(tmp_path: Path) -> Modal:
    """`modal(server, "run", app)` for an app made of the text's blocks; returns its output."""

    def run(server: RunningServer, command: str, name: str, *path: Path, **environment: str) -> str:
        source = tmp_path / f"mission_{name}.py"
        source.write_text(mission.app(name))
        search = {"PYTHONPATH": ":".join(map(str, path))}
        return server.modal(command, str(source), timeout=800, **search, **environment).stdout

    return run


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_wrong_loads_the_model_on_every_cold_start_and_right_once(sandboxes: RunningServer, modal: Modal) -> None:
    for part in ("wrong", "right"):
        name = f"memory_snapshots_{part}"
        modal(sandboxes, "deploy", name)
        app = f"mission-memory-snapshots-{part}"
        ask = f"""
import modal
print(*modal.Cls.from_name("{app}", "Inference")().ask.remote())
"""
        loaded = []
        for _ in range(2):
            model, device = sandboxes.python(ask).stdout.split()
            assert device == ("cuda" if part == "right" else "cpu")
            loaded.append(model)
            sandboxes.stop_containers(app)
        assert len(set(loaded)) == (1 if part == "right" else 2)
        sandboxes.modal("app", "stop", "--yes", app)


def test_concurrency_is_what_the_text_says(server: RunningServer, modal: Modal) -> None:
    assert "DEFINED" in modal(server, "run", "scaling_bare")


@pytest.mark.e2e
def test_five_and_thirty_two_at_once(sandboxes: RunningServer, modal: Modal) -> None:
    comfyui, batch = re.findall(r"MOST (\d+)", modal(sandboxes, "run", "scaling"))
    assert int(comfyui) == 5
    assert 25 <= int(batch) <= 32


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_comfyui_service_draws(sandboxes: RunningServer, modal: Modal) -> None:
    example = EXAMPLES / "comfyui"
    out = modal(sandboxes, "run", "comfyui", example, COMFYUI_DIR=str(STAND_IN))
    assert "PICTURE PNG 256" in out


@pytest.fixture(scope="module")
def models(torch_data: Path) -> Iterator[RunningServer]:
    """A server that has the diffusion example's image, or builds it."""
    running = start_server(torch_data, "runsc", "--fake-gpus", "H100:1")
    yield running
    stop_server(running)


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_models_load_without_and_with_a_volume_and_make_a_video(
    models: RunningServer, modal: Modal, tmp_path: Path
) -> None:
    path = (EXAMPLES / "diffusion", mission.HERE)
    deployed = modal(models, "deploy", "models", *path).replace("\n", "")
    ask = """
import modal
for name, method in (("WithoutVolume", "publish"), ("Inference", "ask")):
    print(name, getattr(modal.Cls.from_name("mission-models", name)(), method).remote())
"""
    out = models.python(ask, timeout=600).stdout
    assert out.split() == ["WithoutVolume", "TextToVideoSDPipeline", "Inference", "TextToVideoSDPipeline"]
    url = re.search(r"(http://\S+inference-api\S*)", deployed)
    assert url, deployed
    request = urllib.request.Request(
        url[1], json.dumps({"prompt": "a cat on a bench", "steps": 2}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        filename = json.load(answer)["filename"]
    assert re.fullmatch(r"/outputs/[0-9a-f-]{36}\.mp4", filename)
    video = tmp_path / "video.mp4"
    models.modal("volume", "get", "mission-outputs", Path(filename).name, str(video))
    assert video.read_bytes()[4:8] == b"ftyp"
    models.modal("app", "stop", "--yes", "mission-models")

"""The main job: the diffusion example through the official CLI, with real sandboxes, a real image and a real video.

The first run builds the example's image (torch and diffusers, about 2.4 GB with its base). STOKER_TEST_DATA names a directory in which
the server's data is kept between runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningServer, start_server, stop_server

EXAMPLE = Path(__file__).parents[2] / "examples" / "diffusion"
STOKER, MODAL = (Path(sys.executable).with_name(name) for name in ("stoker", "modal"))
OUTPUTS = "example-diffusion-outputs"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="sandboxes need root on Linux"),
]


@pytest.fixture(scope="module")
def data(torch_data: Path) -> Path:
    return torch_data


@pytest.fixture(scope="module")
def report(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `make demo` says it made, with its video in a directory of the test's own."""
    out = tmp_path_factory.mktemp("out")
    done = run(sys.executable, EXAMPLE / "demo.py", "--data", data, "--out", out, "--report", out / "report.json")
    assert done.returncode == 0, done.stdout
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in words]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1700)


def modal(data: Path, *words: object, gpus: str = "H100:1") -> subprocess.CompletedProcess[str]:
    """A `modal` command against a server on `data` that lives as long as the command."""
    flags = ["--fake-gpus", gpus] if gpus else []
    return run(STOKER, "run", "--data", data, *flags, "--", MODAL, *words)


@pytest.fixture
def kept(report: dict[str, Any], data: Path) -> Iterator[RunningServer]:
    """A server on the data that the demo left, with its image and weights."""
    server = start_server(data, "runsc", "--fake-gpus", "H100:1,L40S:1")
    yield server
    stop_server(server)


def test_the_video_decodes_to_what_was_asked_for(report: dict[str, Any]) -> None:
    found = report["found"]
    assert (found["frames"], found["width"], found["height"]) == (25, 256, 160)
    assert found["codec"] == "h264"
    assert found["contrast"] > 1


def test_the_fetched_file_is_the_one_in_the_volume(report: dict[str, Any], data: Path, tmp_path: Path) -> None:
    video = Path(report["video"])
    assert video.read_bytes()[4:8] == b"ftyp"
    again = modal(data, "volume", "get", OUTPUTS, video.name, tmp_path / video.name)
    assert again.returncode == 0, again.stdout
    assert (tmp_path / video.name).read_bytes() == video.read_bytes()


def test_both_calls_left_a_video_of_their_own(report: dict[str, Any], data: Path) -> None:
    listed = modal(data, "volume", "ls", "--json", OUTPUTS)
    assert listed.returncode == 0, listed.stdout
    assert listed.stdout.count(".mp4") >= 2


def test_the_demo_stops_its_server(report: dict[str, Any], data: Path) -> None:
    assert run(STOKER, "status", "--data", data).returncode == 1


def test_without_the_gpu_the_call_says_which_and_how_to_go_on(report: dict[str, Any], data: Path) -> None:
    refused = modal(data, "run", EXAMPLE / "app.py", gpus="")
    assert refused.returncode != 0
    assert "H100" in refused.stdout
    assert "--fake-gpus" in refused.stdout


def test_random_weights_never_hide_downloaded_ones(report: dict[str, Any], data: Path, tmp_path: Path) -> None:
    ref = "models--Lightricks--LTX-Video/refs/main"
    kept, other = tmp_path / "kept", tmp_path / "other"
    other.write_text("0" * 40)
    volume = "example-diffusion-models"
    assert modal(data, "volume", "get", volume, ref, kept).returncode == 0
    assert modal(data, "volume", "put", "--force", volume, other, ref).returncode == 0
    try:
        refused = modal(data, "run", EXAMPLE / "tiny_weights.py")
    finally:
        assert modal(data, "volume", "put", "--force", volume, kept, ref).returncode == 0
    assert refused.returncode != 0
    assert "will not hide them" in refused.stdout


def test_a_snapshot_generates_and_the_api_serves_its_video(kept: RunningServer) -> None:
    name = "example-diffusion-snapshot"
    kept.modal("deploy", str(EXAMPLE / "snapshot.py"), timeout=600)
    generate = f"""
import modal
small = dict(num_inference_steps=2, width=64, height=64, num_frames=9)
print(modal.Cls.from_name("{name}", "DiffusionAPI")().generate.remote("a cat on a bench", **small))
"""
    videos = []
    for _ in range(2):
        videos.append(kept.python(generate, timeout=600).stdout.strip())
        kept.stop_containers(name)
    snapshots = json.loads(run(STOKER, "snapshots", "list", "--data", kept.data, "--json").stdout)
    assert [one["hits"] for one in snapshots if name in json.dumps(one)] == [1]
    deployed = kept.modal("deploy", str(EXAMPLE / "app.py"), timeout=600).stdout.replace("\n", "")
    url = re.search(r"(http://\S+-video)\b", deployed)
    assert url, deployed
    for video in videos:
        with urllib.request.urlopen(f"{url[1]}?filename={video}", timeout=120) as answer:
            assert answer.headers["Content-Type"] == "video/mp4"
            assert answer.read()[4:8] == b"ftyp"
    for wrong in ("none.mp4", "../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url[1]}?filename={wrong}", timeout=120)


@pytest.mark.matrix
def test_mochi_and_stable_diffusion(kept: RunningServer, tmp_path: Path) -> None:
    ids = "genmo/mochi-1-preview,stable-diffusion-v1-5/stable-diffusion-v1-5"
    kept.modal("run", str(EXAMPLE / "tiny_weights.py"), "--model-id", ids, timeout=600)
    size = ("--steps", "2", "--width", "64", "--height", "64")
    mochi = kept.modal("run", str(EXAMPLE / "mochi.py"), *size, "--frames", "7", timeout=600).stdout
    pictures = kept.modal("run", str(EXAMPLE / "stable_diffusion.py"), *size, "--images", "2", timeout=600).stdout
    videos = re.findall(r"/outputs/(\S+\.mp4)", mochi)
    files = [*videos, *re.findall(r"/outputs/(\S+\.png)", pictures)]
    assert (len(videos), len(files)) == (1, 3)
    for file in files:
        kept.modal("volume", "get", OUTPUTS, file, str(tmp_path / file))
    assert (tmp_path / files[0]).read_bytes()[4:8] == b"ftyp"
    assert all((tmp_path / file).read_bytes().startswith(b"\x89PNG") for file in files[1:])

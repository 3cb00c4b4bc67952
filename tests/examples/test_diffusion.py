"""The main job: the diffusion example through the official CLI, with real sandboxes, a real image and a real video.

The first run builds the example's image (torch and diffusers, about 2.4 GB with its base). STOKER_TEST_DATA names a directory in which
the server's data is kept between runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "diffusion"
STOKER, MODAL = (Path(sys.executable).with_name(name) for name in ("stoker", "modal"))
OUTPUTS = "example-diffusion-outputs"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="sandboxes need root on Linux"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("STOKER_TEST_DATA")
    return Path(kept).absolute() / "diffusion" if kept else tmp_path_factory.mktemp("diffusion")


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

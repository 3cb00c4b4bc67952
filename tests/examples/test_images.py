"""The efficient image of the mission, built for real from what an air-gapped site would keep under the same names."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.conftest import RunningServer, start_server, stop_server
from tests.examples import cuda_site
from tests.images.conftest import needs_buildah

EXAMPLE = Path(__file__).parents[2] / "examples" / "images"

INDEX = re.findall(r'extra_index_url="(.+)"', (EXAMPLE / "app.py").read_text())[0]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_buildah]


@dataclass
class Site:
    """A server that knows a registry and an index of its own site instead of the public ones; `asked` is what the index was asked for."""

    server: RunningServer
    asked: list[str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    layout = cuda_site.base_layout(directory)
    with (
        cuda_site.registry(layout, directory) as mirror,
        cuda_site.package_index(directory) as (index, asked),
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("STOKER_REGISTRY_MIRRORS", json.dumps({"docker.io": mirror}))
        environment.setenv("STOKER_INSECURE_REGISTRIES", json.dumps([mirror]))
        environment.setenv("STOKER_PACKAGE_INDEXES", json.dumps({INDEX: index}))
        server = start_server(directory / "data", "runsc", "--fake-gpus", "H100:1")
        yield Site(server, asked)
        stop_server(server)


@pytest.fixture(scope="module")
def ran(site: Site) -> subprocess.CompletedProcess[str]:
    return site.server.modal("run", str(EXAMPLE / "app.py"), timeout=600)


def test_the_image_holds_what_was_asked_for(ran: subprocess.CompletedProcess[str]) -> None:
    found = dict(re.findall(r"^ *(torch|transformers|diffusers|model cache|git): (.+)$", ran.stdout, re.MULTILINE))
    assert found["torch"] == cuda_site.WHEELS["torch"]
    assert found["transformers"] == cuda_site.WHEELS["transformers"]
    assert found["diffusers"] == cuda_site.WHEELS["diffusers"]
    assert found["model cache"] == "/models"
    assert found["git"].startswith("2.")


def test_the_base_without_python_got_one(ran: subprocess.CompletedProcess[str]) -> None:
    assert "This base image has no python" in ran.stdout
    assert "python: 3." in ran.stdout


def test_packages_came_from_the_mirror_of_the_index(ran: subprocess.CompletedProcess[str], site: Site) -> None:
    assert f"stands in for the package index {INDEX}" in ran.stdout.replace("\n", " ")
    assert {path for path in map(unquote, site.asked) if path.endswith(".whl")} == {
        f"/{name}/{name}-{version}-py3-none-any.whl" for name, version in cuda_site.WHEELS.items()
    }


def test_entrypoint_is_what_the_app_says(ran: subprocess.CompletedProcess[str], site: Site) -> None:
    assert cuda_site.BANNER not in ran.stdout + ran.stderr
    noisy = site.server.modal("run", str(Path(__file__).with_name("noisy_app.py")))
    assert cuda_site.BANNER in noisy.stdout, "the base's own entrypoint runs when it is not removed"

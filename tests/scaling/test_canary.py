"""`stoker canary`: another version gets a part of the inputs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import STOKER, RunningServer, start_server, stop_server
from tests.scaling.conftest import deploy, results

_APP = """
@app.function(serialized=True, max_containers=1)
def version(_=0): return VERSION

@app.cls(serialized=True)
class Clerk:
    name: str = modal.parameter()
    @modal.method()
    def greet(self, _=0): return f"{self.name} VERSION"
"""
_COUNT = "print(json.dumps(sorted(F('bird', 'version').map(range(200)))))"


def stoker(server: RunningServer, *arguments: str, check: bool = True) -> str:
    command = [*STOKER, "canary", *arguments, "--data", str(server.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if check else 1), done.stderr
    return done.stdout if check else done.stderr


@pytest.fixture
def bird(small: RunningServer, tmp_path: Path) -> Iterator[RunningServer]:
    for version in ("1", "2"):
        deploy(small, tmp_path, "bird", _APP.replace("VERSION", version))
    yield small
    small.modal("app", "stop", "--yes", "bird", check=False)


def test_a_part_goes_to_the_other_version_until_it_is_promoted(bird: RunningServer) -> None:
    assert results(bird, _COUNT) == [2] * 200
    assert "has no canary" in stoker(bird, "bird")
    assert "30% of the inputs of bird go to v1, the others to v2" in stoker(bird, "bird", "v1", "--percent", "30")
    assert 30 <= results(bird, _COUNT).count(1) <= 95
    clerk = "print(json.dumps(sorted(modal.Cls.from_name('bird', 'Clerk')(name='Ada').greet.map(range(40)))))"
    greetings = results(bird, clerk)
    assert set(greetings) == {"Ada 1", "Ada 2"} and greetings.count("Ada 1") < 30
    assert "go to v2 again" in stoker(bird, "bird", "off")
    assert results(bird, _COUNT) == [2] * 200
    stoker(bird, "bird", "1", "--percent", "100")
    assert results(bird, _COUNT) == [1] * 200
    assert "v1 of bird is deployed for all inputs" in stoker(bird, "bird", "promote")
    assert results(bird, _COUNT) == [1] * 200
    assert "has no canary" in stoker(bird, "bird")


def test_it_survives_a_restart_and_ends_with_a_deployment(tmp_path: Path) -> None:
    server = start_server(tmp_path / "data", "process")
    try:
        for version in ("1", "2"):
            deploy(server, tmp_path, "bird", _APP.replace("VERSION", version))
        stoker(server, "bird", "1", "--percent", "50")
        stop_server(server)
        server = start_server(tmp_path / "data", "process")
        assert 60 <= results(server, _COUNT).count(1) <= 140
        deploy(server, tmp_path, "bird", _APP.replace("VERSION", "3"))
        assert results(server, _COUNT) == [3] * 200
        assert "has no canary" in stoker(server, "bird")
    finally:
        stop_server(server)


def test_what_makes_no_sense_is_said(bird: RunningServer) -> None:
    for arguments, words in (
        (["bird", "9", "--percent", "5"], "no version v9; it has v1 to v2"),
        (["bird", "2", "--percent", "5"], "v2 is what is deployed"),
        (["bird", "1"], "Say how much"),
        (["bird", "--percent", "5"], "Say which version"),
        (["bird", "1", "--percent", "0"], "more than 0"),
        (["bird", "off"], "has no canary"),
        (["bird", "newest"], "is no version"),
        (["cat", "1", "--percent", "5"], "no deployed app 'cat'"),
    ):
        assert words in stoker(bird, *arguments, check=False), arguments

"""`make quick` runs what starts no process, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import quick
from tests.conftest import RunningServer, start_server


def test_a_test_that_starts_no_process_is_quick(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("quick")


def test_what_uses_a_server_is_not(server: RunningServer, request: pytest.FixtureRequest) -> None:
    assert not request.node.get_closest_marker("quick")


def _helper() -> None:
    start_server  # noqa: B018


class _Helper:
    def help(self) -> None:
        _helper()


@pytest.mark.parametrize(
    "test",
    [
        lambda: subprocess.run,
        lambda: start_server,
        lambda: [lambda: _helper()],
        lambda: _Helper(),
        lambda request: request.getfixturevalue("server"),
    ],
)
def test_what_calls_a_helper_that_starts_one_is_not(test: object) -> None:
    assert quick.Selection().starts_processes(test)


def test_a_process_out_of_other_code_is_stopped() -> None:
    with quick.no_processes(), pytest.raises(RuntimeError, match="a quick test starts a process"):
        subprocess.run([sys.executable, "-V"])
    assert subprocess.run([sys.executable, "-V"], capture_output=True).returncode == 0

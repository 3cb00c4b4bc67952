"""The same with real sandboxes: gVisor's kernels are killed and frozen. Only in the long form; tests/calls/test_sandbox.py freezes one in
the short."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import start_server, stop_server
from tests.faults.aftermath import check
from tests.faults.processes import LOST_AFTER, Containers
from tests.faults.weather import Storm, only_long, weather


@only_long
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="sandboxes need root on Linux")
@pytest.mark.timeout(1500)
def test_killed_and_frozen_sandboxes(tmp_path: Path) -> None:
    inputs = 400
    server = start_server(tmp_path / "data", "runsc", container_lost_seconds=str(LOST_AFTER))
    try:
        containers = Containers(server)
        weather(server, Storm({"kill": containers.kill, "freeze": containers.freeze}), inputs)
        check(server, 4 * inputs)
    finally:
        stop_server(server)

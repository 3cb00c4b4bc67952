"""Nothing is lost while the disk takes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import start_server, stop_server
from tests.disks import small_disk
from tests.faults.aftermath import check, check_the_printing
from tests.faults.disks import ShortWrites, SmallDisk
from tests.faults.processes import Containers
from tests.faults.weather import FUNCTIONS, INPUTS, LONG, MOST, PACE, Storm, only_long, weather

pytestmark = [
    pytest.mark.timeout(1500 if LONG else 280),
    pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes and small disks are Linux's"),
]
LONGEST = 20.0 if LONG else 1.5  # seconds without a disk


def test_writes_that_are_cut_short(tmp_path: Path) -> None:
    server = start_server(tmp_path / "data", "process")
    try:
        weather(server, Storm({"limit": ShortWrites(server, LONGEST).limit}, pace=PACE, most=MOST), INPUTS, *FUNCTIONS)
        check_the_printing(f"sqlite:///{server.data / 'stoker.db'}", INPUTS)
        check(server, len(FUNCTIONS) * INPUTS)
    finally:
        stop_server(server)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a small disk is made by mount, as root")
@only_long
@pytest.mark.parametrize("reserve", ["0", "1"])
def test_a_disk_that_is_full_again_and_again(tmp_path: Path, reserve: str) -> None:
    """reserve: MiB below which the server takes no new work; without one it tries. Containers are killed, so that others must start."""
    with small_disk(tmp_path / "small", 400) as disk:
        server = start_server(disk / "data", "process", min_free_disk_mib=reserve)
        try:
            storm = Storm(
                {"fill": SmallDisk(disk, LONGEST).fill, "kill": Containers(server).kill}, pace=PACE, most=MOST
            )
            weather(server, storm, INPUTS, *FUNCTIONS)
            check_the_printing(f"sqlite:///{server.data / 'stoker.db'}", INPUTS, repeated=True)
            check(server, len(FUNCTIONS) * INPUTS)
        finally:
            stop_server(server)

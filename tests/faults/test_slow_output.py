"""No printed byte is lost when nobody reads the pipes for a while: whoever prints waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import free_port, start_server, stop_server
from tests.faults.aftermath import check, check_the_printing
from tests.faults.databases import SqliteFile
from tests.faults.processes import Server
from tests.faults.weather import INPUTS, LONG, MOST, PACE, Storm, weather


@pytest.mark.timeout(1500 if LONG else 280)
def test_a_server_that_stands_still_while_containers_print(tmp_path: Path) -> None:
    """And a database that stands still, so that the server itself holds up what it reads."""
    port = free_port()
    server = start_server(tmp_path / "data", "process", port=port)
    path = server.data / "stoker.db"
    try:
        harms = {
            "freeze_server": Server(server, port).freeze,
            "lock": SqliteFile(path, longest=10.0 if LONG else 3.0).lock,
        }
        weather(server, Storm(harms, pace=PACE, most=MOST), INPUTS, "chatty")
        check_the_printing(f"sqlite:///{path}", INPUTS)
        check(server, INPUTS)
    finally:
        stop_server(server)

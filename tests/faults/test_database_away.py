"""Nothing is lost while the database cannot be written, or is not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgresql
from tests.conftest import free_port, start_server, stop_server
from tests.faults.aftermath import check, check_the_printing
from tests.faults.databases import Postgresql, SqliteFile
from tests.faults.processes import Containers, Server
from tests.faults.weather import FUNCTIONS, INPUTS, LONG, MOST, PACE, Harm, Storm, only_long, weather
from tests.postgresql import Cluster


@only_long
@pytest.mark.timeout(1500)
def test_sqlite_locked_by_another_program(tmp_path: Path) -> None:
    """For longer than the server waits; tests/faults/test_slow_output.py locks it for seconds."""
    server = start_server(tmp_path / "data", "process")
    path = server.data / "stoker.db"
    try:
        storm = Storm({"lock": SqliteFile(path, longest=45.0).lock}, pace=PACE, most=MOST)
        weather(server, storm, INPUTS, *FUNCTIONS)
        check_the_printing(f"sqlite:///{path}", INPUTS)
        check(server, len(FUNCTIONS) * INPUTS)
    finally:
        stop_server(server)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if not postgresql.is_there():
        pytest.skip(postgresql.MISSING)
    with postgresql.running() as cluster:
        yield cluster


@pytest.mark.timeout(1500 if LONG else 280)
def test_postgresql_away_and_frozen(cluster: Cluster, tmp_path: Path) -> None:
    """The long form also kills containers and the server."""
    url, port = cluster.new_database(), free_port()
    settings = {"database_url": url}
    server = start_server(tmp_path / "data", "process", port=port, **settings)
    try:
        database = Postgresql(cluster, longest=20.0 if LONG else 1.0)
        harms: dict[str, Harm] = {"restart": database.restart, "freeze": database.freeze}
        if LONG:
            harms |= {"kill_container": Containers(server).kill, "kill_server": Server(server, port, **settings).kill}
        weather(server, Storm(harms, pace=PACE, most=MOST), INPUTS, *FUNCTIONS)
        check_the_printing(url, INPUTS, repeated=LONG)
        check(server, len(FUNCTIONS) * INPUTS, url=url)
    finally:
        stop_server(server)

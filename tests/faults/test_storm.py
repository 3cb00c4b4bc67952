"""No input is lost and none is answered twice, whatever is killed meanwhile.

`make faults` runs the long form: STOKER_FAULTS=long, 10,000 inputs and a seed of your choice in STOKER_SEED.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningServer, free_port, start_server, stop_server
from tests.faults.aftermath import check
from tests.faults.processes import LOST_AFTER, Containers, Server
from tests.faults.proxy import FlakyProxy
from tests.faults.weather import LONG, Harm, Storm, weather

INPUTS = 2_500 if LONG else 500  # through each of four functions
SETTINGS = {"container_lost_seconds": str(LOST_AFTER)}


@pytest.fixture
def stormy(tmp_path: Path) -> Iterator[tuple[RunningServer, FlakyProxy, int]]:
    port = free_port()
    server = start_server(tmp_path / "data", "process", port=port, **SETTINGS)
    proxy = FlakyProxy(port)
    yield server, proxy, port
    proxy.close()
    stop_server(server)


@pytest.mark.timeout(1500 if LONG else 280)
@pytest.mark.parametrize(
    "names",
    [
        ("kill_container",),
        ("kill_container", "cut_connections"),
        ("freeze_container", "kill_container"),
        ("kill_container", "cut_connections", "kill_server"),
    ],
    ids=lambda names: "+".join(names),
)
def test_every_result_arrives_exactly_once(
    stormy: tuple[RunningServer, FlakyProxy, int], names: tuple[str, ...]
) -> None:
    server, proxy, port = stormy
    containers = Containers(server)
    harms: dict[str, Harm] = {
        "kill_container": containers.kill,
        "freeze_container": containers.freeze,
        "cut_connections": proxy.cut,
        "kill_server": Server(server, port, **SETTINGS).kill,
    }
    storm = Storm({name: harms[name] for name in names})
    weather(server, storm, INPUTS, url=f"http://127.0.0.1:{proxy.port}")
    check(server, 4 * INPUTS)

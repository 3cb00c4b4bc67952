"""No input is lost and none is answered twice, whatever is killed meanwhile.

`make faults` runs the long form: STOKER_FAULTS=long, 10,000 inputs and a seed of your choice in STOKER_SEED.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningServer, free_port, start_server, stop_server
from tests.faults.weather import LOST_AFTER, FlakyProxy, Storm

LONG = os.environ.get("STOKER_FAULTS") == "long"
SEED = int(os.environ.get("STOKER_SEED", "1"))
INPUTS = 2_500 if LONG else 500  # through each of four functions
HERE = Path(__file__).parent


@pytest.fixture
def stormy(tmp_path: Path) -> Iterator[tuple[RunningServer, FlakyProxy, int]]:
    port = free_port()
    server = start_server(tmp_path / "data", "process", port=port, container_lost_seconds=str(LOST_AFTER))
    proxy = FlakyProxy(port)
    yield server, proxy, port
    proxy.close()
    stop_server(server)


@pytest.mark.timeout(1500 if LONG else 280)
@pytest.mark.parametrize(
    "harms",
    [
        ("kill_container",),
        ("kill_container", "cut_connections"),
        ("freeze_container", "kill_container"),
        ("kill_container", "cut_connections", "kill_server"),
    ],
    ids=lambda harms: "+".join(harms),
)
def test_every_result_arrives_exactly_once(
    stormy: tuple[RunningServer, FlakyProxy, int], harms: tuple[str, ...]
) -> None:
    server, proxy, port = stormy
    server.modal("deploy", str(HERE / "app.py"))
    storm = Storm(server, proxy, port, SEED, harms)
    env = server.env | {"MODAL_SERVER_URL": f"http://127.0.0.1:{proxy.port}"}
    caller = subprocess.Popen(
        [sys.executable, str(HERE / "caller.py"), str(INPUTS)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    storm.start()
    try:
        output, _ = caller.communicate(timeout=1400 if LONG else 240)
    finally:
        caller.kill()
        storm.calm()
    assert caller.returncode == 0, f"seed {SEED}, harms {storm.done}\n{output}\n{server.log_tail()}"
    assert storm.done, "nothing went wrong, so nothing was tested"
    check_books(server.data / "stoker.db", 4 * INPUTS)


def check_books(database: Path, inputs: int) -> None:
    """The database after the storm: each input once, each with exactly one output."""
    with sqlite3.connect(database) as connection:
        (stored,) = connection.execute("SELECT count(*) FROM inputs").fetchone()
        (answered,) = connection.execute("SELECT count(DISTINCT input_id) FROM outputs").fetchone()
        (orphans,) = connection.execute(
            "SELECT count(*) FROM outputs LEFT JOIN inputs ON inputs.id = outputs.input_id WHERE inputs.id IS NULL"
        ).fetchone()
        (doubled,) = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM inputs GROUP BY call_id, idx HAVING count(*) > 1)"
        ).fetchone()
        (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
    assert (stored, answered, orphans, doubled, integrity) == (inputs, inputs, 0, 0, "ok")

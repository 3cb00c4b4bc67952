"""Scheduled functions, deployed with the official client."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stoker.cli.client import find_server
from stoker.datadir import DataDir
from tests.conftest import RunningServer, start_server, stop_server

_APP = """
import time, modal
app = modal.App("clock")

@app.function(schedule=SCHEDULE, serialized=True, min_containers=1, max_containers=1)
def tick():
    with open(FILE, "a") as ticks:
        ticks.write(f"VERSION {time.time()}\\n")
"""


class Clock:
    """An app whose function writes a line at each run."""

    def __init__(self, server: RunningServer, directory: Path) -> None:
        self.server = server
        self.file = directory / "ticks"
        self.program = directory / "clock.py"

    def deploy(self, schedule: str, version: int = 1, *, check: bool = True) -> str:
        text = _APP.replace("SCHEDULE", schedule).replace("FILE", repr(str(self.file)))
        self.program.write_text(text.replace("VERSION", str(version)))
        done = self.server.modal("deploy", str(self.program), check=check)
        return done.stdout + done.stderr

    def call(self) -> None:
        """A run for no schedule, which ends after all that were begun before it."""
        self.server.python("import modal; modal.Function.from_name('clock', 'tick').remote()")

    def runs(self, version: int = 1) -> list[float]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [float(line.split()[1]) for line in lines if line.startswith(f"{version} ")]

    def plan(self) -> list[dict[str, Any]]:
        connection = find_server(DataDir(self.server.data))
        assert connection is not None
        plans: list[dict[str, Any]] = connection.get("/_stoker/status")["schedules"]
        return [p for p in plans if p["app"] == "clock"]


@pytest.fixture
def clock(server: RunningServer, tmp_path: Path) -> Iterator[Clock]:
    yield Clock(server, tmp_path)
    server.modal("app", "stop", "--yes", "clock", check=False)


def test_a_period_runs_is_replaced_restored_and_ends_with_its_app(clock: Clock) -> None:
    before = time.time()
    clock.deploy("modal.Period(seconds=1)")
    _wait_for(lambda: len(clock.runs()) >= 4)
    runs = clock.runs()
    assert runs[0] >= before + 1, "the first run is a period after the deployment"
    assert len(runs) <= time.time() - before, "no moment runs twice"
    (plan,) = clock.plan()
    assert plan["schedule"] == "every 1 second" and plan["function"] == "tick" and plan["next_at"] > before
    shown = clock.server.modal("app", "info", "clock").stdout
    assert "Every 1 second" in shown and "GPU" not in shown

    clock.deploy("modal.Cron('0 0 1 1 *', timezone='Europe/Berlin')", 2)
    (plan,) = clock.plan()
    assert plan["schedule"] == "0 0 1 1 * (Europe/Berlin)" and plan["last_at"] is None
    clock.call()
    counts = len(clock.runs()), len(clock.runs(2))
    time.sleep(2.2)
    assert (len(clock.runs()), len(clock.runs(2))) == counts

    clock.server.modal("app", "rollback", "clock", "v1")
    count = len(clock.runs())
    _wait_for(lambda: len(clock.runs()) >= count + 2)
    clock.server.modal("app", "stop", "--yes", "clock")
    assert clock.plan() == []


def test_cron_runs_in_its_seconds(clock: Clock) -> None:
    clock.deploy("modal.Cron('*/2 * * * * *')")
    _wait_for(lambda: len(clock.runs()) >= 2)
    (plan,) = clock.plan()
    assert plan["last_at"] % 2 == plan["next_at"] % 2 == 0


@pytest.mark.parametrize(
    "schedule, words",
    [
        ("modal.Cron('99 * * * *')", "'99 * * * *' is not a cron expression"),
        ("modal.Cron('* * * * *', timezone='Mars/Olympus')", "no time zone 'Mars/Olympus'"),
        ("modal.Period()", "longer than nothing"),
    ],
)
def test_a_schedule_without_meaning_is_refused_at_once(clock: Clock, schedule: str, words: str) -> None:
    said = " ".join(clock.deploy(schedule, check=False).split())
    assert words in said and "tick" in said, said
    assert clock.plan() == []


def test_a_missed_run_is_made_up_for_once(tmp_path: Path) -> None:
    server = start_server(tmp_path / "data", "process")
    try:
        clock = Clock(server, tmp_path)
        clock.deploy("modal.Period(hours=1)")
        (plan,) = clock.plan()
        os.kill(server.pid, signal.SIGKILL)
        _wait_for(lambda: not psutil.pid_exists(server.pid))
        # As if it had been away for two and a half hours, and had missed two runs.
        with contextlib.closing(sqlite3.connect(server.data / "stoker.db")) as database, database:
            database.execute("UPDATE apps SET deployed_at = deployed_at - 9000")
        for calls in (1, 2):  # and started again: that run is not repeated
            server = clock.server = start_server(tmp_path / "data", "process")
            clock.call()  # comes after all runs that were made up for
            assert len(clock.runs()) == 1 + calls
            assert clock.plan()[0]["next_at"] == pytest.approx(plan["next_at"] - 9000 + 2 * 3600, abs=0.01)
            stop_server(server)
    finally:
        stop_server(server)


def _wait_for(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)

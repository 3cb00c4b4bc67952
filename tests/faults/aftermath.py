"""What must be true after every storm: the books are right, the server answers, and nothing is left behind."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.conftest import STOKER, RunningServer
from tests.faults.app import lines_of
from tests.faults.processes import container_processes
from tests.faults.weather import wait_for

_UNFINISHED = (".incoming-*", "*.partial", "*.new", ".*.json.*")
"""Names of files that are being written."""


def check(server: RunningServer, inputs: int, *, url: str = "") -> None:
    """inputs: how many there were, of all functions. url: of the database, if it is not the server's own."""
    check_books(url or f"sqlite:///{server.data / 'stoker.db'}", inputs)
    check_that_it_answers(server)
    check_that_nothing_is_left(server)


def check_books(url: str, inputs: int) -> None:
    """The database after the storm: each input once, each with exactly one output."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:

        def ask(query: str) -> Any:
            return connection.execute(sa.text(query)).scalar_one()

        stored = ask("SELECT count(*) FROM inputs")
        answered = ask("SELECT count(DISTINCT input_id) FROM outputs")
        outputs = ask("SELECT count(*) FROM outputs")
        orphans = ask(
            "SELECT count(*) FROM outputs LEFT JOIN inputs ON inputs.id = outputs.input_id WHERE inputs.id IS NULL"
        )
        doubled = ask(
            "SELECT count(*) FROM (SELECT 1 FROM inputs GROUP BY call_id, idx HAVING count(*) > 1) AS doubled"
        )
        integrity = ask("PRAGMA integrity_check") if engine.dialect.name == "sqlite" else "ok"
    engine.dispose()
    assert (stored, answered, outputs, orphans, doubled, integrity) == (inputs, inputs, inputs, 0, 0, "ok")


def check_that_it_answers(server: RunningServer) -> None:
    program = "import modal; print(modal.Function.from_name('storm', 'plain').remote(7))"
    assert server.python(program).stdout.split("\n")[0] == "('plain', 7)"


def check_that_nothing_is_left(server: RunningServer) -> None:
    """Once the app is stopped."""
    server.modal("app", "stop", "--yes", "storm")
    wait_for(lambda: _held(server), ([], 0, 0))
    wait_for(lambda: [process.cmdline() for process in container_processes(server)], [])
    wait_for(lambda: sorted(_litter(server.data)), [])


def check_the_printing(url: str, inputs: int, *, repeated: bool = False) -> None:
    """All that `chatty` printed is in the log. repeated: inputs may have run more than once, the last time to the end."""
    engine = sa.create_engine(url)
    wanted = Counter(line for x in range(inputs) for line in lines_of(x))

    def lost() -> list[str]:
        return [line[:40] for line in (wanted - _printed(engine)).elements()]

    wait_for(lost, [])  # it comes a moment after the results
    if not repeated:
        assert [line[:40] for line in (_printed(engine) - wanted).elements()] == []
    engine.dispose()


def _printed(engine: sa.Engine) -> Counter[str]:
    """The lines in the log, by container."""
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT task_id, data FROM logs WHERE fd = 1 ORDER BY seq")).all()
    pieces: dict[str, list[str]] = {}
    for task_id, data in rows:
        pieces.setdefault(task_id, []).append(data)
    return Counter(line for text in pieces.values() for line in "".join(text).splitlines())


def _held(server: RunningServer) -> tuple[list[str], int, int]:
    """The containers, the leases and the processors that the server says it has given out."""
    command = [*STOKER, "status", "--json", "--data", str(server.data)]
    status = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    engine = status["engine"]
    return [container["id"] for container in status["containers"]], engine["leases"], engine["cpu_milli"]["requested"]


def _litter(data: Path) -> Iterator[str]:
    """What belongs to containers that are gone, and files that were begun and never ended."""
    for directory in ("run/tasks", "run/process/scratch", "run/runsc/containers", "kept"):
        if (data / directory).is_dir():
            yield from (str(path) for path in (data / directory).iterdir())
    for name in _UNFINISHED:
        yield from (str(path) for path in data.rglob(name))

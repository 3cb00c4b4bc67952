"""All cases of memory snapshots in real sandboxes; writes the table of docs/snapshots.md. Run by `make matrix-snapshots`, as root.

Ends with 1 when a case is not as its program says, and then leaves the case's line as it was. `--only` takes names of apps and of cases."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import APPS, start_server, stop_server
from tests.peer import peer
from tests.snapshots.cases import CasesApp

# Every app has an image of its own. The large ones come last.
PROGRAMS = (
    "snapshot-cases",
    "snapshot-system",
    "snapshot-libraries",
    "snapshot-models",
    "snapshot-torch",
    "snapshot-frameworks",
    "snapshot-vllm",
)
AT_ONCE = 6
PAGE = Path(__file__).parents[2] / "docs" / "snapshots.md"
BEGIN, END = "<!-- matrix: made by `make matrix-snapshots` -->\n", "<!-- end of the matrix -->\n"
_HEAD = "| What is open or running | Right answers | Restored |\n| --- | --- | --- |\n"
_CASES = """
import importlib, json, sys
apps = {name: importlib.import_module(name.replace("-", "_")).CASES for name in sys.argv[1:]}
print(json.dumps({app: {name: [c.what, c.answer, c.saved] for name, c in cases.items()} for app, cases in apps.items()}))
"""


@dataclass
class Row:
    """A case: what is to come, and what came. rounds: how many containers were asked; the first makes the snapshot."""

    name: str
    what: str
    answer: str
    saved: bool
    rounds: int = 0
    right: int = 0
    restored: int = 0
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        snapshot = f"{self.restored} of {self.rounds - 1}" if self.saved else "none, and the log says why"
        return f"| {self.what} | {self.right} of {self.rounds} | {snapshot} |\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make matrix-snapshots", description=__doc__)
    parser.add_argument("--only", default="", help=f"comma-separated names of cases, or of {', '.join(PROGRAMS)}")
    parser.add_argument("--restores", type=int, default=5, help="how many containers start from each snapshot")
    options = parser.parse_args(arguments)
    only, everything = set(filter(None, options.only.split(","))), all_rows()
    chosen = {app: [row for row in rows if not only or only & {app, row.name}] for app, rows in everything.items()}
    if unknown := only - everything.keys() - {row.name for rows in chosen.values() for row in rows}:
        parser.error(f"no app and no case is called {', '.join(sorted(unknown))}")
    for app, rows in chosen.items():
        if rows:
            run_app(app, rows, options.restores)
            PAGE.write_text(written(PAGE.read_text(), [row for rows in everything.values() for row in rows]))
    ran = [row for rows in chosen.values() for row in rows]
    faults = [f"{row.what}: {fault}" for row in ran for fault in row.faults]
    print("\n".join(faults) or f"All {len(ran)} cases are as they should be.")
    return 1 if faults else 0


def all_rows() -> dict[str, list[Row]]:
    """The cases of all apps, as they say themselves."""
    program = [sys.executable, "-c", _CASES, *PROGRAMS]
    said = json.loads(subprocess.run(program, cwd=APPS, capture_output=True, text=True, check=True).stdout)
    return {app: [Row(name, *about) for name, about in cases.items()] for app, cases in said.items()}


def run_app(name: str, rows: Sequence[Row], restores: int) -> None:
    """In a server of its own, so that the disk has room for the next image."""
    with tempfile.TemporaryDirectory() as place, peer() as address:
        server = start_server(Path(place) / "data", "runsc")
        try:
            app = CasesApp(server, name, Path(place))
            app.deploy(address)
            for start in range(0, len(rows), AT_ONCE):
                run(app, rows[start : start + AT_ONCE], restores)
        finally:
            stop_server(server)


def run(app: CasesApp, rows: Sequence[Row], restores: int) -> None:
    for number in range(restores + 1):
        answers = app.call(*(row.name for row in rows))
        for row in rows:
            note(row, answers[row.name], first=number == 0)
    for row in rows:
        reason = app.reason(row.name)
        print(row.line().strip(), reason, flush=True)
        if row.restored != (restores if row.saved else 0):
            row.faults.append(f"restored {row.restored} times. {reason}")


def note(row: Row, answer: dict[str, object], *, first: bool) -> None:
    row.rounds += 1
    row.right += answer["answer"] == row.answer
    row.restored += bool(answer["restored"])
    if answer["answer"] != row.answer or (first and answer["restored"]):
        row.faults.append(f"answered {answer} instead of {row.answer}")


def written(page: str, rows: Sequence[Row]) -> str:
    """The page with what came of the rows. Those that did not run, or not as they should, keep their lines or get one that says so."""
    before, _, rest = page.partition(BEGIN)
    table, _, after = rest.partition(END)
    return before + BEGIN + _HEAD + "".join(_lines(table, rows)) + END + after


def _lines(table: str, rows: Sequence[Row]) -> Iterator[str]:
    old = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines(keepends=True)}
    for row in rows:
        if row.rounds and not row.faults:
            yield row.line()
        else:
            yield old.get(row.what, f"| {row.what} | not shown yet | not shown yet |\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

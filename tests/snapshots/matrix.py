"""All cases of memory snapshots in real sandboxes; writes the table of docs/snapshots.md. Run by `make matrix-snapshots`, as root.

Ends with 1 when a case is not as its program says, and then leaves the table as it is."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import APPS, start_server, stop_server
from tests.peer import peer
from tests.snapshots.cases import CasesApp

ROUNDS = 3  # the first makes the snapshot
AT_ONCE = 6
PAGE = Path(__file__).parents[2] / "docs" / "snapshots.md"
BEGIN, END = "<!-- matrix: made by `make matrix-snapshots` -->\n", "<!-- end of the matrix -->\n"


@dataclass
class Row:
    """A case: what is to come, and what came."""

    name: str
    what: str
    answer: str
    saved: bool
    right: int = 0
    restored: int = 0
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        snapshot = f"{self.restored} of {ROUNDS - 1}" if self.saved else "none, and the log says why"
        return f"| {self.what} | {self.right} of {ROUNDS} | {snapshot} |\n"


def main() -> int:
    with tempfile.TemporaryDirectory() as name, peer() as address:
        server = start_server(Path(name) / "data", "runsc")
        try:
            rows = []
            for app_name in ("snapshot-cases", "snapshot-libraries"):
                app = CasesApp(server, app_name, Path(name))
                app.deploy(address)
                rows += run(app, rows_of(app_name))
        finally:
            stop_server(server)
    faults = [f"{row.what}: {fault}" for row in rows for fault in row.faults]
    print("\n".join(faults) or f"All {len(rows)} cases are as they should be.")
    if not faults:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        head = "| What is open or running | Right answers | Restored |\n| --- | --- | --- |\n"
        PAGE.write_text(before + BEGIN + head + "".join(row.line() for row in rows) + END + rest.partition(END)[2])
    return 1 if faults else 0


def rows_of(app_name: str) -> list[Row]:
    """The cases of an app, as it says itself."""
    program = [sys.executable, f"{app_name.replace('-', '_')}.py"]
    said = subprocess.run(program, cwd=APPS, capture_output=True, text=True, check=True).stdout
    return [Row(name, *about) for name, about in json.loads(said).items()]


def run(app: CasesApp, rows: list[Row]) -> list[Row]:
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        for number in range(ROUNDS):
            answers = app.call(*(row.name for row in some))
            for row in some:
                note(row, answers[row.name], first=number == 0)
        for row in some:
            reason = app.snapshot(row.name)["reason"]
            print(row.line().strip(), reason, flush=True)
            if row.restored != (ROUNDS - 1 if row.saved else 0):
                row.faults.append(f"restored {row.restored} times. {reason}")
    return rows


def note(row: Row, answer: dict[str, object], *, first: bool) -> None:
    row.right += answer["answer"] == row.answer
    row.restored += bool(answer["restored"])
    if answer["answer"] != row.answer or (first and answer["restored"]):
        row.faults.append(f"answered {answer} instead of {row.answer}")


if __name__ == "__main__":
    sys.exit(main())

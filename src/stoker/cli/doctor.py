"""`stoker doctor`: looks at the machine, says what is missing and why it is needed, and installs it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from stoker.cli import console
from stoker.cli.options import Data, Json, Runtime, load_settings
from stoker.doctor.check import State
from stoker.doctor.examination import Result, examine, fix

_MARKS = {State.OK: ("✓", "green"), State.WARNING: ("!", "yellow"), State.FAILED: ("✗", "bold red")}


def doctor(
    repair: Annotated[bool, typer.Option("--fix", help="Install what is missing (needs root).")] = False,
    data: Data = None,
    runtime: Runtime = None,
    json: Json = False,
) -> None:
    """Check that this machine can be a server. Exit code 1 when something needed is missing.

    With --fix it installs what is missing: packages by apt, and runsc into a directory of its own.

    Examples:

    - `stoker doctor`
    - `sudo stoker doctor --fix`
    - `stoker doctor --runtime process`: only what that runtime needs
    """
    settings = load_settings(data=data, runtime=runtime)
    results = examine(settings)
    faults: list[str] = []
    if repair and any(result.finding.state is State.FAILED and result.check.fixable for result in results):
        faults = fix(settings, results, _progress)
        results = examine(settings)
    if json:
        console.print_json(
            {"ok": _healthy(results), "checks": [_document(result) for result in results], "faults": faults}
        )
    else:
        _print(results, repaired=repair)
        for fault in faults:
            console.print_error(fault)
    if not _healthy(results):
        raise typer.Exit(1)


def _progress(line: str) -> None:
    console.err().print(Text(f"  {line}", style="dim"))


def _healthy(results: list[Result]) -> bool:
    return all(result.finding.state is not State.FAILED for result in results)


def _document(result: Result) -> dict[str, object]:
    finding = result.finding
    return {
        "name": result.check.name,
        "state": finding.state.value,
        "detail": finding.detail,
        "why": result.check.why,
        "advice": finding.advice,
        "fixable": result.check.fixable,
    }


def _print(results: list[Result], *, repaired: bool) -> None:
    out = console.out()
    for result in results:
        mark, style = _MARKS[result.finding.state]
        out.print(Text.assemble((mark, style), f" {result.check.name:<13} {result.finding.detail}"))
        out.print(Text(f"  {'':<13} {result.check.why}", style="dim"))
        if result.finding.advice:
            out.print(Text(f"  {'':<13} -> {result.finding.advice}"))
    failing = [result for result in results if result.finding.state is State.FAILED]
    if not failing:
        out.print(Text("This machine can be a server. Start it with `stoker up`.", style="bold"))
    elif not repaired and any(result.check.fixable for result in failing):
        out.print(
            Text(f"{len(failing)} thing(s) missing. `sudo stoker doctor --fix` installs what it can.", style="bold")
        )
    else:
        out.print(Text(f"{len(failing)} thing(s) missing.", style="bold"))

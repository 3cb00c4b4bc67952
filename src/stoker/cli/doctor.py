"""`stoker doctor`: looks at the machine, says what is missing and why it is needed, and installs it."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer
from rich.text import Text

from stoker.cli import console
from stoker.cli.options import Data, Json, Runtime, load_settings
from stoker.config import Settings
from stoker.doctor.check import State
from stoker.doctor.examination import Result, examine, fix
from stoker.doctor.gpu_verification import verify

_MARKS = {State.OK: ("✓", "green"), State.WARNING: ("!", "yellow"), State.FAILED: ("✗", "bold red")}


def doctor(
    repair: Annotated[bool, typer.Option("--fix", help="Install what is missing (needs root).")] = False,
    gpu: Annotated[
        bool,
        typer.Option("--gpu", help="Instead try this machine's GPU, up to a CUDA program in a sandbox (needs root)."),
    ] = False,
    data: Data = None,
    runtime: Runtime = None,
    json: Json = False,
) -> None:
    """Check that this machine can be a server. Exit code 1 when something needed is missing.

    With --fix it installs what is missing: packages by apt, and runsc into a directory of its own.

    With --gpu it looks at the driver, its devices and its libraries, runs a CUDA program in a sandbox, and saves and restores it with
    its GPU memory. It stops at what is missing; exit code 1 also when there is no GPU.

    Examples:

    - `stoker doctor`
    - `sudo stoker doctor --fix`
    - `stoker doctor --runtime process`: only what that runtime needs
    - `sudo stoker doctor --gpu`
    """
    settings = load_settings(data=data, runtime=runtime)
    if gpu:
        _verify_gpu(settings, json=json)
        return
    results = examine(settings)
    faults: list[str] = []
    if repair and any(result.finding.state is not State.OK and result.check.fixable for result in results):
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


def _verify_gpu(settings: Settings, *, json: bool) -> None:
    results: list[Result] = []

    async def look() -> None:
        async for result in verify(settings):
            results.append(result)
            if not json:
                _print_result(result)

    anyio.run(look)
    healthy = _healthy(results)
    if json:
        console.print_json({"ok": healthy, "checks": [_document(result) for result in results]})
    else:
        summary = "This machine's GPU can be used." if healthy else "This machine's GPU cannot be used as it is."
        console.out().print(Text(summary, style="bold"))
    if not healthy:
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
        _print_result(result)
    failing = [result for result in results if result.finding.state is State.FAILED]
    if not failing:
        out.print(Text("This machine can be a server. Start it with `stoker up`.", style="bold"))
    elif not repaired and any(result.check.fixable for result in failing):
        out.print(
            Text(f"{len(failing)} thing(s) missing. `sudo stoker doctor --fix` installs what it can.", style="bold")
        )
    else:
        out.print(Text(f"{len(failing)} thing(s) missing.", style="bold"))


def _print_result(result: Result) -> None:
    out = console.out()
    mark, style = _MARKS[result.finding.state]
    out.print(Text.assemble((mark, style), f" {result.check.name:<13} {result.finding.detail}"))
    out.print(Text(f"  {'':<13} {result.check.why}", style="dim"))
    if result.finding.advice:
        out.print(Text(f"  {'':<13} -> {result.finding.advice}"))

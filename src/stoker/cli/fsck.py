"""`stoker fsck`: whether what a server keeps on the disk is still what was stored."""

from __future__ import annotations

import logging
import sys
import time
from typing import Annotated

import structlog
import typer
from rich.live import Live
from rich.text import Text

from stoker.cli import console
from stoker.cli.options import Data, Json, load_settings
from stoker.cli.status import size
from stoker.config import Settings
from stoker.errors import InvalidArgument
from stoker.fsck.report import Problem, Report

Fix = Annotated[bool, typer.Option("--fix", help="Heal what can be healed. The server must not run.")]


def fsck(data: Data = None, fix: Fix = False, json: Json = False) -> None:
    """Check that the files of a data directory are still what was stored, and say what depends on those that are not.

    It reads everything that has digests: blobs, files sent with apps, uploaded files of Volumes, image layers, memory snapshots; and it looks
    at the database, its log, keys and records. Files that containers wrote into Volumes have no digests, nor has what versions before this
    one stored: these are counted as unknown. The server may run meanwhile. Nothing is changed without --fix.

    With --fix damaged snapshots, trees of mounts and records are removed, since they are made again; damaged images are removed, to be built
    again; damaged files of apps are put aside, to be sent again by the next deployment. What nobody has any more (blobs, files of Volumes,
    the database) must come from a backup: the server then answers for it with a clear error.

    Exit codes: 0 when nothing is damaged (any more), 1 when something is, or could not be looked at, 2 when used wrongly.

    Examples:

    - `stoker fsck`
    - `stoker down && stoker fsck --fix && stoker up --detach`
    - `stoker fsck --data /var/lib/stoker --json | jq '.problems[] | {kind, name, depends}'`
    """
    # Imported here: the other commands shall not wait for it.
    from stoker.fsck.examination import Examination

    # What is found is said by the report, once.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings, complaint = _settings(data)
    with _Progress(quiet=json) as progress:
        examination = Examination(settings, progress.show)
        report = examination.run()
    if complaint:
        report.found("settings", "stoker.toml", complaint, remedy="Correct it, or restore it from a backup.")
    if fix:
        examination.fix()
    if json:
        console.print_json(_document(settings, report, server=examination.server, fixed=fix))
    else:
        _print(settings, report, server=examination.server, fixed=fix)
    if report.damaged:
        raise typer.Exit(1)


def _settings(data: Data) -> tuple[Settings, str]:
    """The settings, and what is wrong with them: then those that the flag and the defaults give."""
    try:
        return load_settings(data=data), ""
    except InvalidArgument as error:
        if "stoker.toml" not in str(error):
            raise
        return Settings.without_file(data=data), str(error)


class _Progress:
    """A line on the terminal that says what is looked at; nothing elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._live = (
            None
            if quiet or not sys.stderr.isatty()
            else Live(console=console.err(), transient=True, auto_refresh=False)
        )
        self._shown = 0.0

    def __enter__(self) -> _Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._live is not None and now - self._shown > 0.1:
            self._shown = now
            count = f" {done:,} of {total:,}" if total else ""
            self._live.update(Text(f"Looking at {what}{count} ...", style="dim"), refresh=True)


def _document(settings: Settings, report: Report, *, server: bool, fixed: bool) -> dict[str, object]:
    return {
        "data": str(settings.data),
        "server": server,
        "fix": fixed,
        "damaged": report.damaged,
        "checked": dict(report.checked),
        "unknown": {kind: count for kind, count in report.unknown.items() if count},
        "read_bytes": report.bytes_read,
        "problems": [
            {
                "kind": p.kind,
                "name": p.name,
                "detail": p.detail,
                "depends": p.depends,
                "remedy": p.remedy,
                "fixable": p.heal is not None,
                "fixed": p.healed,
                "error": p.heal_error,
            }
            for p in report.problems
        ],
        "notes": report.notes,
    }


def _print(settings: Settings, report: Report, *, server: bool, fixed: bool) -> None:
    out = console.out()
    for problem in report.problems:
        _print_problem(problem, fixed=fixed)
    for note in report.notes:
        out.print(f"note: {note}", markup=False)
    counts = ", ".join(f"{count:,} {_plural(kind, count)}" for kind, count in sorted(report.checked.items()))
    out.print(f"Looked at {counts or 'nothing'} in {settings.data} ({size(report.bytes_read)} read).", markup=False)
    unknown = ", ".join(f"{count:,} {_plural(kind, count)}" for kind, count in sorted(report.unknown.items()) if count)
    if unknown:
        out.print(f"Without digests, so that nobody knows: {unknown}.", markup=False)
    healed = len(report.problems) - report.damaged
    if not report.problems:
        out.print(Text("Nothing is damaged.", style="green"))
        return
    out.print(Text(f"{report.damaged} damaged{f', {healed} healed' if healed else ''}.", style="bold"))
    fixable = sum(p.heal is not None and not p.healed for p in report.problems)
    if fixable and not fixed:
        stop = "Stop the server with `stoker down`, then " if server else ""
        verb = "run" if stop else "Run"
        out.print(f"{stop}{verb} `stoker fsck --fix` to heal {fixable} of them.", markup=False)


def _print_problem(problem: Problem, *, fixed: bool) -> None:
    out = console.out()
    mark = ("✓", "green") if problem.healed else ("✗", "bold red")
    out.print(Text.assemble(mark, f" {problem.kind} {problem.name}: {problem.detail}"))
    for depends in problem.depends[:10]:
        out.print(f"    needed by {depends}", markup=False)
    if len(problem.depends) > 10:
        out.print(f"    and {len(problem.depends) - 10} more", markup=False)
    if problem.healed:
        out.print("    healed", markup=False)
    elif problem.remedy:
        out.print(f"    {problem.remedy}", markup=False)
    if fixed and problem.heal_error:
        out.print(f"    could not be healed: {problem.heal_error}", markup=False)


def _plural(kind: str, count: int) -> str:
    return kind if count == 1 else f"{kind}s"

"""`stoker check`: advice on an app from its source, without running it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from stoker import __version__
from stoker.advice.check import Report, check_paths, choose
from stoker.advice.finding import Finding, Severity
from stoker.advice.rules import RULES
from stoker.advice.sarif import sarif as as_sarif
from stoker.advice.source import Source
from stoker.cli import console
from stoker.cli.options import Json
from stoker.errors import StokerError

_COLOURS = {Severity.NOTE: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}


class FailOn(str, enum.Enum):
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"
    NEVER = "never"


Select = Annotated[
    list[str] | None, typer.Option(metavar="RULES", help="Only these rules, by id or name, separated by commas.")
]
Ignore = Annotated[list[str] | None, typer.Option(metavar="RULES", help="All rules but these.")]


def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Files of apps, or directories to search.")
    ] = None,
    select: Select = None,
    ignore: Ignore = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="The least severe finding that makes the exit code 1.")
    ] = FailOn.WARNING,
    json: Json = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, as code hosts read it.")] = False,
    list_rules: Annotated[bool, typer.Option("--list", help="List the rules and end.")] = False,
) -> None:
    """Read apps without running them, and say what will cost time, money or secrets.

    Each finding names its place, why it matters, and the corrected lines. A comment `# stoker: ignore[STK004]` on a line leaves a
    finding out there, `# stoker: ignore-file[STK004]` in a whole file. Exit code: 0 when nothing was found, 1 when something at or
    above `--fail-on` was, 2 when a file could not be read or the command was used wrongly.

    Examples:

    - `stoker check app.py`
    - `stoker check src/ --ignore STK007,unpinned-packages --fail-on error`
    - `stoker check . --sarif > stoker.sarif`
    """
    if list_rules:
        _list_rules(json)
        return
    if json and sarif:
        raise typer.BadParameter("Choose one of --json and --sarif.")
    try:
        rules = choose(_split(select), _split(ignore))
        report = check_paths(paths or [Path(".")], rules)
    except StokerError as error:
        console.print_error(str(error))
        raise typer.Exit(2) from None
    if json:
        console.print_json(_document(report))
    elif sarif:
        console.print_json(as_sarif(report, rules, __version__))
    else:
        _print(report)
    for sentence in report.errors:
        console.print_error(sentence)
    if report.errors:
        raise typer.Exit(2)
    if fail_on is not FailOn.NEVER:
        least = Severity(fail_on.value)
        if any(finding.severity.rank >= least.rank for _, finding in report.findings):
            raise typer.Exit(1)


def _print(report: Report) -> None:
    out = console.out()
    for source, finding in report.findings:
        place = f"{source.path}:{finding.place.line}:{finding.place.column}"
        colour = _COLOURS[finding.severity]
        out.print(
            Text.assemble((place, "bold"), " ", (finding.severity.value, colour), f" {finding.rule} {finding.message}")
        )
        if finding.fix is not None:
            for line in finding.fix.diff(source).splitlines():
                out.print(Text(f"    {line}", style=_diff_colour(line)))
        if finding.help:
            out.print(Text(f"    {finding.help}"))
        out.print(Text(f"    {finding.url}", style="dim"))
        out.print()
    counts = {severity: sum(f.severity is severity for _, f in report.findings) for severity in reversed(Severity)}
    said = ", ".join(f"{count} {severity.value}{'s' * (count > 1)}" for severity, count in counts.items() if count)
    files = f"{len(report.files)} file{'s' * (len(report.files) != 1)}"
    if report.files:
        out.print(Text(f"{said} in {files}" if said else f"Nothing found in {files}"))


def _document(report: Report) -> dict[str, Any]:
    return {
        "files": [str(path) for path in report.files],
        "errors": report.errors,
        "findings": [_finding(source, finding) for source, finding in report.findings],
    }


def _finding(source: Source, finding: Finding) -> dict[str, Any]:
    """Lines and columns from 1, ends exclusive. `fix` is null, or has the edits and how they look as a diff."""
    rule = next(rule for rule in RULES if rule.id == finding.rule)
    place = finding.place
    fix = finding.fix and {
        "diff": finding.fix.diff(source),
        "edits": [
            {"start": source.position(edit.start), "end": source.position(edit.end), "text": edit.text}
            for edit in finding.fix.edits
        ],
    }
    return {
        "rule": finding.rule,
        "name": rule.name,
        "severity": finding.severity.value,
        "path": str(source.path),
        "line": place.line,
        "column": place.column,
        "end_line": place.end_line,
        "end_column": place.end_column,
        "message": finding.message,
        "help": finding.help,
        "fix": fix,
        "url": finding.url,
    }


def _list_rules(json: bool) -> None:
    if json:
        console.print_json([{"id": rule.id, "name": rule.name, "title": rule.title} for rule in RULES])
        return
    for rule in RULES:
        console.out().print(f"{rule.id}  {rule.name:<20} {rule.title}", markup=False)


def _split(given: list[str] | None) -> list[str]:
    return [name for text in given or [] for name in text.split(",") if name.strip()]


def _diff_colour(line: str) -> str:
    return {"+": "green", "-": "red", "@": "dim"}.get(line[:1], "")

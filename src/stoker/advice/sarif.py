"""The findings as SARIF 2.1.0, the format that code hosts show beside the lines of a change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from stoker.advice.check import Report
from stoker.advice.finding import DOCS, Finding, Severity
from stoker.advice.rules import Rule
from stoker.advice.source import Place, Source

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.NOTE: "note", Severity.WARNING: "warning", Severity.ERROR: "error"}


def sarif(report: Report, rules: Sequence[Rule], version: str) -> dict[str, Any]:
    """One run. Paths are relative to the working directory where they lie below it."""
    order = {rule.id: index for index, rule in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "stoker check",
                        "informationUri": DOCS,
                        "semanticVersion": version,
                        "rules": [
                            {
                                "id": rule.id,
                                "name": "".join(word.capitalize() for word in rule.name.split("-")),
                                "shortDescription": {"text": f"{rule.title}."},
                                "helpUri": f"{DOCS}#{rule.id.lower()}",
                            }
                            for rule in rules
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [
                    {
                        "executionSuccessful": not report.errors,
                        "toolExecutionNotifications": [
                            {"level": "error", "message": {"text": error}} for error in report.errors
                        ],
                    }
                ],
                "results": [_result(source, finding, order) for source, finding in report.findings],
            }
        ],
    }


def _result(source: Source, finding: Finding, order: dict[str, int]) -> dict[str, Any]:
    location = {"uri": _uri(source.path)}
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": order[finding.rule],
        "level": _LEVELS[finding.severity],
        "message": {"text": " ".join(filter(None, (finding.message, finding.help)))},
        "locations": [{"physicalLocation": {"artifactLocation": location, "region": _region(finding.place)}}],
    }
    if finding.fix is not None:
        replacements = []
        for edit in finding.fix.edits:
            (line, column), (end_line, end_column) = source.position(edit.start), source.position(edit.end)
            replacements.append(
                {
                    "deletedRegion": _region(Place(line, column, end_line, end_column)),
                    "insertedContent": {"text": edit.text},
                }
            )
        result["fixes"] = [
            {
                "description": {"text": "The corrected lines."},
                "artifactChanges": [{"artifactLocation": location, "replacements": replacements}],
            }
        ]
    return result


def _region(place: Place) -> dict[str, int]:
    return {
        "startLine": place.line,
        "startColumn": place.column,
        "endLine": place.end_line,
        "endColumn": place.end_column,
    }


def _uri(path: Path) -> str:
    absolute = path.resolve()
    if absolute.is_relative_to(Path.cwd()):
        return quote(str(PurePosixPath(absolute.relative_to(Path.cwd()))))
    return absolute.as_uri()

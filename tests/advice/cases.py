"""Checking a piece of source, and what every fix must hold to."""

from __future__ import annotations

import textwrap
from pathlib import Path

from stoker.advice.check import check_source
from stoker.advice.edits import apply
from stoker.advice.finding import Finding, Severity
from stoker.advice.source import Source


def source(text: str, path: str = "app.py") -> Source:
    return Source.parse(Path(path), textwrap.dedent(text).lstrip("\n"))


def check(text: str) -> list[Finding]:
    """The findings, after a look at their fixes: each leaves valid Python in which the finding is gone."""
    read = source(text)
    found = check_source(read)
    for finding in found:
        if finding.fix is not None:
            fixed = source(apply(read.text, finding.fix.edits))
            assert fixed.text != read.text
            count = [each.rule for each in found].count(finding.rule)
            assert [each.rule for each in check_source(fixed)].count(finding.rule) < count, fixed.text
    return found


def rules(text: str, least: Severity = Severity.NOTE) -> list[str]:
    """The ids of what is found, in the order of the text."""
    return [finding.rule for finding in check(text) if finding.severity.rank >= least.rank]


def only(text: str, rule: str) -> Finding:
    """The one finding of a rule."""
    found = [finding for finding in check(text) if finding.rule == rule]
    assert len(found) == 1, [finding.message for finding in found]
    return found[0]


def fixed(text: str, rule: str) -> str:
    """The source after the fix of the one finding of a rule."""
    finding = only(text, rule)
    assert finding.fix is not None
    return apply(source(text).text, finding.fix.edits)

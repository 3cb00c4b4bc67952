"""The rules against apps as people write them: what is said is right, and what is wrong is said."""

from __future__ import annotations

from functools import cache

from stoker.advice.check import check_source
from stoker.advice.edits import apply
from tests.advice.cases import source
from tests.advice.corpus import Written, apps

_LEAST = 300  # apps
_MOST_FALSE = 0.02  # of all that is said
_MOST_MISSED = 0.02  # of all that should be


@cache
def _said() -> list[tuple[Written, list[str]]]:
    found = []
    for app in apps():
        read = source(app.text)
        findings = check_source(read)
        for fix in (finding.fix for finding in findings if finding.fix is not None):
            source(apply(read.text, fix.edits))  # is Python
        found.append((app, [finding.rule for finding in findings]))
    return found


def test_hardly_anything_that_is_said_is_false() -> None:
    said = _said()
    assert len(said) >= _LEAST
    false = [f"{rule} of {app.name!r}, {app.style}" for app, rules in said for rule in rules if rule not in app.right]
    assert len(false) <= _MOST_FALSE * sum(len(rules) for _, rules in said), false


def test_hardly_anything_is_missed() -> None:
    said = _said()
    missed = [f"{rule} of {app.name!r}, {app.style}" for app, rules in said for rule in sorted(app.right - set(rules))]
    assert len(missed) <= _MOST_MISSED * sum(len(app.right) for app, _ in said), missed

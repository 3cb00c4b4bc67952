"""STK015: what Modal has and this server does not."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.finding import Finding, Severity
from stoker.advice.mentions import mentions
from stoker.advice.rules.base import Rule
from stoker.unoffered import FEATURES, Feature


def check(app: App) -> Iterator[Finding]:
    """One finding for a feature, where it is used first."""
    told: set[str] = set()
    for feature, node in _uses(app):
        if feature.title not in told:
            told.add(feature.title)
            yield Finding(RULE.id, Severity.ERROR, app.source.place(node), feature.refusal, help=feature.instead)


def _uses(app: App) -> Iterator[tuple[Feature, ast.expr | ast.keyword]]:
    for name, place in mentions(app.scope, app.source.tree):
        if not isinstance(place, ast.alias):  # what is only imported is not used
            yield from ((feature, place) for feature in FEATURES if _is(name, feature))
    for node in ast.walk(app.source.tree):
        if isinstance(node, ast.keyword) and node.arg and app.scope.value(node.value) not in (None, False, ""):
            yield from ((feature, node) for feature in FEATURES if node.arg in feature.options)


def _is(name: str, feature: Feature) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in feature.names)


RULE = Rule("STK015", "not-offered", "The server does not offer it", check)

"""STK002: there is a Volume, but the downloads go past it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice import edits
from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loaders import Cache
from stoker.advice.loads import may_hold_weights
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import cache_variable, downloads, keeps, variables
from stoker.advice.unit import Unit


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        # Without an image in sight nobody can say what its environment holds.
        if unit.image is None or not unit.mounts or may_hold_weights(app, unit) or _environment_is_hidden(unit):
            continue
        told: set[str] = set()
        for call, name, cache in downloads(app, unit):
            if cache.home not in told and not keeps(app, unit, cache, call):
                told.add(cache.home)
                yield _finding(app, unit, call, name, cache)


def _environment_is_hidden(unit: Unit) -> bool:
    """Whether variables may be set that the text does not show."""
    hidden = unit.image is not None and unit.image.sets_unknown_environment(unit.scope)
    return hidden or (unit.has("env") and not isinstance(unit.value("env"), dict))


def _finding(app: App, unit: Unit, call: ast.Call, name: str, cache: Cache) -> Finding:
    mounts = unit.mounts or []
    named = ("model", "cache", "weight", "hf", "hub")
    path = next((mount for mount in mounts if any(word in mount for word in named)), mounts[0])
    given = next((keyword for keyword in call.keywords if keyword.arg in cache.arguments), None)
    where = variables(app, unit, cache)
    fix, advice = None, ""
    if given is not None:
        said = f"The weights of `{unit.name}` go to {given.arg}={app.scope.value(given.value)}"
        fix = Fix(edits.set_options(app.source, call, {str(given.arg): f'"{path}"'}))
    elif where:
        variable, value = next(iter(where.items()))
        said = f"The weights of `{unit.name}` go to {variable}={value}"
        advice = f'Set {variable} to a path on a Volume, for example "{path}", or mount a Volume at "{value}".'
    else:
        said = f"`{unit.name}` has a Volume, but `{name}` keeps its downloads in {cache.home.replace('/root', '~', 1)}"
        if cache.variable:
            fix = _by_variable(app, unit, path, cache.variable)
        elif cache.arguments:
            fix = Fix(edits.set_options(app.source, call, {cache.arguments[0]: f'"{path}"'}))
    if fix is None and not advice:
        advice = f'Mount a Volume at "{cache.home}".'
    message = f"{said}, which is on none of its Volumes ({', '.join(mounts)}), and are lost with the container."
    if not where and given is None:
        message = f"{said}, which is not on it."
    return Finding(RULE.id, Severity.WARNING, app.source.place(call), message, fix, help=advice)


def _by_variable(app: App, unit: Unit, path: str, variable: str) -> Fix:
    change = cache_variable(app, unit, path, variable)
    if isinstance(change, str):
        return Fix(unit.set_options(app.source, {"env": change}))
    return Fix(change)


RULE = Rule("STK002", "cache-not-on-volume", "The download cache is not on the Volume", check)

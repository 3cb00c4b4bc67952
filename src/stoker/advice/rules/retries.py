"""STK007: one failure in a long run, and its work is gone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.rules.base import Rule
from stoker.advice.rules.media import makes_video
from stoker.advice.rules.volumes import modal

_LONG = 10 * 60  # seconds of timeout from which a call counts as long
_SPREADS = {"map", "starmap", "for_each", "spawn_map"}


def check(app: App) -> Iterator[Finding]:
    mapped = _mapped(app)
    for unit in app.units:
        if unit.has("retries") or unit.has("schedule") or not any(not method.web for method in unit.called):
            continue
        owners = (unit.name, "?") if unit.is_class else ("",)
        spread = any((owner, method.node.name) in mapped for owner in owners for method in unit.called)
        timeout = unit.value("timeout")
        long = (isinstance(timeout, (int, float)) and timeout >= _LONG) or makes_video(app, unit)
        if spread and (unit.uses_gpu or long):
            severity = Severity.WARNING
            message = f"`{unit.name}` is called for many inputs at once, and a single one that fails (a lost GPU, a download) raises in the caller and ends the whole run."
        elif long and unit.uses_gpu:
            severity = Severity.NOTE
            message = f"`{unit.name}` runs for minutes per call; when a container is lost or an error passes, the caller has to begin again."
        else:
            continue
        retries = f"{modal(app)}Retries(max_retries=3, initial_delay=1.0)"
        yield Finding(
            RULE.id,
            severity,
            app.source.place(unit.decorator),
            message,
            Fix(unit.set_options(app.source, {"retries": retries})),
        )


def _mapped(app: App) -> set[tuple[str, str]]:
    """What stands before `.map(` and the like anywhere in the module: class ("" for none, "?" for any) and function."""
    found = set()
    for node in ast.walk(app.source.tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        target = node.func
        if target.attr == "aio" and isinstance(target.value, ast.Attribute):
            target = target.value
        owner = target.value
        if target.attr not in _SPREADS:
            continue
        if isinstance(owner, ast.Name):
            found.add(("", owner.id))
        elif isinstance(owner, ast.Attribute):
            made = owner.value.func if isinstance(owner.value, ast.Call) else None
            found.add((made.id if isinstance(made, ast.Name) else "?", owner.attr))
    return found


RULE = Rule("STK007", "no-retries", "Long or many calls without retries", check)

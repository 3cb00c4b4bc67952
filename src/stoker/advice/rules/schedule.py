"""STK017: a schedule that means nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from stoker.advice.app import App
from stoker.advice.finding import Finding, Severity
from stoker.advice.rules.base import Rule
from stoker.advice.scope import UNKNOWN
from stoker.core import schedules

_UNITS = {field.name for field in fields(schedules.Period)}


def check(app: App) -> Iterator[Finding]:
    for node in ast.walk(app.source.tree):
        schedule = _schedule(app, node) if isinstance(node, ast.Call) else None
        fault = _fault(schedule) if schedule is not None else ""
        if fault and isinstance(node, ast.Call):
            advice = "A deployment with this schedule is refused. Write the moment in five fields, or use modal.Period."
            yield Finding(RULE.id, Severity.ERROR, app.source.place(node), fault, help=advice)


def _schedule(app: App, call: ast.Call) -> schedules.Schedule | None:
    """What `modal.Cron(...)` or `modal.Period(...)` stands for, when all its arguments can be told."""
    name = app.scope.dotted(call.func)
    values = [app.scope.value(argument) for argument in call.args]
    named: dict[str, Any] = {str(keyword.arg): app.scope.value(keyword.value) for keyword in call.keywords}
    if any(value is UNKNOWN for value in (*values, *named.values())) or "None" in named:
        return None
    if name == "modal.Cron":
        expression = named.get("cron_string", values[0] if values else None)
        zone = named.get("timezone", values[1] if len(values) > 1 else "UTC")
        return schedules.Cron(expression, zone) if isinstance(expression, str) and isinstance(zone, str) else None
    if name == "modal.Period" and not values:
        numbers: dict[str, Any] = {
            unit: value for unit, value in named.items() if unit in _UNITS and isinstance(value, (int, float))
        }
        return schedules.Period(**numbers) if numbers.keys() == named.keys() else None
    return None


def _fault(schedule: schedules.Schedule) -> str:
    fault = schedules.fault(schedule)
    if fault or isinstance(schedule, schedules.Period):
        return fault
    if schedules.next_run(schedule, 0.0, 0.0) is None:
        return f"{schedule.expression!r} names a day that no calendar has, so that it never runs."
    return ""


RULE = Rule("STK017", "bad-schedule", "The schedule means nothing", check)

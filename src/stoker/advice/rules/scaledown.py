"""STK003: a container of a GPU class goes too early or stays too long."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import loads_model
from stoker.advice.rules.base import Rule
from stoker.advice.unit import Unit

LEAST, MOST = 2, 60 * 60  # seconds; the client refuses others
SHORT, LONG = 60, 15 * 60  # seconds, for a GPU that holds a model
SHORT_RESTORED = 10  # a container restored from a memory snapshot is soon back


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        option = "scaledown_window"
        window = unit.value(option)
        if not isinstance(window, (int, float)) or isinstance(window, bool):
            continue
        advised = _judge(app, unit, window)
        if advised is None:
            continue
        severity, message, value = advised
        fix = Fix(unit.set_options(app.source, {option: value}))
        yield Finding(RULE.id, severity, app.source.place(unit.options[option]), message, fix)


def _judge(app: App, unit: Unit, window: float) -> tuple[Severity, str, str] | None:
    given = f"scaledown_window={window:g}"
    if not LEAST <= window <= MOST:
        value = "15 * 60" if window > MOST else str(LEAST)
        return Severity.ERROR, f"{given} is refused by the client, which takes {LEAST} to {MOST} seconds.", value
    if not unit.uses_gpu:
        return None
    loading = [method for method in unit.enters if loads_model(app, unit, method)]
    restored = unit.restores and any(method.runs_before_snapshot(app.scope) for method in loading)
    if restored and window < SHORT_RESTORED:
        return (
            Severity.NOTE,
            f"`{unit.name}` ends after {window:g} idle seconds, so nearly every caller waits for a container that is restored from its snapshot.",
            "60",
        )
    if loading and not restored and window < SHORT:
        return (
            Severity.WARNING,
            f"`{unit.name}` ends after {window:g} idle seconds, so nearly every caller waits for a container that loads the model anew.",
            "5 * 60",
        )
    if window > LONG:
        return (
            Severity.WARNING,
            f"`{unit.name}` keeps a GPU for {window / 60:.0f} minutes after its last call; that idle time is paid for.",
            "15 * 60",
        )
    return None


RULE = Rule("STK003", "scaledown-window", "The scaledown window does not fit", check)

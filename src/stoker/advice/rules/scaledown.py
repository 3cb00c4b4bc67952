"""STK003: a container of a GPU class goes too early or stays too long."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.advice import edits
from stoker.advice.app import App, Unit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import loads_model
from stoker.advice.rules.base import Rule

LEAST, MOST = 2, 60 * 60  # seconds; the client refuses others
SHORT, LONG = 60, 15 * 60  # seconds, for a GPU that holds a model
SHORT_RESTORED = 10  # a container restored from a memory snapshot is soon back


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        option = "scaledown_window"
        window = unit.value(option)
        if not isinstance(window, (int, float)) or isinstance(window, bool):
            continue
        advised = _judge(unit, window)
        if advised is None:
            continue
        severity, message, value = advised
        fix = Fix(edits.set_options(app.source, unit.decorator, {option: value})) if option in _own(unit) else None
        yield Finding(
            RULE.id,
            severity,
            app.source.place(unit.options[option]),
            message,
            fix,
            help=f"Set {option}={value}." if fix is None else "",
        )


def _judge(unit: Unit, window: float) -> tuple[Severity, str, str] | None:
    given = f"scaledown_window={window:g}"
    if not LEAST <= window <= MOST:
        value = "15 * 60" if window > MOST else str(LEAST)
        return Severity.ERROR, f"{given} is refused by the client, which takes {LEAST} to {MOST} seconds.", value
    if not unit.uses_gpu:
        return None
    restored = unit.value("enable_memory_snapshot") is True
    if window < (SHORT_RESTORED if restored else SHORT) and loads_model(unit):
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


def _own(unit: Unit) -> set[str]:
    return {keyword.arg for keyword in unit.decorator.keywords if keyword.arg}


RULE = Rule("STK003", "scaledown-window", "The scaledown window does not fit", check)

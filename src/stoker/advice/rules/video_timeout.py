"""STK006: a video takes longer than its call may."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import texts
from stoker.advice.rules.base import Rule
from stoker.advice.rules.media import makes_video
from stoker.advice.unit import Unit

DEFAULT, LEAST = 300, 10 * 60  # seconds
_COMFY_WAIT = re.compile(r"\bcomfy\b.*\brun\b.*--timeout[= ](\d+)", re.DOTALL)


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        timeout = unit.value("timeout")
        seconds = DEFAULT if timeout is None else timeout
        if not isinstance(seconds, (int, float)) or not unit.called:
            continue
        said = f"timeout={seconds:g}" if timeout is not None else f"the default timeout of {DEFAULT} seconds"
        if makes_video(app, unit) and seconds < LEAST:
            yield _finding(
                app,
                unit,
                Severity.WARNING,
                f"`{unit.name}` makes video under {said}; long or large ones take ten minutes and more.",
                LEAST,
            )
            continue
        waits = _waits_for_comfy(unit)
        if waits > seconds:
            yield _finding(
                app,
                unit,
                Severity.NOTE,
                f"`comfy run` in `{unit.name}` waits up to {waits} seconds, but {said} ends the call before.",
                waits,
            )


def _finding(app: App, unit: Unit, severity: Severity, message: str, seconds: int) -> Finding:
    value = f"{seconds // 60} * 60" if seconds % 60 == 0 else str(seconds)
    node = unit.options.get("timeout", unit.decorator)
    fix = Fix(unit.set_options(app.source, {"timeout": value}))
    return Finding(RULE.id, severity, app.source.place(node), message, fix)


def _waits_for_comfy(unit: Unit) -> int:
    """Seconds that the longest `comfy run --timeout` allows; 0 without one."""
    commands = [text for method in unit.methods for call in method.calls() for text in texts(unit.scope, call)]
    return max((int(found[1]) for text in commands if (found := _COMFY_WAIT.search(text))), default=0)


RULE = Rule("STK006", "timeout-too-short", "The timeout is too short for video", check)

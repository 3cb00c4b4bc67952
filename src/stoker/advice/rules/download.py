"""STK008: weights are fetched by hand while a container starts."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loaders import OLLAMA
from stoker.advice.loads import fetches, in_order, may_hold_weights
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import MODELS, keeps, mount
from stoker.advice.unit import Method, Unit


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        if unit.mounts is None or may_hold_weights(app, unit):
            continue
        starting = [method for method in unit.methods if method.is_enter or method.web == "web_server"]
        for method in starting:
            for call in in_order(app.calls(unit, method)):
                tool = fetches(app.scope, call)
                if tool and not _is_kept(app, unit, tool, call):
                    yield _finding(app, unit, method, tool, call)
                    break


def _is_kept(app: App, unit: Unit, tool: str, call: ast.Call) -> bool:
    """Whether it is written to a Volume. Only of Ollama the place is known; others are thought to use the Volume that there is."""
    if not _is_ollama(tool):
        return bool(unit.mounts)
    return keeps(app, unit, OLLAMA, call) or "OLLAMA_MODELS" in app.source.text


def _finding(app: App, unit: Unit, method: Method, tool: str, call: ast.Call) -> Finding:
    saved = unit.restores and method.runs_before_snapshot(app.scope)
    when = "whenever a memory snapshot is made" if saved else "at every cold start"
    message = f"`{method.node.name}` fetches weights with `{tool}` {when} of `{unit.name}`"
    if _is_ollama(tool):
        message += f", and keeps them in {OLLAMA.home.replace('/root', '~', 1)}, which is on no Volume."
        fix, advice = Fix(mount(app, unit, OLLAMA.home)), "Pull only what `ollama list` does not show."
    else:
        message += ", which has no Volume to keep them."
        fix = Fix(mount(app, unit, MODELS))
        advice = f'Let it write below "{MODELS}", skip what is there already, and commit the Volume after a download.'
    return Finding(RULE.id, Severity.WARNING, app.source.place(call), message, fix, help=advice)


def _is_ollama(tool: str) -> bool:
    return tool.startswith("ollama")


RULE = Rule("STK008", "download-at-start", "Weights are fetched while the container starts", check)

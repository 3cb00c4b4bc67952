"""STK001: weights come from a hub, and nothing keeps them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loaders import HUB
from stoker.advice.loads import may_hold_weights
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import MODELS, downloads, mount, variables
from stoker.advice.unit import Unit


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        if unit.mounts != [] or may_hold_weights(app, unit) or unit.name.startswith("download"):
            continue
        told: set[str] = set()
        for call, name, cache in downloads(app, unit):
            if cache.home in told:
                continue
            told.add(cache.home)
            given = [app.scope.value(keyword.value) for keyword in call.keywords if keyword.arg in cache.arguments]
            known = next((path for path in (*given, *variables(app, unit, cache).values()) if _is_place(path)), "")
            own_place = known or (MODELS if cache.variable == HUB.variable else cache.home)
            point = cache if own_place == MODELS and not known else None
            saved = _is_saved(app, unit, call)
            when = "for every memory snapshot" if saved else "in every new container"
            yield Finding(
                RULE.id,
                Severity.NOTE if saved else Severity.WARNING,
                app.source.place(call),
                f"`{name}` downloads its weights again {when} of `{unit.name}`, which has no Volume to keep them.",
                Fix(mount(app, unit, own_place, point=point)),
            )


def _is_saved(app: App, unit: Unit, call: ast.Call) -> bool:
    """Whether a memory snapshot has what the call loads, so that most containers do not make it."""
    saving = [method for method in unit.enters if unit.restores and method.runs_before_snapshot(app.scope)]
    return any(each is call for method in saving for each in app.calls(unit, method))


def _is_place(path: object) -> bool:
    return isinstance(path, str) and path.startswith("/")


RULE = Rule("STK001", "no-volume-cache", "Model weights are downloaded and not kept", check)

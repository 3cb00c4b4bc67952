"""STK001: weights come from a hub, and nothing keeps them."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import bakes_weights, loads
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import MODELS, caches, mount


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        if unit.mounts != [] or bakes_weights(app, unit):
            continue
        found = [
            load for method in unit.methods for load in loads(app.scope, method) if load.downloads and not load.small
        ]
        if not found or unit.node.name.startswith("download"):
            continue
        known = [path for path in caches(app, unit).values() if isinstance(path, str)]
        path = known[0] if known else MODELS
        yield Finding(
            RULE.id,
            Severity.WARNING,
            app.source.place(found[0].call),
            f"`{found[0].name}` downloads its weights again in every new container of `{unit.name}`, which has no Volume to keep them.",
            Fix(mount(app, unit, path, point_cache=not known)),
        )


RULE = Rule("STK001", "no-volume-cache", "Model weights are downloaded and not kept", check)

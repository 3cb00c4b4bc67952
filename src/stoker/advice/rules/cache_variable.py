"""STK002: there is a Volume, but the downloads go past it."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.advice import edits
from stoker.advice.app import App, Unit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.image import method
from stoker.advice.loads import bakes_weights, loads
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import cache_variable, caches, default_cache_is_mounted, under


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        mounts = unit.mounts
        # Without an image in sight nobody can say what its environment holds.
        if (
            not mounts
            or unit.image is None
            or not unit.image.complete
            or unit.image.sets_unknown_environment(app.scope)
        ):
            continue
        if unit.has("env") and not isinstance(unit.value("env"), dict):
            continue
        found = [
            load.call
            for each in unit.methods
            for load in loads(app.scope, each)
            if load.downloads
            and not load.small
            and not any(keyword.arg in _OWN_CACHE for keyword in load.call.keywords)
        ]
        where = caches(app, unit)
        if not found or default_cache_is_mounted(mounts) or any(under(path, mounts) for path in where.values()):
            continue
        if bakes_weights(app, unit):
            continue
        path = next(
            (mount for mount in mounts if any(word in mount for word in ("model", "cache", "weight", "hf", "hub"))),
            mounts[0],
        )
        if where:
            name, value = next(iter(where.items()))
            yield Finding(
                RULE.id,
                Severity.WARNING,
                app.source.place(found[0]),
                f"The weights of `{unit.name}` go to {name}={value}, which is on none of its Volumes ({', '.join(mounts)}), and are lost with the container.",
                help=f'Set {name} to a path on a Volume, for example "{path}", or mount a Volume at "{value}".',
            )
        else:
            yield Finding(
                RULE.id,
                Severity.WARNING,
                app.source.place(found[0]),
                f"`{unit.name}` has a Volume, but `{method(found[0])}` keeps its downloads in ~/.cache/huggingface, which is not on it.",
                _fix(app, unit, path),
            )


def _fix(app: App, unit: Unit, path: str) -> Fix:
    change = cache_variable(app, unit, path)
    if isinstance(change, str):
        return Fix(edits.set_options(app.source, unit.decorator, {"env": change}))
    return Fix(change)


_OWN_CACHE = {"cache_dir", "local_dir", "download_root", "cache_folder"}
RULE = Rule("STK002", "cache-not-on-volume", "The download cache is not on the Volume", check)

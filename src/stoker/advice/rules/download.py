"""STK008: weights are fetched by hand while a container starts."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import bakes_weights, fetches
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import MODELS, mount


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        if unit.mounts != [] or bakes_weights(app, unit):
            continue
        for method in unit.enters:
            for call in method.calls():
                tool = fetches(app.scope, call)
                if not tool:
                    continue
                yield Finding(
                    RULE.id,
                    Severity.WARNING,
                    app.source.place(call),
                    f"`{method.node.name}` fetches weights with `{tool}` at every cold start of `{unit.name}`, which has no Volume to keep them.",
                    Fix(mount(app, unit, MODELS)),
                    help=f'Let it write below "{MODELS}", skip what is there already, and commit the Volume after a download.',
                )
                break


RULE = Rule("STK008", "download-at-start", "Weights are fetched while the container starts", check)
